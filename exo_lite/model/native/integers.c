/* The exact engine for processors: integer linears, and norms, rotation and attention that work row by row.

   A row's numbers depend on that row's own sequence alone. Integer sums are exact in any order; every sum of floats
   runs in a fixed order, whatever the number of rows or threads, and is compiled without contraction, so that a
   token's result is the same bit for bit in a batch, alone, in a prompt and when it is replayed. */
#include "common.h"

#define MAX_Q16 32512.0f /* 127 * 256: the high byte of a quantized activation fits an int8 */
#define MAX_Q8 127.0f
#define WEIGHT_OFFSET 128 /* of int8 weights, so that the products' unsigned operand can hold them */
#ifdef EL_AVX512
#define MAX_ROWS 6 /* multiplied at once: what the registers hold */
#else
#define MAX_ROWS 2
#endif

/* ---- activations: float rows to integers with one scale a row ---------------------------------------------------- */

/* Rows that are multiplied at once lie together: four inputs of each row, then the next four. */
typedef struct {
    const int8_t *bytes;     /* [blocks of rows, kp / 4, rows of the block, halves, 4] */
    const float *scales;     /* [rows] */
    const int32_t *sums;     /* [rows], of the integers */
    const float *group_sums; /* [rows, kp / EL_GROUP] */
    int kp;
} el_activations;

INLINE int num_blocks(int rows) { return (rows + MAX_ROWS - 1) / MAX_ROWS; }

/* x = scale * q; q = 256 * high + low with two halves, both int8, or q = high with one. Row `row` of all goes to
   place `inside` of a block of `count` rows that starts at row `first`. */
static void quantize_row(const float *x, int k, int halves, int row, int first, int count, const el_scratch *s) {
    int kp = padded(k, EL_GROUP), inside = row - first;
    int8_t *bytes = s->bytes + (int64_t)first * kp * halves;
    float *group_sums = s->group_sums + (int64_t)row * (kp / EL_GROUP);
    v16 top = splat(0.0f);
    for (int i = 0; i < k; i += LANES) top = max16(abs16(load_at(x, i, k)), top);
    float most = most16(top), limit = halves == 2 ? MAX_Q16 : MAX_Q8;
    v16 inverse = splat(most > 0.0f ? limit / most : 0.0f), magic = splat(12582912.0f);
    i16v total = splat_i(0);
    for (int i = 0; i < kp; i += EL_GROUP) {
        i16v group = splat_i(0);
        for (int j = i; j < i + EL_GROUP; j += LANES) {
            v16 value = j < k ? load_at(x, j, k) : splat(0.0f);
            i16v q = bits_of(value * inverse + magic) - bits_of(magic); /* to the nearest, ties to even */
            i16v h = halves == 2 ? (q + 128) >> 8 : q;
            b16v high = bytes_of(h), low = bytes_of(q - 256 * h);
            for (int i4 = 0; i4 < LANES; i4 += 4) {
                int8_t *to = bytes + ((int64_t)(j + i4) / 4 * count + inside) * halves * 4;
                memcpy(to, (const int8_t *)&high + i4, 4);
                if (halves == 2) memcpy(to + 4, (const int8_t *)&low + i4, 4);
            }
            group += q;
        }
        group_sums[i / EL_GROUP] = (float)sum_i(group);
        total += group;
    }
    s->scales[row] = most / limit;
    s->sums[row] = sum_i(total);
}

/* Quantize this part's rows of x [rows, k], normed first where weight is given. */
static el_activations enter_linear(
    const el_linear *w, const float *x, int stride, const float *weight, float eps, int rows, const el_scratch *s, int part,
    int parts) {
    int kp = padded(w->k, EL_GROUP);
    float *normed = s->normed + (int64_t)part * kp;
    int from, to;
    share(num_blocks(rows), part, parts, &from, &to);
    for (int block = from; block < to; block++) {
        int first, end;
        share(rows, block, num_blocks(rows), &first, &end);
        for (int r = first; r < end; r++) {
            const float *row = x + (int64_t)r * stride;
            if (weight) {
                norm_row(row, weight, w->k, eps, normed);
                row = normed;
            }
            quantize_row(row, w->k, w->halves, r, first, end - first, s);
        }
    }
    return (el_activations){s->bytes, s->scales, s->sums, s->group_sums, kp};
}

