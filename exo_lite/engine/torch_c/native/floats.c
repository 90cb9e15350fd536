/* The float engine for few rows, as in decoding: a call instead of a dozen per layer, as fast as memory is.

   Every operation rounds to the model's own type where torch's does, so that a row's numbers are those of the path
   through torch but for the order of sums. What stands between operations is float32 that holds such rounded numbers.

   Threads and barriers are as in integers.c. A row's sums here too have one order, whatever is computed beside it; but
   torch computes the prompts, in an order of its own, so a token's bits depend on which of the two computed it. */
#include "float_types.h"
#include "kv_layout.h"
#include "threads.h"

/* ---- linears ----------------------------------------------------------------------------------------------------- */

/* 32 numbers from element i on, each type's in an order of its own: that is enough where both factors come in it. */
INLINE void load_pair(int type, const void *from, int64_t i, f32x16 *a, f32x16 *b) {
#ifdef EL_AVX512
    if (type == EL_BFLOAT16) { /* the even ones and the odd ones: no byte moves */
        i32x16 both = *(const i32x16 *)((const uint16_t *)from + i);
        *a = from_bits(both << 16);
        *b = from_bits(both & (int32_t)0xffff0000);
        return;
    }
#endif
    *a = load_elements(type, from, i);
    *b = load_elements(type, from, i + LANES);
}

/* sums[r] of one output channel for `rows` rows of x: the weights [k] begin at element `at`, x [rows, k] at `x_at`. One
   stream through the weights, as memory likes it. */
INLINE void gemv(
    const void *weight, int64_t at, int k, const void *x, int64_t x_at, int rows, int type, float *sums) {
    f32x16 chains[EL_QUERIES][4]; /* of sums, which do not wait for each other */
    for (int r = 0; r < rows; r++)
        for (int u = 0; u < 4; u++) chains[r][u] = splat(0.0f);

    for (int i = 0; i < k; i += 4 * LANES)
        for (int u = 0; u < 4 && i + u * LANES < k; u += 2) {
            f32x16 a, b;
            load_pair(type, weight, at + i + u * LANES, &a, &b);
            for (int r = 0; r < rows; r++) {
                f32x16 c, d;
                load_pair(type, x, x_at + (int64_t)r * k + i + u * LANES, &c, &d);
                chains[r][u] = fma16(a, c, chains[r][u]);
                chains[r][u + 1] = fma16(b, d, chains[r][u + 1]);
            }
        }
    for (int r = 0; r < rows; r++) sums[r] = hsum((chains[r][0] + chains[r][1]) + (chains[r][2] + chains[r][3]));
}

#define ROWS_CASE(ROWS) \
    case ROWS: \
        if (type == EL_FLOAT32) gemv(weight, at, k, x, x_at, ROWS, EL_FLOAT32, sums); \
        else if (type == EL_BFLOAT16) gemv(weight, at, k, x, x_at, ROWS, EL_BFLOAT16, sums); \
        else gemv(weight, at, k, x, x_at, ROWS, EL_FLOAT16, sums); \
        break;

static void gemv_of(
    const void *weight, int64_t at, int k, const void *x, int64_t x_at, int rows, int type, float *sums) {
    switch (rows) {
        ROWS_CASE(1)
        ROWS_CASE(2)
        ROWS_CASE(3)
        ROWS_CASE(4)
    }
}
_Static_assert(EL_QUERIES == 4, "gemv_of has a case for each");

typedef enum { STORE, ADD } el_epilogue; /* what happens to an output: y = , y += */

/* This thread's channels of W x + bias for rows x, rounded, to y [rows, n], or rounded again after being added to it.
   Every weight is fetched once. */
static void gemm(
    const el_float_linear *w, int type, const void *x, int rows, el_epilogue epilogue, float *y, el_thread t) {
    el_range channels = partition(w->n, t.index, t.count);
    for (int channel = channels.start; channel < channels.end; channel++)
        for (int r = 0; r < rows; r += EL_QUERIES) {
            float sums[EL_QUERIES], bias = w->bias ? load_element(type, w->bias, channel) : 0.0f;
            int count = rows - r < EL_QUERIES ? rows - r : EL_QUERIES;
            gemv_of(w->weight, (int64_t)channel * w->k, w->k, x, (int64_t)r * w->k, count, type, sums);
            for (int i = 0; i < count; i++) {
                float *to_y = y + (int64_t)(r + i) * w->n + channel, value = rounded(type, sums[i] + bias);
                *to_y = epilogue == ADD ? rounded(type, *to_y + value) : value;
            }
        }
}

