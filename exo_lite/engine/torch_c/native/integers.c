/* The integer engine: a decoder's layers, with a row's numbers the same bits however it is computed.

   A row is one token of one sequence. Rows of several sequences come in one call, some of prompts, some of answers. The
   result of a row depends on its own sequence alone: not on the rows beside it, nor on how its prompt was cut, nor on
   the number of threads, nor on the processor. Stages on other machines, and a replay after a loss, give the same bits.

   The layout. Weights are [n outputs, k inputs], cut into tiles of 16 outputs; a tile is one stream of memory:

       tile 0                                    tile 1
       +----------------+----------------+--     +----------------+--
       | inputs 0..3    | inputs 4..7    | ..    | inputs 0..3    | ..     int8: 64 bytes for four inputs, from
       | of outputs     | of outputs     |       | of outputs     |        which one vector instruction makes
       | 0, 1, .. 15    | 0, 1, .. 15    |       | 16, 17, .. 31  |        16 sums of 4 products
       +----------------+----------------+--     +----------------+--

   int4 has half of that, and a step and a minimum for each group of 32 inputs of an output, from which bytes are made
   again before they are multiplied. kernels.h has the formats, kv_layout.h those of the KV cache, and scratch memory is
   el_scratch.

       hidden [rows, hidden] float32
         -> rms_norm, quantize_input      bytes [rows, k, 1 or 2] and a scale per row
         -> gemm qkv                      qkv [rows, heads + 2 kv_heads, head_dim] float32
         -> rope_and_write_kv             keys and values in the cache
         -> attend_run                    x [rows, heads, head_dim]
         -> quantize_input, gemm output   added to hidden
         -> rms_norm, quantize_input, gemm gate_up, SwiGLU, quantize_input, gemm down: added to hidden

   The threads. One parallel region holds all layers. Every thread runs layer_rows with its own part of each operation:
   blocks of rows where activations are quantized, pairs of tiles in a gemm, pairs of a row (or a run of rows) and a
   key-value head in attention. A barrier stands between two operations; no operation adds to what another thread has.

   The order of sums. Integer sums are exact, so any order gives the same bits: gemv, gemm and their tiles may differ.
   A sum of floats rounds at each step, so each has one order, which no number of rows or threads changes:
     - a norm, or a softmax's denominator, adds in 16 lanes, then the lanes by hsum;
     - a score adds over head_dim in ascending order, one token in each lane;
     - an attention output adds over tokens in ascending order, one dimension in each lane;
     - outputs of a gemm are rounded to float once, scaled, and then biased or added.
   No product is contracted with a sum behind our back (-ffp-contract=off); where a fused multiply-add is wanted, fma16
   says so. Therefore GCC and clang, AVX-512, AVX2, NEON and plain C give the same bits; tests compare them. */
#include "integer_attention.h"
#include "integer_gemm.h"

/* A call's rows, and the runs that attention cuts them into. */
typedef struct {
    float *hidden; /* [rows, hidden] */
    const el_row *where;
    int rows, runs;
} el_batch;

static void layer_rows(
    const el_model *m, const el_layer *layer, const el_batch *batch, const el_scratch *s, el_thread t) {
    int rows = batch->rows, kv_heads = m->kv_heads, dim = m->head_dim, hidden_size = m->hidden;
    int q_size = m->heads * dim, qkv_size = q_size + 2 * kv_heads * dim, inner = padded(m->intermediate, LANES);
    float *hidden = batch->hidden;

    /* 1. The input of attention, normed and quantized. */
    el_input attention_input = {hidden, rows, hidden_size, layer->attention_norm, m->eps};
    el_activations x = quantize_input(&layer->qkv, attention_input, s, t);
#pragma omp barrier

    /* 2. Queries, keys and values of all heads. */
    gemm(&layer->qkv, &x, (el_output){s->qkv, qkv_size, STORE}, s, t);
#pragma omp barrier

    /* 3. Positions into queries and keys; keys and values into the cache, before any row attends to them. */
    for (int task = t.index; task < rows * kv_heads; task += t.count) {
        int row = task / kv_heads, kv_head = task % kv_heads;
        rope_and_write_kv(m, layer, batch->where[row], kv_head, s->qkv + (int64_t)row * qkv_size);
    }
#pragma omp barrier

    /* 4. Attention. Neighbouring tasks are about as long, so threads take them in turn. */
    float *scores = s->scores + (int64_t)t.index * EL_QUERIES * padded(m->context, EL_BLOCK);
    for (int task = t.index; task < batch->runs * kv_heads; task += t.count) {
        const int32_t *start = s->run_starts + task / kv_heads;
        attend_run(m, layer, batch->where, (el_range){start[0], start[1]}, task % kv_heads, s, scores);
    }
#pragma omp barrier

    /* 5. Attention's output, added to the hidden states. */
    x = quantize_input(&layer->output, (el_input){s->x, rows, q_size, NULL, 0.0f}, s, t);
#pragma omp barrier
    gemm(&layer->output, &x, (el_output){hidden, hidden_size, ADD}, s, t);
#pragma omp barrier

    /* 6. The input of the MLP, normed and quantized. */
    x = quantize_input(&layer->gate_up, (el_input){hidden, rows, hidden_size, layer->mlp_norm, m->eps}, s, t);
#pragma omp barrier

    /* 7. Gates and ups, joined to silu(gate) * up as soon as a pair of tiles is there. */
    gemm(&layer->gate_up, &x, (el_output){s->x, inner, SWIGLU}, s, t);
#pragma omp barrier

    /* 8. The MLP's output, added to the hidden states. */
    x = quantize_input(&layer->down, (el_input){s->x, rows, inner, NULL, 0.0f}, s, t);
#pragma omp barrier
    gemm(&layer->down, &x, (el_output){hidden, hidden_size, ADD}, s, t);
#pragma omp barrier
}

/* All layers over rows, hidden [rows, hidden] in place. */
EXPORT void el_forward(
    const el_model *m, float *hidden, int rows, const el_row *where, const el_scratch *s, int threads) {
    el_batch batch = {hidden, where, rows, cut_runs(m, where, rows, s->run_starts)};
#pragma omp parallel num_threads(threads)
    for (int i = 0; i < m->num_layers; i++) layer_rows(m, m->layers + i, &batch, s, this_thread());
}

/* y [rows, n] = W x for x [rows, k], normed first where `norm` is given. */
EXPORT void el_linear_rows(
    const el_linear *w, const float *x, const float *norm, float eps, int rows, float *y, const el_scratch *s,
    int threads) {
#pragma omp parallel num_threads(threads)
    {
        el_thread t = this_thread();
        el_activations quantized = quantize_input(w, (el_input){x, rows, w->k, norm, eps}, s, t);
#pragma omp barrier
        gemm(w, &quantized, (el_output){y, w->n, STORE}, s, t);
    }
}