/* ---- linears ----------------------------------------------------------------------------------------------------- */

/* acc[lane] += the four products of the lane's weights, unsigned, with four activations, signed. */
INLINE i16v dot4(i16v acc, u64v weights, const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
#if defined(EL_AVX512)
    return (i16v)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)weights, _mm512_set1_epi32(four));
#elif defined(EL_AVX2)
    __m256i halves[2], sums[2];
    memcpy(halves, &weights, sizeof weights);
    memcpy(sums, &acc, sizeof acc);
    __m256i both = _mm256_set1_epi32(four);
    __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(both, 8), 8), odd = _mm256_srai_epi16(both, 8);
    for (int i = 0; i < 2; i++) {
        __m256i w_even = _mm256_and_si256(halves[i], _mm256_set1_epi16(0xff)), w_odd = _mm256_srli_epi16(halves[i], 8);
        sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(w_even, even));
        sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(w_odd, odd));
    }
    memcpy(&acc, sums, sizeof acc);
    return acc;
#elif defined(EL_NEON)
    int8x16_t both = vreinterpretq_s8_s32(vdupq_n_s32(four));
    for (int i = 0; i < 4; i++) { /* w = (w - 128) + 64 + 64 */
        uint8x16_t w;
        int32x4_t sum;
        memcpy(&w, (const uint8_t *)&weights + 16 * i, 16);
        memcpy(&sum, (const int32_t *)&acc + 4 * i, 16);
        sum = vdotq_s32(sum, vreinterpretq_s8_u8(veorq_u8(w, vdupq_n_u8(128))), both);
        sum = vdotq_s32(vdotq_s32(sum, vdupq_n_s8(64), both), vdupq_n_s8(64), both);
        memcpy((int32_t *)&acc + 4 * i, &sum, 16);
    }
    return acc;
#else
    for (int lane = 0; lane < LANES; lane++)
        for (int i = 0; i < 4; i++) acc[lane] += weights[4 * lane + i] * x[i];
    return acc;
#endif
}

/* (256 high + low - offset) as float, rounded once. */
INLINE v16 exact_float(i16v high, i16v low, int64_t offset) {
#ifdef EL_AVX512
    __m512i h = (__m512i)high, l = (__m512i)low;
    __m512d k = _mm512_set1_pd(256.0), o = _mm512_set1_pd((double)offset);
    __m512d a = _mm512_fmadd_pd(_mm512_cvtepi32_pd(_mm512_castsi512_si256(h)), k, _mm512_cvtepi32_pd(_mm512_castsi512_si256(l)));
    __m512d b = _mm512_fmadd_pd(
        _mm512_cvtepi32_pd(_mm512_extracti64x4_epi64(h, 1)), k, _mm512_cvtepi32_pd(_mm512_extracti64x4_epi64(l, 1)));
    __m256 first = _mm512_cvtpd_ps(_mm512_sub_pd(a, o)), second = _mm512_cvtpd_ps(_mm512_sub_pd(b, o));
    return (v16)_mm512_insertf32x8(_mm512_castps256_ps512(first), second, 1);
#else
    v16 y;
    for (int i = 0; i < LANES; i++) y[i] = (float)(256 * (int64_t)high[i] + low[i] - offset);
    return y;
#endif
}

/* Sums of products of whole numbers, [row][tile][half]. */
typedef struct {
    i16v high[MAX_ROWS * 2], low[MAX_ROWS * 2];
} el_sums;