/* ---- norms, rotation, attention ---------------------------------------------------------------------------------- */

/* y = x / rms(x) * weight from element `to` of y on, rounded after each of the two; y is of type y_type. */
INLINE void rms_norm_rounded(
    const void *weight, int64_t at, int type, const float *x, int n, float eps, int y_type, void *y, int64_t to) {
    f32x16 squares = splat(0.0f);
    for (int i = 0; i < n; i += LANES) squares += load(x + i) * load(x + i);
    f32x16 inverse_rms = splat(1.0f / sqrtf(hsum(squares) / (float)n + eps));
    for (int i = 0; i < n; i += LANES) {
        f32x16 normed = rounded16(type, load(x + i) * inverse_rms);
        store_elements(y_type, y, to + i, rounded16(type, normed * load_elements(type, weight, at + i)));
    }
}

/* Rotate one head in place by its position, half-split layout. */
static void rope(const el_float_model *m, float *x, int position) {
    int half = m->head_dim / 2, type = m->type;
    int64_t at = (int64_t)position * half;
    for (int i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        float cos = load_element(type, m->cos, at + i), sin = load_element(type, m->sin, at + i);
        x[i] = rounded(type, rounded(type, a * cos) - rounded(type, b * sin));
        x[i + half] = rounded(type, rounded(type, b * cos) + rounded(type, a * sin));
    }
}

/* Norm and rotate one query, or a key, which goes into the cache with its value. `head` counts queries, then keys. */
static void rope_and_write_kv(const el_float_model *m, const el_float_layer *layer, el_row row, int head, float *qkv) {
    int dim = m->head_dim, type = m->type;
    float *x = qkv + (int64_t)head * dim;
    if (layer->qk_norm) rms_norm_rounded(layer->qk_norm, (int64_t)head * dim, type, x, dim, m->eps, EL_FLOAT32, x, 0);
    rope(m, x, row.position);
    if (head < m->heads) return;

    const float *value = x + (int64_t)m->kv_heads * dim;
    int64_t at = float_token_at(m, row.sequence, head - m->heads, row.position);
    for (int i = 0; i < dim; i++) {
        store_element(type, layer->keys, at + i, x[i]);
        store_element(type, layer->values, at + i, value[i]);
    }
}

/* Attention of one query head over the cached tokens up to its own, from element `to` of out on. */
INLINE void attend(
    const el_float_model *m, const el_float_layer *layer, el_row row, int head, const float *query, float *scores,
    int type, void *out, int64_t to) {
    int dim = m->head_dim, length = row.position + 1, kv_head = head / (m->heads / m->kv_heads);
    float scale = 1.0f / sqrtf((float)dim);
    for (int start = 0; start < length; start += EL_BLOCK) {
        int64_t at = float_token_at(m, row.sequence, kv_head, start);
        int end = length < start + EL_BLOCK ? length : start + EL_BLOCK;
        for (int j = start; j < end; j++, at += dim) {
            f32x16 sum = splat(0.0f);
            for (int i = 0; i < dim; i += LANES)
                sum = fma16(load(query + i), load_elements(type, layer->keys, at + i), sum);
            scores[j] = hsum(sum) * scale;
        }
    }

    f32x16 inverse = splat(1.0f / softmax_numerators(scores, length, length));
    for (int j = 0; j < length; j += LANES) store(scores + j, rounded16(type, load(scores + j)));

    for (int i = 0; i < dim; i += LANES) {
        f32x16 sum = splat(0.0f);
        for (int start = 0; start < length; start += EL_BLOCK) {
            int64_t at = float_token_at(m, row.sequence, kv_head, start) + i;
            int end = length < start + EL_BLOCK ? length : start + EL_BLOCK;
            for (int j = start; j < end; j++, at += dim)
                sum = fma16(splat(scores[j]), load_elements(type, layer->values, at), sum);
        }
        store_elements(type, out, to + i, rounded16(type, sum * inverse));
    }
}

/* ---- the layers -------------------------------------------------------------------------------------------------- */

/* A call's rows. */
typedef struct {
    float *hidden; /* [rows, hidden] */
    const el_row *where;
    int rows;
} el_batch;

