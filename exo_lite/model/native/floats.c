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

#define CHANNELS 4 /* multiplied at once, so that a row's inputs are loaded once for all of them */

/* sums[channel][row] of some channels for `rows` rows of x, float32 [k / 16, rows, 16]; channels, rows and type are
   constants where this is inlined. */
INLINE void float_channels(
    const void *weight, int64_t at, int k, const float *x, int channels, int rows, int type, float sums[][QUERIES]) {
    v16 parts[CHANNELS][QUERIES];
    for (int c = 0; c < channels; c++)
        for (int r = 0; r < rows; r++) parts[c][r] = splat(0.0f);
    for (int i = 0; i < k; i += LANES, x += rows * LANES) {
        v16 inputs[QUERIES];
        for (int r = 0; r < rows; r++) inputs[r] = load(x + r * LANES);
        for (int c = 0; c < channels; c++) {
            v16 w = read_cells(type, weight, at + (int64_t)c * k + i);
            for (int r = 0; r < rows; r++) parts[c][r] = fma16(w, inputs[r], parts[c][r]);
        }
    }
    for (int c = 0; c < channels; c++)
        for (int r = 0; r < rows; r++) sums[c][r] = sum16(parts[c][r]);
}

#define CHANNELS_CASE(ROWS) \
    case ROWS: \
        if (type == EL_FLOAT32) float_channels(weight, at, k, x, channels, ROWS, EL_FLOAT32, sums); \
        else if (type == EL_BFLOAT16) float_channels(weight, at, k, x, channels, ROWS, EL_BFLOAT16, sums); \
        else float_channels(weight, at, k, x, channels, ROWS, EL_FLOAT16, sums); \
        break;

INLINE void float_channels_of(
    const void *weight, int64_t at, int k, const float *x, int channels, int rows, int type, float sums[][QUERIES]) {
    switch (rows) {
        CHANNELS_CASE(1)
        CHANNELS_CASE(2)
        CHANNELS_CASE(3)
        CHANNELS_CASE(4)
    }
}

/* Where element i of row r of `rows` stands: QUERIES rows at a time lie together, 16 of the one, 16 of the next. */
INLINE int64_t woven(int rows, int k, int r, int i) {
    int first = r / QUERIES * QUERIES, count = rows - first < QUERIES ? rows - first : QUERIES;
    return (int64_t)first * k + (int64_t)i * count + (r - first) * LANES;
}

typedef enum { ROUND, ADD } el_finish;

/* This part's channels of W x + b for woven rows x, rounded, to y [rows, n], or rounded again after being added to it.
   Every weight is fetched once. */
static void float_linear(
    const el_float_linear *w, int type, const float *x, int rows, el_finish how, float *y, int part, int parts) {
    int from, to, k = w->k, n = w->n;
    share((n + CHANNELS - 1) / CHANNELS, part, parts, &from, &to);
    for (int channel = from * CHANNELS; channel < to * CHANNELS && channel < n; channel += CHANNELS)
        for (int r = 0; r < rows; r += QUERIES) {
            float sums[CHANNELS][QUERIES];
            int count = rows - r < QUERIES ? rows - r : QUERIES, channels = n - channel < CHANNELS ? n - channel : CHANNELS;
            const float *inputs = x + (int64_t)r * k;
            int64_t at = (int64_t)channel * k;
            if (channels == CHANNELS) float_channels_of(w->weight, at, k, inputs, CHANNELS, count, type, sums);
            else
                for (int c = 0; c < channels; c++)
                    float_channels_of(w->weight, at + (int64_t)c * k, k, inputs, 1, count, type, sums + c);
            for (int c = 0; c < channels; c++)
                for (int i = 0; i < count; i++) {
                    float *to_y = y + (int64_t)(r + i) * n + channel + c;
                    float value = rounded(type, sums[c][i] + (w->bias ? read_cell(type, w->bias, channel + c) : 0.0f));
                    *to_y = how == ADD ? rounded(type, *to_y + value) : value;
                }
        }
}