/* Add four inputs of `rows` rows times the weights of `tiles` tiles. All counts are constants where this is inlined. */
INLINE void add_products(el_sums *s, const u64v *weights, const int8_t *bytes, int tiles, int rows, int halves) {
    for (int r = 0; r < rows; r++) {
        const int8_t *four = bytes + r * halves * 4;
        for (int t = 0; t < tiles; t++) s->high[r * tiles + t] = dot4(s->high[r * tiles + t], weights[t], four);
        for (int t = 0; t < tiles && halves == 2; t++)
            s->low[r * tiles + t] = dot4(s->low[r * tiles + t], weights[t], four + 4);
    }
}

/* Outputs of `tiles` tiles from `tile` on for `rows` rows from b on, without bias, to y[row][tile]. */
INLINE void int8_block(
    const el_linear *w, int tile, int tiles, const el_activations *x, int b, int rows, int halves, v16 *y) {
    const int64_t tile_bytes = (int64_t)x->kp * LANES;
    const uint8_t *at = w->weight + tile * tile_bytes;
    const int8_t *bytes = x->bytes + (int64_t)b * x->kp * halves;
    const int chains = rows == 1 ? 4 : 1; /* of sums that do not wait for each other */
    el_sums s, others[3];
    for (int i = 0; i < rows * tiles; i++) s.high[i] = s.low[i] = splat_i(0);
    for (int c = 1; c < chains; c++) others[c - 1] = s;
    for (int i = 0; i < x->kp; i += 4 * chains)
        for (int c = 0; c < chains; c++, at += 4 * LANES, bytes += rows * halves * 4) {
            u64v weights[2];
            for (int t = 0; t < tiles; t++) {
                weights[t] = load_bytes(at + t * tile_bytes);
                if (rows > 1) __builtin_prefetch(at + (tiles + t) * tile_bytes);
            }
            add_products(c ? others + c - 1 : &s, weights, bytes, tiles, rows, halves);
        }
    for (int c = 1; c < chains; c++)
        for (int i = 0; i < rows * tiles; i++) {
            s.high[i] += others[c - 1].high[i];
            s.low[i] += others[c - 1].low[i];
        }
    for (int r = 0; r < rows; r++)
        for (int t = 0; t < tiles; t++) {
            int64_t offset = WEIGHT_OFFSET * (int64_t)x->sums[b + r];
            i16v h = s.high[r * tiles + t];
            v16 total = halves == 2 ? exact_float(h, s.low[r * tiles + t], offset) : exact_float(splat_i(0), h, offset);
            y[r * tiles + t] = total * splat(x->scales[b + r]) * load(w->scale + (tile + t) * LANES);
        }
}

INLINE v16 floats_of_bytes(const uint8_t *p) {
#ifdef EL_AVX512
    return (v16)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
#else
    return floats_of(__builtin_convertvector(*(const u16v *)p, i16v));
#endif
}