/* This thread's rows of hidden, normed, to x. */
INLINE void norm_rows(
    const el_float_model *m, const void *weight, const el_batch *batch, const el_float_scratch *s, int type,
    el_thread t) {
    for (int r = t.index; r < batch->rows; r += t.count) {
        int64_t at = (int64_t)r * m->hidden;
        rms_norm_rounded(weight, 0, type, batch->hidden + at, m->hidden, m->eps, type, s->x, at);
    }
}

INLINE void layer_rows(
    const el_float_model *m, const el_float_layer *layer, const el_batch *batch, const el_float_scratch *s, int type,
    el_thread t) {
    int rows = batch->rows, dim = m->head_dim, qkv_size = (m->heads + 2 * m->kv_heads) * dim, inner = layer->down.k;

    /* 1. Queries, keys and values of all heads, from normed hidden states. */
    norm_rows(m, layer->attention_norm, batch, s, type, t);
#pragma omp barrier
    gemm(&layer->qkv, type, s->x, rows, STORE, s->wide, t);
#pragma omp barrier

    /* 2. Positions into queries and keys; keys and values into the cache, before any row attends to them. */
    int heads = m->heads + m->kv_heads;
    for (int task = t.index; task < rows * heads; task += t.count) {
        int r = task / heads;
        rope_and_write_kv(m, layer, batch->where[r], task % heads, s->wide + (int64_t)r * qkv_size);
    }
#pragma omp barrier

    /* 3. Attention. */
    float *scores = s->scores + (int64_t)t.index * padded(m->context, EL_BLOCK);
    for (int task = t.index; task < rows * m->heads; task += t.count) {
        int r = task / m->heads, head = task % m->heads;
        const float *query = s->wide + (int64_t)r * qkv_size + (int64_t)head * dim;
        attend(m, layer, batch->where[r], head, query, scores, type, s->x, ((int64_t)r * m->heads + head) * dim);
    }
#pragma omp barrier

    /* 4. Attention's output, added to the hidden states. */
    gemm(&layer->output, type, s->x, rows, ADD, batch->hidden, t);
#pragma omp barrier

    /* 5. Gates and ups of the MLP, from normed hidden states. */
    norm_rows(m, layer->mlp_norm, batch, s, type, t);
#pragma omp barrier
    gemm(&layer->gate_up, type, s->x, rows, STORE, s->wide, t);
#pragma omp barrier

    /* 6. silu(gate) * up, rounded after each of the two. */
    for (int task = t.index; task < rows * (inner / LANES); task += t.count) {
        int r = task / (inner / LANES), i = task % (inner / LANES) * LANES;
        const float *gate = s->wide + (int64_t)r * 2 * inner + i;
        f32x16 gated = rounded16(type, rounded16(type, silu(load(gate))) * load(gate + inner));
        store_elements(type, s->x, (int64_t)r * inner + i, gated);
    }
#pragma omp barrier

    /* 7. The MLP's output, added to the hidden states. */
    gemm(&layer->down, type, s->x, rows, ADD, batch->hidden, t);
#pragma omp barrier
}

/* All layers over a few rows; hidden [rows, hidden], in the model's type, in place. */
EXPORT void el_float_forward(
    const el_float_model *m, void *hidden, int rows, const el_row *where, const el_float_scratch *s, int threads) {
    int64_t size = (int64_t)rows * m->hidden;
    el_batch batch = {s->hidden, where, rows};
    for (int64_t i = 0; i < size; i += LANES) store(s->hidden + i, load_elements(m->type, hidden, i));
#pragma omp parallel num_threads(threads)
    for (int i = 0; i < m->num_layers; i++) {
        el_thread t = this_thread();
        if (m->type == EL_FLOAT32) layer_rows(m, m->layers + i, &batch, s, EL_FLOAT32, t);
        else if (m->type == EL_BFLOAT16) layer_rows(m, m->layers + i, &batch, s, EL_BFLOAT16, t);
        else layer_rows(m, m->layers + i, &batch, s, EL_FLOAT16, t);
    }
    for (int64_t i = 0; i < size; i++) store_element(m->type, hidden, i, s->hidden[i]);
}

/* y [rows, n] = W x + bias, all of one type; k a multiple of 32; wide: scratch for [rows, n]. */
EXPORT void el_float_linear_rows(
    const el_float_linear *w, int type, const void *x, int rows, float *wide, void *y, int threads) {
#pragma omp parallel num_threads(threads)
    gemm(w, type, x, rows, STORE, wide, this_thread());
    for (int64_t i = 0; i < (int64_t)rows * w->n; i++) store_element(type, y, i, wide[i]);
}