/* ---- norms, rotation, attention ---------------------------------------------------------------------------------- */

/* y = x / rms(x) * weight, rounded after each of the two; y is woven, or a plain row where rows is 0. */
static void float_norm(const void *weight, int64_t at, int type, const float *x, int n, float eps, float *y, int rows, int r) {
    v16 squares = splat(0.0f);
    for (int i = 0; i < n; i += LANES) squares += load(x + i) * load(x + i);
    v16 inverse = splat(1.0f / sqrtf(sum16(squares) / (float)n + eps));
    for (int i = 0; i < n; i += LANES) {
        v16 value = rounded16(type, rounded16(type, load(x + i) * inverse) * read_cells(type, weight, at + i));
        store(y + (rows ? woven(rows, n, r, i) : i), value);
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
    if (layer->qk_norm) float_norm(layer->qk_norm, (int64_t)head * dim, type, x, dim, m->eps, x, 0, 0);
    float_rotate(m, x, row.position);
    if (head < m->heads) return;
    const float *value = x + (int64_t)m->kv_heads * dim;
    int64_t at = token_at(m, row.slot, head - m->heads, row.position);
    for (int i = 0; i < dim; i++) {
        write_cell(type, layer->keys, at + i, x[i]);
        write_cell(type, layer->values, at + i, value[i]);
    }
}

/* Attention of one query head over the cached tokens up to its own, to columns of a woven row. */
INLINE void float_attend(
    const el_float_model *m, const el_float_layer *layer, el_row row, int head, const float *query, float *scores, int type,
    float *out, int rows, int r) {
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
        store(out + woven(rows, m->heads * dim, r, head * dim + i), rounded16(type, sum * inverse));
    }
}

/* ---- the layers -------------------------------------------------------------------------------------------------- */

INLINE void float_layer(
    const el_float_model *m, const el_float_layer *layer, float *hidden, int rows, const el_row *where,
    const el_float_scratch *s, int type, int part, int parts) {
    int dim = m->head_dim, qkv_size = (m->heads + 2 * m->kv_heads) * dim, inner = layer->down.k;
    for (int r = part; r < rows; r += parts)
        float_norm(layer->attention_norm, 0, type, hidden + (int64_t)r * m->hidden, m->hidden, m->eps, s->x, rows, r);
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
        float_attend(m, layer, where[r], head, query, scores, type, s->x, rows, r);
    }
#pragma omp barrier
    float_linear(&layer->output, type, s->x, rows, ADD, hidden, part, parts);
#pragma omp barrier
    for (int r = part; r < rows; r += parts)
        float_norm(layer->mlp_norm, 0, type, hidden + (int64_t)r * m->hidden, m->hidden, m->eps, s->x, rows, r);
#pragma omp barrier
    float_linear(&layer->gate_up, type, s->x, rows, ROUND, s->wide, part, parts);
#pragma omp barrier
    for (int task = part; task < rows * (inner / LANES); task += parts) {
        int r = task / (inner / LANES), i = task % (inner / LANES) * LANES;
        const float *gate = s->wide + (int64_t)r * 2 * inner + i;
        store(s->x + woven(rows, inner, r, i), rounded16(type, rounded16(type, silu(load(gate))) * load(gate + inner)));
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

/* y [rows, n] = W x + b, all of one type; k a multiple of 16; woven_x: room for [rows, k], wide: for [rows, n]. */
EXPORT void el_float_linear_rows(
    const el_float_linear *w, int type, const void *x, int rows, float *woven_x, float *wide, void *y, int threads) {
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < w->k; i += LANES)
            store(woven_x + woven(rows, w->k, r, i), read_cells(type, x, (int64_t)r * w->k + i));
#pragma omp parallel num_threads(threads)
    float_linear(w, type, woven_x, rows, ROUND, wide, PART, PARTS);
    for (int64_t i = 0; i < (int64_t)rows * w->n; i++) write_cell(type, y, i, wide[i]);
}