/* As int8_block. A group's sums are whole numbers below 2^24: exact as floats. */
INLINE void int4_block(
    const el_linear *w, int tile, int tiles, const el_activations *x, int b, int rows, int halves, v16 *y) {
    const int groups = x->kp / EL_GROUP;
    const int64_t tile_bytes = (int64_t)x->kp * LANES / 2, tile_groups = (int64_t)groups * LANES;
    const uint8_t *at = w->weight + tile * tile_bytes, *steps = w->steps + tile * tile_groups;
    const uint8_t *minima = w->minima + tile * tile_groups;
    const int8_t *bytes = x->bytes + (int64_t)b * x->kp * halves;
    v16 sums[MAX_ROWS * 2], less[MAX_ROWS * 2];
    for (int i = 0; i < rows * tiles; i++) sums[i] = less[i] = splat(0.0f);
    for (int g = 0; g < groups; g++, steps += LANES) {
        el_sums s;
        for (int i = 0; i < rows * tiles; i++) s.high[i] = s.low[i] = splat_i(0);
        for (int i = 0; i < EL_GROUP; i += 8, at += 4 * LANES) {
            u64v both[2], weights[2];
            for (int t = 0; t < tiles; t++) {
                both[t] = load_bytes(at + t * tile_bytes);
                weights[t] = both[t] & 15;
                if (rows > 1) __builtin_prefetch(at + (tiles + t) * tile_bytes);
            }
            add_products(&s, weights, bytes, tiles, rows, halves);
            for (int t = 0; t < tiles; t++) weights[t] = both[t] >> 4;
            add_products(&s, weights, bytes + rows * halves * 4, tiles, rows, halves);
            bytes += 2 * rows * halves * 4;
        }
        for (int t = 0; t < tiles; t++) {
            v16 step = floats_of_bytes(steps + t * tile_groups);
            for (int r = 0; r < rows; r++) {
                i16v total = s.high[r * tiles + t];
                if (halves == 2) total = (total << 8) + s.low[r * tiles + t];
                sums[r * tiles + t] += floats_of(total) * step;
            }
        }
    }
    for (int g = 0; g < groups; g++, minima += LANES)
        for (int t = 0; t < tiles; t++) {
            v16 minimum = floats_of_bytes(minima + t * tile_groups);
            for (int r = 0; r < rows; r++)
                less[r * tiles + t] += splat(x->group_sums[(int64_t)(b + r) * groups + g]) * minimum;
        }
    for (int t = 0; t < tiles; t++) {
        v16 scale = load(w->scale + (tile + t) * LANES), minimum = load(w->minimum + (tile + t) * LANES);
        for (int i = t; i < rows * tiles; i += tiles)
            y[i] = (sums[i] * scale - less[i] * minimum) * splat(x->scales[b + i / tiles]);
    }
}

#define BLOCK_CASE(ROWS) \
    case ROWS: \
        if (w->kind == EL_INT8 && w->halves == 2) int8_block(w, tile, tiles, x, b, ROWS, 2, y); \
        else if (w->kind == EL_INT8) int8_block(w, tile, tiles, x, b, ROWS, 1, y); \
        else int4_block(w, tile, tiles, x, b, ROWS, 2, y); \
        break;

INLINE void product_of(const el_linear *w, int tile, int tiles, const el_activations *x, int b, int rows, v16 *y) {
    switch (rows) {
        BLOCK_CASE(1)
        BLOCK_CASE(2)
#if MAX_ROWS > 2
        BLOCK_CASE(3)
        BLOCK_CASE(4)
        BLOCK_CASE(5)
        BLOCK_CASE(6)
#endif
    }
}

static void product_of_one(const el_linear *w, int tile, const el_activations *x, int b, int rows, v16 *y) {
    product_of(w, tile, 1, x, b, rows, y);
}

static void product_of_pair(const el_linear *w, int tile, const el_activations *x, int b, int rows, v16 *y) {
    if (rows > 1) {
        product_of(w, tile, 2, x, b, rows, y);
        return;
    }
    product_of_one(w, tile, x, b, 1, y); /* memory sets the pace, and likes a single stream */
    product_of_one(w, tile + 1, x, b, 1, y + 1);
}

typedef enum { STORE, ADD, SILU } el_finish;

/* Put the outputs of a block of rows where they belong: y [rows, stride]. */
INLINE void finish(
    const el_linear *w, int tile, int tiles, int b, int rows, v16 *values, el_finish how, float *y, int stride) {
    for (int i = 0; w->bias && i < rows * tiles; i++) values[i] += load(w->bias + (tile + i % tiles) * LANES);
    for (int r = 0; r < rows; r++) {
        float *to = y + (int64_t)(b + r) * stride;
        if (how == SILU) { /* a tile of gates and their ups */
            store(to + tile / 2 * LANES, silu(values[2 * r]) * values[2 * r + 1]);
            continue;
        }
        for (int t = 0; t < tiles; t++) {
            int n = (tile + t) * LANES, count = w->n - n < LANES ? w->n - n : LANES;
            v16 value = values[r * tiles + t];
            if (how == ADD) value += load_at(to, n, w->n);
            memcpy(to + n, &value, (size_t)count * sizeof(float));
        }
    }
}

