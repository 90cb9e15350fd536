/* Attention of the integer engine, in float32 over a cache of any type: exact in that each sum has one order. */
#ifndef EXO_LITE_INTEGER_ATTENTION_H
#define EXO_LITE_INTEGER_ATTENTION_H

#include "float_types.h"
#include "kv_layout.h"
#include "threads.h"

#define BLOCK_VECTORS (EL_BLOCK / LANES)
#define VALUE_VECTORS 4 /* of a head's dimensions, summed at once */

/* ---- keys and values into the cache ------------------------------------------------------------------------------ */

/* Rotate one head in place by its position (Su et al. 2021, arXiv:2104.09864), half-split layout. */
static void rope(const el_model *m, float *x, int position) {
    int half = m->head_dim / 2;
    const float *cos = m->cos + (int64_t)position * half, *sin = m->sin + (int64_t)position * half;
    for (int i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cos[i] - b * sin[i];
        x[i + half] = b * cos[i] + a * sin[i];
    }
}

/* Norm and rotate a key and the queries that share it, in place in qkv, and put key and value into the cache. */
static void rope_and_write_kv(const el_model *m, const el_layer *layer, el_row row, int kv_head, float *qkv) {
    int group = m->heads / m->kv_heads, dim = m->head_dim;
    float *queries = qkv + (int64_t)kv_head * group * dim;
    float *key = qkv + (int64_t)(m->heads + kv_head) * dim;
    float *value = qkv + (int64_t)(m->heads + m->kv_heads + kv_head) * dim;

    if (layer->qk_norm) {
        const float *norms = layer->qk_norm + (int64_t)kv_head * group * dim;
        for (int g = 0; g < group; g++)
            rms_norm(queries + g * dim, norms + (int64_t)g * dim, dim, m->eps, queries + g * dim);
        rms_norm(key, layer->qk_norm + (int64_t)(m->heads + kv_head) * dim, dim, m->eps, key);
    }
    for (int g = 0; g < group; g++) rope(m, queries + g * dim, row.position);
    rope(m, key, row.position);

    int64_t block = block_at(m, row.sequence, kv_head, row.position), token = row.position % EL_BLOCK;
    for (int i = 0; i < dim; i++) {
        store_element(m->kv_type, layer->keys, key_at(block, token, i), key[i]);
        store_element(m->kv_type, layer->values, value_at(block, token, dim) + i, value[i]);
    }
}

/* ---- scores, softmax, values ------------------------------------------------------------------------------------- */

/* A few queries of one sequence and one key-value head. */
typedef struct {
    int sequence, kv_head, longest; /* longest: of the lengths */
    const float *query[EL_QUERIES];
    float *out[EL_QUERIES];
    int length[EL_QUERIES]; /* tokens that each attends to */
} el_queries;

/* The scores of `count` queries with the tokens of one block, scaled: scores[query][token]. */
INLINE void score_block(
    const el_model *m, const void *keys, const el_queries *q, int start, int count, int kv_type, float *scores,
    int stride) {
    int64_t block = block_at(m, q->sequence, q->kv_head, start);
    float scale = 1.0f / sqrtf((float)m->head_dim);
    f32x16 sums[EL_QUERIES][BLOCK_VECTORS];
    for (int j = 0; j < count; j++)
        for (int c = 0; c < BLOCK_VECTORS; c++) sums[j][c] = splat(0.0f);

    for (int i = 0; i < m->head_dim; i++) {
        f32x16 key[BLOCK_VECTORS];
        for (int c = 0; c < BLOCK_VECTORS; c++) key[c] = load_elements(kv_type, keys, key_at(block, c * LANES, i));
        for (int j = 0; j < count; j++)
            for (int c = 0; c < BLOCK_VECTORS; c++) sums[j][c] = fma16(splat(q->query[j][i]), key[c], sums[j][c]);
    }
    for (int j = 0; j < count; j++)
        for (int c = 0; c < BLOCK_VECTORS; c++)
            store(scores + (int64_t)j * stride + start + c * LANES, sums[j][c] * splat(scale));
}

