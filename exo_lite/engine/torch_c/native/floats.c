/* Layers of float weights for few rows, as in decoding: one call instead of a dozen per layer, at the memory's pace.

   Every operation rounds to the model's own type where torch's does, so that a token's numbers are those of the path
   through torch but for the order of sums. What stands between operations is float32 that holds such rounded numbers. */
#include "common.h"

INLINE float rounded(int type, float x) {
    return type == EL_FLOAT32 ? x : type == EL_BFLOAT16 ? from_bfloat(to_bfloat(x)) : from_half(to_half(x));
}

INLINE v16 rounded16(int type, v16 v) {
    if (type == EL_FLOAT32) return v;
#ifdef EL_AVX512
    if (type == EL_FLOAT16) return (v16)_mm512_cvtph_ps(_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
#endif
    if (type == EL_BFLOAT16) {
        i16v bits = bits_of(v);
        return of_bits((bits + 0x7fff + ((bits >> 16) & 1)) & (int32_t)0xffff0000);
    }
    for (int i = 0; i < LANES; i++) v[i] = rounded(type, v[i]);
    return v;
}

/* ---- linears ----------------------------------------------------------------------------------------------------- */

/* 32 numbers from element i on, each type's in an order of its own: so long as both factors come in it. */
INLINE void read_pair(int type, const void *from, int64_t i, v16 *a, v16 *b) {
#ifdef EL_AVX512
    if (type == EL_BFLOAT16) { /* the even ones and the odd ones: no byte moves */
        i16v both = *(const i16v *)((const uint16_t *)from + i);
        *a = of_bits(both << 16);
        *b = of_bits(both & (int32_t)0xffff0000);
        return;
    }
#endif
    *a = read_cells(type, from, i);
    *b = read_cells(type, from, i + LANES);
}

/* 16 numbers that are rounded already. */
INLINE void write_cells(int type, void *to, int64_t i, v16 v) {
    if (type == EL_FLOAT32) store((float *)to + i, v);
    else
        for (int j = 0; j < LANES; j++) write_cell(type, to, i + j, v[j]);
}

/* sums[r] of one output channel for `rows` rows of x [rows, k]: one stream through the weights, as memory likes it. */
INLINE void float_channel(const void *weight, int64_t at, int k, const void *x, int64_t x_at, int rows, int type, float *sums) {
    v16 parts[QUERIES][4];
    for (int r = 0; r < rows; r++)
        for (int u = 0; u < 4; u++) parts[r][u] = splat(0.0f);
    for (int i = 0; i < k; i += 4 * LANES)
        for (int u = 0; u < 4 && i + u * LANES < k; u += 2) {
            v16 a, b;
            read_pair(type, weight, at + i + u * LANES, &a, &b);
            for (int r = 0; r < rows; r++) {
                v16 c, d;
                read_pair(type, x, x_at + (int64_t)r * k + i + u * LANES, &c, &d);
                parts[r][u] = fma16(a, c, parts[r][u]);
                parts[r][u + 1] = fma16(b, d, parts[r][u + 1]);
            }
        }
    for (int r = 0; r < rows; r++) sums[r] = sum16((parts[r][0] + parts[r][1]) + (parts[r][2] + parts[r][3]));
}

#define CHANNEL_CASE(ROWS) \
    case ROWS: \
        if (type == EL_FLOAT32) float_channel(weight, at, k, x, x_at, ROWS, EL_FLOAT32, sums); \
        else if (type == EL_BFLOAT16) float_channel(weight, at, k, x, x_at, ROWS, EL_BFLOAT16, sums); \
        else float_channel(weight, at, k, x, x_at, ROWS, EL_FLOAT16, sums); \
        break;

static void float_channel_of(
    const void *weight, int64_t at, int k, const void *x, int64_t x_at, int rows, int type, float *sums) {
    switch (rows) {
        CHANNEL_CASE(1)
        CHANNEL_CASE(2)
        CHANNEL_CASE(3)
        CHANNEL_CASE(4)
    }
}

typedef enum { ROUND, ADD } el_finish;

/* This part's channels of W x + b for rows x, rounded, to y [rows, n], or rounded again after being added to it. Every
   weight is fetched once. */
static void float_linear(
    const el_float_linear *w, int type, const void *x, int rows, el_finish how, float *y, int part, int parts) {
    int from, to;
    share(w->n, part, parts, &from, &to);
    for (int channel = from; channel < to; channel++)
        for (int r = 0; r < rows; r += QUERIES) {
            float sums[QUERIES], bias = w->bias ? read_cell(type, w->bias, channel) : 0.0f;
            int count = rows - r < QUERIES ? rows - r : QUERIES;
            float_channel_of(w->weight, (int64_t)channel * w->k, w->k, x, (int64_t)r * w->k, count, type, sums);
            for (int i = 0; i < count; i++) {
                float *to_y = y + (int64_t)(r + i) * w->n + channel, value = rounded(type, sums[i] + bias);
                *to_y = how == ADD ? rounded(type, *to_y + value) : value;
            }
        }
}

/* ---- norms, rotation, attention ---------------------------------------------------------------------------------- */

/* y = x / rms(x) * weight from element `to` of y on, rounded after each of the two; y is of type y_type. */
INLINE void float_norm(
    const void *weight, int64_t at, int type, const float *x, int n, float eps, int y_type, void *y, int64_t to) {
    v16 squares = splat(0.0f);
    for (int i = 0; i < n; i += LANES) squares += load(x + i) * load(x + i);
    v16 inverse = splat(1.0f / sqrtf(sum16(squares) / (float)n + eps));
    for (int i = 0; i < n; i += LANES) {
        v16 value = rounded16(type, rounded16(type, load(x + i) * inverse) * read_cells(type, weight, at + i));
        write_cells(y_type, y, to + i, value);
    }
}

static void float_rotate(const el_float_model *m, float *x, int position) {
    int half = m->head_dim / 2, type = m->type;
    int64_t at = (int64_t)position * half;
    for (int i = 0; i < half; i++) {
        float a = x[i], b = x[i + half], cos = read_cell(type, m->cos, at + i), sin = read_cell(type, m->sin, at + i);
        x[i] = rounded(type, rounded(type, a * cos) - rounded(type, b * sin));
        x[i + half] = rounded(type, rounded(type, b * cos) + rounded(type, a * sin));
    }
}

INLINE int64_t token_at(const el_float_model *m, int slot, int head, int position) {
    int64_t block = m->tables[(int64_t)slot * m->blocks_per_slot + position / EL_BLOCK];
    return ((int64_t)head * m->cache_tokens + block * EL_BLOCK + position % EL_BLOCK) * m->head_dim;
}

/* Norm and rotate one query, or a key that goes into the cache with its value. head counts queries, then keys. */
static void float_enter(const el_float_model *m, const el_float_layer *layer, el_row row, int head, float *qkv) {
    int dim = m->head_dim, type = m->type;
    float *x = qkv + (int64_t)head * dim;
    if (layer->qk_norm) float_norm(layer->qk_norm, (int64_t)head * dim, type, x, dim, m->eps, EL_FLOAT32, x, 0);
    float_rotate(m, x, row.position);
    if (head < m->heads) return;
    const float *value = x + (int64_t)m->kv_heads * dim;
    int64_t at = token_at(m, row.slot, head - m->heads, row.position);
    for (int i = 0; i < dim; i++) {
        write_cell(type, layer->keys, at + i, x[i]);
        write_cell(type, layer->values, at + i, value[i]);
    }
}

/* Attention of one query head over the cached tokens up to its own, from element `to` of out on. */
INLINE void float_attend(
    const el_float_model *m, const el_float_layer *layer, el_row row, int head, const float *query, float *scores, int type,
    void *out, int64_t to) {
    int dim = m->head_dim, length = row.position + 1, kv_head = head / (m->heads / m->kv_heads);
    float shrink = 1.0f / sqrtf((float)dim);
    for (int start = 0; start < length; start += EL_BLOCK) {
        int64_t at = token_at(m, row.slot, kv_head, start);
        int end = length < start + EL_BLOCK ? length : start + EL_BLOCK;
        for (int j = start; j < end; j++, at += dim) {
            v16 sum = splat(0.0f);
            for (int i = 0; i < dim; i += LANES) sum = fma16(load(query + i), read_cells(type, layer->keys, at + i), sum);
            scores[j] = sum16(sum) * shrink;
        }
    }
    v16 inverse = splat(1.0f / soften(scores, length, length));
    for (int j = 0; j < length; j += LANES) store(scores + j, rounded16(type, load(scores + j)));
    for (int i = 0; i < dim; i += LANES) {
        v16 sum = splat(0.0f);
        for (int start = 0; start < length; start += EL_BLOCK) {
            int64_t at = token_at(m, row.slot, kv_head, start) + i;
            int end = length < start + EL_BLOCK ? length : start + EL_BLOCK;
            for (int j = start; j < end; j++, at += dim) sum = fma16(splat(scores[j]), read_cells(type, layer->values, at), sum);
        }
        write_cells(type, out, to + i, rounded16(type, sum * inverse));
    }
}

/* ---- the layers -------------------------------------------------------------------------------------------------- */

INLINE void float_layer(
    const el_float_model *m, const el_float_layer *layer, float *hidden, int rows, const el_row *where,
    const el_float_scratch *s, int type, int part, int parts) {
    int dim = m->head_dim, qkv_size = (m->heads + 2 * m->kv_heads) * dim, inner = layer->down.k;
    for (int r = part; r < rows; r += parts)
        float_norm(layer->attention_norm, 0, type, hidden + (int64_t)r * m->hidden, m->hidden, m->eps, type, s->x, (int64_t)r * m->hidden);
#pragma omp barrier
    float_linear(&layer->qkv, type, s->x, rows, ROUND, s->wide, part, parts);
#pragma omp barrier
    int heads = m->heads + m->kv_heads;
    for (int task = part; task < rows * heads; task += parts)
        float_enter(m, layer, where[task / heads], task % heads, s->wide + (int64_t)(task / heads) * qkv_size);
#pragma omp barrier
    float *scores = s->scores + (int64_t)part * padded(m->context, EL_BLOCK);
    for (int task = part; task < rows * m->heads; task += parts) {
        int r = task / m->heads, head = task % m->heads;
        const float *query = s->wide + (int64_t)r * qkv_size + (int64_t)head * dim;
        float_attend(m, layer, where[r], head, query, scores, type, s->x, ((int64_t)r * m->heads + head) * dim);
    }
#pragma omp barrier
    float_linear(&layer->output, type, s->x, rows, ADD, hidden, part, parts);
#pragma omp barrier
    for (int r = part; r < rows; r += parts)
        float_norm(layer->mlp_norm, 0, type, hidden + (int64_t)r * m->hidden, m->hidden, m->eps, type, s->x, (int64_t)r * m->hidden);
#pragma omp barrier
    float_linear(&layer->gate_up, type, s->x, rows, ROUND, s->wide, part, parts);
#pragma omp barrier
    for (int task = part; task < rows * (inner / LANES); task += parts) {
        int r = task / (inner / LANES), i = task % (inner / LANES) * LANES;
        const float *gate = s->wide + (int64_t)r * 2 * inner + i;
        v16 gated = rounded16(type, rounded16(type, silu(load(gate))) * load(gate + inner));
        write_cells(type, s->x, (int64_t)r * inner + i, gated);
    }
#pragma omp barrier
    float_linear(&layer->down, type, s->x, rows, ADD, hidden, part, parts);
#pragma omp barrier
}

#define TYPE_CASES(CALL) \
    if (m->type == EL_FLOAT32) CALL(EL_FLOAT32); \
    else if (m->type == EL_BFLOAT16) CALL(EL_BFLOAT16); \
    else CALL(EL_FLOAT16)

/* All layers over a few rows; hidden [rows, hidden], in the model's type, in place. */
EXPORT void el_float_forward(
    const el_float_model *m, void *hidden, int rows, const el_row *where, const el_float_scratch *s, int threads) {
    for (int64_t i = 0; i < (int64_t)rows * m->hidden; i += LANES) store(s->hidden + i, read_cells(m->type, hidden, i));
#pragma omp parallel num_threads(threads)
    for (int i = 0; i < m->num_layers; i++) {
#define LAYER(TYPE) float_layer(m, m->layers + i, s->hidden, rows, where, s, TYPE, PART, PARTS)
        TYPE_CASES(LAYER);
    }
    for (int64_t i = 0; i < (int64_t)rows * m->hidden; i++) write_cell(m->type, hidden, i, s->hidden[i]);
}

/* y [rows, n] = W x + b, all of one type; k a multiple of 32; wide: room for [rows, n]. */
EXPORT void el_float_linear_rows(
    const el_float_linear *w, int type, const void *x, int rows, float *wide, void *y, int threads) {
#pragma omp parallel num_threads(threads)
    float_linear(w, type, x, rows, ROUND, wide, PART, PARTS);
    for (int64_t i = 0; i < (int64_t)rows * w->n; i++) write_cell(type, y, i, wide[i]);
}