/* This part's channels for all rows, a pair of tiles at a time: it stays in the processor's cache over the rows. */
static void linear(
    const el_linear *w, const el_activations *x, int rows, el_finish how, float *y, int stride, int part, int parts) {
    int num_tiles = padded(w->n, LANES) / LANES, from, to;
    int blocks = num_blocks(rows);
    share((num_tiles + 1) / 2, part, parts, &from, &to);
    for (int pair = from; pair < to; pair++) {
        int tile = 2 * pair, tiles = num_tiles - tile < 2 ? 1 : 2;
        for (int block = 0; block < blocks; block++) {
            v16 values[MAX_ROWS * 2];
            int b, end;
            share(rows, block, blocks, &b, &end);
            if (tiles == 2) product_of_pair(w, tile, x, b, end - b, values);
            else product_of_one(w, tile, x, b, end - b, values);
            finish(w, tile, tiles, b, end - b, values, how, y, stride);
        }
    }
}

/* ---- attention --------------------------------------------------------------------------------------------------- */

/* Rotate one head in place, half-split layout. */
static void rotate(const el_model *m, float *x, int position) {
    int half = m->head_dim / 2;
    const float *cos = m->cos + (int64_t)position * half, *sin = m->sin + (int64_t)position * half;
    for (int i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cos[i] - b * sin[i];
        x[i + half] = b * cos[i] + a * sin[i];
    }
}

/* Norm and rotate the queries of one group and its key, and put key and value into the cache. */
static void enter_cache(const el_model *m, const el_layer *layer, el_row row, int head, float *qkv) {
    int group = m->heads / m->kv_heads, dim = m->head_dim;
    float *queries = qkv + (int64_t)head * group * dim;
    float *key = qkv + (int64_t)(m->heads + head) * dim;
    float *value = qkv + (int64_t)(m->heads + m->kv_heads + head) * dim;
    if (layer->qk_norm) {
        for (int g = 0; g < group; g++)
            norm_row(queries + g * dim, layer->qk_norm + (int64_t)(head * group + g) * dim, dim, m->eps, queries + g * dim);
        norm_row(key, layer->qk_norm + (int64_t)(m->heads + head) * dim, dim, m->eps, key);
    }
    for (int g = 0; g < group; g++) rotate(m, queries + g * dim, row.position);
    rotate(m, key, row.position);
    int64_t at = block_at(m, row.slot, head, row.position), inside = row.position % EL_BLOCK;
    for (int i = 0; i < dim; i++) {
        write_cell(m->kv_type, layer->keys, at + (int64_t)i * EL_BLOCK + inside, key[i]);
        write_cell(m->kv_type, layer->values, at + inside * dim + i, value[i]);
    }
}

/* A few queries of one sequence and one key-value head. */
typedef struct {
    int slot, head, longest; /* longest: of the lengths */
    const float *query[QUERIES];
    float *out[QUERIES];
    int length[QUERIES]; /* tokens that each attends to */
} el_queries;

INLINE void score_block(const el_model *m, const void *keys, const el_queries *q, int start, int count, int kv_type, float *scores, int stride) {
    int64_t at = block_at(m, q->slot, q->head, start);
    float shrink = 1.0f / sqrtf((float)m->head_dim);
    v16 sums[QUERIES][4];
    for (int j = 0; j < count; j++)
        for (int c = 0; c < 4; c++) sums[j][c] = splat(0.0f);
    for (int i = 0; i < m->head_dim; i++) {
        v16 key[4];
        for (int c = 0; c < 4; c++) key[c] = read_cells(kv_type, keys, at + (int64_t)i * EL_BLOCK + c * LANES);
        for (int j = 0; j < count; j++)
            for (int c = 0; c < 4; c++) sums[j][c] = fma16(splat(q->query[j][i]), key[c], sums[j][c]);
    }
    for (int j = 0; j < count; j++)
        for (int c = 0; c < 4; c++) store(scores + (int64_t)j * stride + start + c * LANES, sums[j][c] * splat(shrink));
}