/* `vectors` vectors of the outputs from dimension `first` on: the values' sum, weighted, in the order of tokens. */
INLINE void sum_values(
    const el_model *m, const void *values, const el_queries *q, int count, int first, int vectors, int kv_type,
    const float *weights, int stride, const float *inverse) {
    f32x16 sums[EL_QUERIES][VALUE_VECTORS];
    for (int j = 0; j < count; j++)
        for (int c = 0; c < vectors; c++) sums[j][c] = splat(0.0f);

    for (int start = 0; start < q->longest; start += EL_BLOCK) {
        int64_t at = value_at(block_at(m, q->sequence, q->kv_head, start), 0, m->head_dim) + first;
        int end = q->longest < start + EL_BLOCK ? q->longest : start + EL_BLOCK;
        for (int p = start; p < end; p++, at += m->head_dim) {
            f32x16 value[VALUE_VECTORS];
            for (int c = 0; c < vectors; c++) value[c] = load_elements(kv_type, values, at + c * LANES);
            for (int j = 0; j < count; j++)
                for (int c = 0; c < vectors; c++)
                    sums[j][c] = fma16(splat(weights[(int64_t)j * stride + p]), value[c], sums[j][c]);
        }
    }
    for (int j = 0; j < count; j++)
        for (int c = 0; c < vectors; c++) store(q->out[j] + first + c * LANES, sums[j][c] * splat(inverse[j]));
}

INLINE void attend(
    const el_model *m, const el_layer *layer, const el_queries *q, int count, int kv_type, float *scores) {
    int stride = padded(m->context, EL_BLOCK);
    float inverse[EL_QUERIES];
    for (int start = 0; start < q->longest; start += EL_BLOCK)
        score_block(m, layer->keys, q, start, count, kv_type, scores, stride);
    for (int j = 0; j < count; j++)
        inverse[j] = 1.0f / softmax_numerators(scores + (int64_t)j * stride, q->length[j], q->longest);

    int first = 0;
    for (; first + VALUE_VECTORS * LANES <= m->head_dim; first += VALUE_VECTORS * LANES)
        sum_values(m, layer->values, q, count, first, VALUE_VECTORS, kv_type, scores, stride, inverse);
    for (; first < m->head_dim; first += LANES)
        sum_values(m, layer->values, q, count, first, 1, kv_type, scores, stride, inverse);
}

#define ATTEND_CASE(COUNT) \
    case COUNT: \
        if (m->kv_type == EL_FLOAT32) attend(m, layer, q, COUNT, EL_FLOAT32, scores); \
        else if (m->kv_type == EL_BFLOAT16) attend(m, layer, q, COUNT, EL_BFLOAT16, scores); \
        else attend(m, layer, q, COUNT, EL_FLOAT16, scores); \
        break;

static void attend_of_count(const el_model *m, const el_layer *layer, const el_queries *q, int count, float *scores) {
    switch (count) {
        ATTEND_CASE(1)
        ATTEND_CASE(2)
        ATTEND_CASE(3)
        ATTEND_CASE(4)
    }
}
_Static_assert(EL_QUERIES == 4, "attend_of_count has a case for each");

/* ---- runs of rows ------------------------------------------------------------------------------------------------ */

/* Cut rows into runs of one sequence, as long as fill EL_QUERIES with the queries of a key-value head. Returns their
   number; run i is [starts[i], starts[i + 1]). */
static int cut_runs(const el_model *m, const el_row *where, int rows, int32_t *starts) {
    int group = m->heads / m->kv_heads, longest = group < EL_QUERIES ? EL_QUERIES / group : 1, runs = 0;
    for (int r = 0; r < rows; r++) {
        int is_new = runs == 0 || where[r].sequence != where[r - 1].sequence || r - starts[runs - 1] >= longest;
        if (is_new) starts[runs++] = r;
    }
    starts[runs] = rows;
    return runs;
}

/* The queries of a run of rows that share a key-value head: from qkv to x. */
static void attend_run(
    const el_model *m, const el_layer *layer, const el_row *where, el_range run, int kv_head, const el_scratch *s,
    float *scores) {
    int group = m->heads / m->kv_heads, dim = m->head_dim, q_size = m->heads * dim;
    int qkv_size = q_size + 2 * m->kv_heads * dim, total = (run.end - run.start) * group;
    for (int first = 0; first < total; first += EL_QUERIES) {
        int count = total - first < EL_QUERIES ? total - first : EL_QUERIES;
        el_queries q = {.sequence = where[run.start].sequence, .kv_head = kv_head};
        for (int j = 0; j < count; j++) {
            int r = run.start + (first + j) / group, column = (kv_head * group + (first + j) % group) * dim;
            q.query[j] = s->qkv + (int64_t)r * qkv_size + column;
            q.out[j] = s->x + (int64_t)r * q_size + column;
            q.length[j] = where[r].position + 1;
            q.longest = q.length[j] > q.longest ? q.length[j] : q.longest;
        }
        attend_of_count(m, layer, &q, count, scores);
    }
}

#endif