INLINE void mix_values(const el_model *m, const void *values, const el_queries *q, int count, int first, int chunks, int kv_type, const float *scores, int stride, const float *inverse) {
    v16 sums[QUERIES][4];
    for (int j = 0; j < count; j++)
        for (int c = 0; c < chunks; c++) sums[j][c] = splat(0.0f);
    for (int start = 0; start < q->longest; start += EL_BLOCK) {
        int64_t at = block_at(m, q->slot, q->head, start) + first;
        int end = q->longest < start + EL_BLOCK ? q->longest : start + EL_BLOCK;
        for (int p = start; p < end; p++, at += m->head_dim) {
            v16 value[4];
            for (int c = 0; c < chunks; c++) value[c] = read_cells(kv_type, values, at + c * LANES);
            for (int j = 0; j < count; j++)
                for (int c = 0; c < chunks; c++) sums[j][c] = fma16(splat(scores[(int64_t)j * stride + p]), value[c], sums[j][c]);
        }
    }
    for (int j = 0; j < count; j++)
        for (int c = 0; c < chunks; c++) store(q->out[j] + first + c * LANES, sums[j][c] * splat(inverse[j]));
}

INLINE void attend_queries(const el_model *m, const el_layer *layer, const el_queries *q, int count, int kv_type, float *scores) {
    int stride = padded(m->context, EL_BLOCK);
    float inverse[QUERIES];
    for (int start = 0; start < q->longest; start += EL_BLOCK)
        score_block(m, layer->keys, q, start, count, kv_type, scores, stride);
    for (int j = 0; j < count; j++) inverse[j] = 1.0f / soften(scores + (int64_t)j * stride, q->length[j], q->longest);
    int first = 0;
    for (; first + 4 * LANES <= m->head_dim; first += 4 * LANES)
        mix_values(m, layer->values, q, count, first, 4, kv_type, scores, stride, inverse);
    for (; first < m->head_dim; first += LANES)
        mix_values(m, layer->values, q, count, first, 1, kv_type, scores, stride, inverse);
}

#define ATTEND_CASE(COUNT) \
    case COUNT: \
        if (m->kv_type == EL_FLOAT32) attend_queries(m, layer, q, COUNT, EL_FLOAT32, scores); \
        else if (m->kv_type == EL_BFLOAT16) attend_queries(m, layer, q, COUNT, EL_BFLOAT16, scores); \
        else attend_queries(m, layer, q, COUNT, EL_FLOAT16, scores); \
        break;

static void attend_some(const el_model *m, const el_layer *layer, const el_queries *q, int count, float *scores) {
    switch (count) {
        ATTEND_CASE(1)
        ATTEND_CASE(2)
        ATTEND_CASE(3)
        ATTEND_CASE(4)
    }
}

/* The queries of rows [from, to), all of one slot, that share a key-value head. */
static void attend_rows(
    const el_model *m, const el_layer *layer, const el_row *where, int from, int to, int head, const el_scratch *s,
    float *scores) {
    int group = m->heads / m->kv_heads, dim = m->head_dim, q_size = m->heads * dim;
    int qkv_size = q_size + 2 * m->kv_heads * dim, total = (to - from) * group;
    for (int first = 0; first < total; first += QUERIES) {
        int count = total - first < QUERIES ? total - first : QUERIES;
        el_queries q = {.slot = where[from].slot, .head = head};
        for (int j = 0; j < count; j++) {
            int r = from + (first + j) / group, column = (head * group + (first + j) % group) * dim;
            q.query[j] = s->qkv + (int64_t)r * qkv_size + column;
            q.out[j] = s->x + (int64_t)r * q_size + column;
            q.length[j] = where[r].position + 1;
            q.longest = q.length[j] > q.longest ? q.length[j] : q.longest;
        }
        attend_some(m, layer, &q, count, scores);
    }
}

/* Cut rows into runs of one slot, as long as fill QUERIES. Returns their number; run i is [starts[i], starts[i + 1]). */
static int cut_runs(const el_model *m, const el_row *where, int rows, int32_t *starts) {
    int group = m->heads / m->kv_heads, longest = group < QUERIES ? QUERIES / group : 1, runs = 0;
    for (int r = 0; r < rows; r++) {
        int is_new = runs == 0 || where[r].slot != where[r - 1].slot || r - starts[runs - 1] >= longest;
        if (is_new) starts[runs++] = r;
    }
    starts[runs] = rows;
    return runs;
}

/* ---- the layers -------------------------------------------------------------------------------------------------- */

static void layer_rows(
    const el_model *m, const el_layer *layer, float *hidden, int rows, const el_row *where, int runs, const el_scratch *s,
    int part, int parts) {
    int dim = m->head_dim, q_size = m->heads * dim, qkv_size = q_size + 2 * m->kv_heads * dim;
    el_activations x = enter_linear(&layer->qkv, hidden, m->hidden, layer->attention_norm, m->eps, rows, s, part, parts);
#pragma omp barrier
    linear(&layer->qkv, &x, rows, STORE, s->qkv, qkv_size, part, parts);
#pragma omp barrier
    for (int task = part; task < rows * m->kv_heads; task += parts)
        enter_cache(m, layer, where[task / m->kv_heads], task % m->kv_heads, s->qkv + (int64_t)(task / m->kv_heads) * qkv_size);
#pragma omp barrier
    float *scores = s->scores + (int64_t)part * QUERIES * padded(m->context, EL_BLOCK);
    for (int task = part; task < runs * m->kv_heads; task += parts) /* neighbours are about as long */
        attend_rows(m, layer, where, s->starts[task / m->kv_heads], s->starts[task / m->kv_heads + 1], task % m->kv_heads, s, scores);
#pragma omp barrier
    x = enter_linear(&layer->output, s->x, q_size, NULL, 0.0f, rows, s, part, parts);
#pragma omp barrier
    linear(&layer->output, &x, rows, ADD, hidden, m->hidden, part, parts);
#pragma omp barrier
    x = enter_linear(&layer->gate_up, hidden, m->hidden, layer->mlp_norm, m->eps, rows, s, part, parts);
#pragma omp barrier
    int inner = padded(m->intermediate, LANES);
    linear(&layer->gate_up, &x, rows, SILU, s->x, inner, part, parts);
#pragma omp barrier
    x = enter_linear(&layer->down, s->x, inner, NULL, 0.0f, rows, s, part, parts);
#pragma omp barrier
    linear(&layer->down, &x, rows, ADD, hidden, m->hidden, part, parts);
#pragma omp barrier
}

EXPORT int el_abi(void) { return EL_ABI; }

/* All layers over rows, hidden [rows, hidden] in place. */
EXPORT void el_forward(const el_model *m, float *hidden, int rows, const el_row *where, const el_scratch *s, int threads) {
    int runs = cut_runs(m, where, rows, s->starts);
#pragma omp parallel num_threads(threads)
    for (int i = 0; i < m->num_layers; i++) layer_rows(m, m->layers + i, hidden, rows, where, runs, s, PART, PARTS);
}

/* y [rows, n] = W x for x [rows, k], normed first where `weight` is given. */
EXPORT void el_linear_rows(
    const el_linear *w, const float *x, const float *weight, float eps, int rows, float *y, const el_scratch *s, int threads) {
#pragma omp parallel num_threads(threads)
    {
        el_activations quantized = enter_linear(w, x, w->k, weight, eps, rows, s, PART, PARTS);
#pragma omp barrier
        linear(w, &quantized, rows, STORE, y, w->n, PART, PARTS);
    }
}
