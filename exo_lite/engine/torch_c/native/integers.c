/* The exact engine for processors: integer linears, and norms, rotation and attention that work row by row.

   A row's numbers depend on that row's own sequence alone. Integer sums are exact in any order; every sum of floats
   runs in a fixed order, whatever the number of rows or threads, and is compiled without contraction, so that a
   token's result is the same bit for bit in a batch, alone, in a prompt and when it is replayed. */
#include "common.h"

#define MAX_Q16 32512.0f /* 127 * 256: the high byte of a quantized activation fits an int8 */
#define MAX_Q8 127.0f
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
    int kp;
} el_activations;

INLINE int num_blocks(int rows) { return (rows + MAX_ROWS - 1) / MAX_ROWS; }

/* x = scale * q; q = 256 * high + low with two halves, both int8, or q = high with one. Row `row` of all goes to
   place `inside` of a block of `count` rows that starts at row `first`. */
static void quantize_row(const float *x, int k, int halves, int row, int first, int count, const el_scratch *s) {
    int kp = padded(k, EL_GROUP), inside = row - first;
    int8_t *bytes = s->bytes + (int64_t)first * kp * halves;
    v16 top = splat(0.0f);
    for (int i = 0; i < k; i += LANES) top = max16(abs16(load_at(x, i, k)), top);
    float most = most16(top), limit = halves == 2 ? MAX_Q16 : MAX_Q8;
    v16 inverse = splat(most > 0.0f ? limit / most : 0.0f), magic = splat(12582912.0f);
    i16v total = splat_i(0);
    for (int i = 0; i < kp; i += LANES) {
        v16 value = i < k ? load_at(x, i, k) : splat(0.0f);
        i16v q = bits_of(value * inverse + magic) - bits_of(magic); /* to the nearest, ties to even */
        i16v h = halves == 2 ? (q + 128) >> 8 : q;
        b16v high = bytes_of(h), low = bytes_of(q - 256 * h);
        for (int j = 0; j < LANES; j += 4) {
            int8_t *to = bytes + ((int64_t)(i + j) / 4 * count + inside) * halves * 4;
            memcpy(to, (const int8_t *)&high + j, 4);
            if (halves == 2) memcpy(to + 4, (const int8_t *)&low + j, 4);
        }
        total += q;
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
    return (el_activations){s->bytes, s->scales, s->sums, kp};
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

/* Tiles as the products want them, a byte per input and channel, and what will be wanted next. */
typedef struct {
    const uint8_t *bytes, *next;
    int next_pace; /* bytes of `next` per input of a tile */
} el_tiles;

/* The eight bytes of four inputs each of a group of one int4 tile. */
INLINE void unpack_group(const el_linear *w, int tile, int group, int kp, u64v *to) {
    const uint8_t *from = w->weight + ((int64_t)tile * kp + group * EL_GROUP) * LANES / 2;
    int64_t at = ((int64_t)tile * kp / EL_GROUP + group) * LANES;
#ifdef EL_AVX512
    /* Halves of bytes are multiplied where they stand: the product's upper half has the first byte of a pair, its lower
       half the second one, and nothing needs to be shifted. */
    const __m512i to_words = _mm512_set_epi32(
        (int)0x800f800f, (int)0x800e800e, (int)0x800d800d, (int)0x800c800c, (int)0x800b800b, (int)0x800a800a, (int)0x80098009, (int)0x80088008,
        (int)0x80078007, (int)0x80068006, (int)0x80058005, (int)0x80048004, (int)0x80038003, (int)0x80028002, (int)0x80018001, (int)0x80008000);
    const __m512i to_bytes = _mm512_set_epi32(
        0x0f0f0f0f, 0x0e0e0e0e, 0x0d0d0d0d, 0x0c0c0c0c, 0x0b0b0b0b, 0x0a0a0a0a, 0x09090909, 0x08080808, 0x07070707, 0x06060606,
        0x05050505, 0x04040404, 0x03030303, 0x02020202, 0x01010101, 0);
    __m512i step = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(w->steps + at))), to_words);
    __m512i minimum = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(w->minima + at))), to_bytes);
    __m512i step16 = _mm512_slli_epi16(step, 4), second = _mm512_set1_epi16((short)0xff00);
    for (int i = 0; i < EL_GROUP / 4; i += 2, from += 4 * LANES) {
        __m512i q = _mm512_loadu_si512(from);
        __m512i first0 = _mm512_mulhi_epu16(_mm512_and_si512(q, _mm512_set1_epi16(0x0f00)), step16);
        __m512i second0 = _mm512_mullo_epi16(_mm512_and_si512(q, _mm512_set1_epi16(0x000f)), step16);
        __m512i first1 = _mm512_mulhi_epu16(_mm512_and_si512(q, _mm512_set1_epi16((short)0xf000)), step);
        __m512i second1 = _mm512_mullo_epi16(_mm512_and_si512(q, _mm512_set1_epi16(0x00f0)), step);
        to[i] = (u64v)_mm512_add_epi8(_mm512_ternarylogic_epi32(second0, second, first0, 0xea), minimum); /* (a & b) | c */
        to[i + 1] = (u64v)_mm512_add_epi8(_mm512_ternarylogic_epi32(second1, second, first1, 0xea), minimum);
    }
#else
    for (int i = 0; i < EL_GROUP / 4; i += 2, from += 4 * LANES)
        for (int j = 0; j < 4 * LANES; j++) {
            int step = w->steps[at + j / 4], minimum = w->minima[at + j / 4], q = from[j ^ 1];
            to[i][j] = (uint8_t)((step * (q & 15) >> 4) + minimum);
            to[i + 1][j] = (uint8_t)((step * (q >> 4) >> 4) + minimum);
        }
#endif
}

/* Tiles [tile, tile + tiles) as bytes; int4 is unpacked to `room`. */
static el_tiles open_tiles(const el_linear *w, int tile, int tiles, int kp, uint8_t *room) {
    int pace = w->kind == EL_INT4 ? LANES / 2 : LANES;
    int64_t tile_bytes = (int64_t)kp * pace;
    const uint8_t *bytes = w->weight + tile * tile_bytes;
    if (w->kind == EL_INT4)
        for (int t = 0; t < tiles; t++)
            for (int g = 0; g < kp / EL_GROUP; g++)
                unpack_group(w, tile + t, g, kp, (u64v *)(room + ((int64_t)t * kp + g * EL_GROUP) * LANES));
    return (el_tiles){w->kind == EL_INT4 ? room : bytes, bytes + tiles * tile_bytes, pace};
}

/* The products' sum as the output that it stands for, without bias. */
INLINE v16 scaled(const el_linear *w, int tile, const el_activations *x, int row, int halves, i16v high, i16v low) {
    int64_t offset = EL_WEIGHT_OFFSET * (int64_t)x->sums[row];
    v16 total = halves == 2 ? exact_float(high, low, offset) : exact_float(splat_i(0), high, offset);
    return total * splat(x->scales[row]) * load(w->scale + tile * LANES);
}

/* Outputs of a tile for one row, in four chains of sums that do not wait for each other. */
INLINE v16 row_product(const el_linear *w, int tile, const el_activations *x, int row, int kind, int halves) {
    const u64v *tiles = (const u64v *)(w->weight + (int64_t)tile * x->kp * LANES);
    const int8_t *bytes = x->bytes + (int64_t)row * x->kp * halves;
    i16v high[4], low[4];
    for (int c = 0; c < 4; c++) high[c] = low[c] = splat_i(0);
    for (int group = 0; group < x->kp / EL_GROUP; group++) {
        u64v unpacked[EL_GROUP / 4];
        if (kind == EL_INT4) unpack_group(w, tile, group, x->kp, unpacked);
        for (int i = 0; i < EL_GROUP / 4; i++, tiles++, bytes += halves * 4) {
            u64v weights = kind == EL_INT4 ? unpacked[i] : *tiles;
            high[i % 4] = dot4(high[i % 4], weights, bytes);
            if (halves == 2) low[i % 4] = dot4(low[i % 4], weights, bytes + 4);
        }
    }
    return scaled(w, tile, x, row, halves, (high[0] + high[1]) + (high[2] + high[3]), (low[0] + low[1]) + (low[2] + low[3]));
}

/* Outputs of `tiles` tiles for `rows` rows from b on: y[row][tile]. Counts are constants where this is inlined. */
INLINE void rows_product(
    const el_linear *w, const el_tiles *at, int tile, int tiles, const el_activations *x, int b, int rows, int halves, v16 *y) {
    const uint8_t *next = at->next;
    const int8_t *bytes = x->bytes + (int64_t)b * x->kp * halves;
    i16v high[MAX_ROWS * 2], low[MAX_ROWS * 2];
    for (int i = 0; i < rows * tiles; i++) high[i] = low[i] = splat_i(0);
    for (int i = 0; i < x->kp; i += 4, next += 4 * at->next_pace, bytes += rows * halves * 4) {
        u64v weights[2];
        for (int t = 0; t < tiles; t++) {
            weights[t] = load_bytes(at->bytes + ((int64_t)t * x->kp + i) * LANES);
            __builtin_prefetch(next + (int64_t)t * x->kp * at->next_pace, 0, 2); /* to the second level: the first is full */
        }
        for (int r = 0; r < rows; r++) {
            const int8_t *four = bytes + r * halves * 4;
            for (int t = 0; t < tiles; t++) high[r * tiles + t] = dot4(high[r * tiles + t], weights[t], four);
            for (int t = 0; t < tiles && halves == 2; t++)
                low[r * tiles + t] = dot4(low[r * tiles + t], weights[t], four + 4);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int t = 0; t < tiles; t++)
            y[r * tiles + t] = scaled(w, tile + t, x, b + r, halves, high[r * tiles + t], low[r * tiles + t]);
}

static v16 product_of_row(const el_linear *w, int tile, const el_activations *x, int row) {
    if (w->kind == EL_INT4)
        return w->halves == 2 ? row_product(w, tile, x, row, EL_INT4, 2) : row_product(w, tile, x, row, EL_INT4, 1);
    return w->halves == 2 ? row_product(w, tile, x, row, EL_INT8, 2) : row_product(w, tile, x, row, EL_INT8, 1);
}

#define ROWS_CASE(ROWS) \
    case ROWS: \
        if (w->halves == 2) rows_product(w, at, tile, tiles, x, b, ROWS, 2, y); \
        else rows_product(w, at, tile, tiles, x, b, ROWS, 1, y); \
        break;

INLINE void product_of(
    const el_linear *w, const el_tiles *at, int tile, int tiles, const el_activations *x, int b, int rows, v16 *y) {
    switch (rows) {
        ROWS_CASE(1)
        ROWS_CASE(2)
#if MAX_ROWS > 2
        ROWS_CASE(3)
        ROWS_CASE(4)
        ROWS_CASE(5)
        ROWS_CASE(6)
#endif
    }
}

static void product_of_one(const el_linear *w, const el_tiles *at, int tile, const el_activations *x, int b, int rows, v16 *y) {
    product_of(w, at, tile, 1, x, b, rows, y);
}

static void product_of_pair(const el_linear *w, const el_tiles *at, int tile, const el_activations *x, int b, int rows, v16 *y) {
    product_of(w, at, tile, 2, x, b, rows, y);
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
    const el_linear *w, const el_activations *x, int rows, el_finish how, float *y, int stride, const el_scratch *s,
    int part, int parts) {
    int num_tiles = padded(w->n, LANES) / LANES, blocks = num_blocks(rows), from, to;
    uint8_t *room = s->unpacked + (int64_t)part * 2 * LANES * x->kp;
    share((num_tiles + 1) / 2, part, parts, &from, &to);
    for (int pair = from; pair < to; pair++) {
        int tile = 2 * pair, tiles = num_tiles - tile < 2 ? 1 : 2;
        v16 values[MAX_ROWS * 2];
        if (rows == 1) { /* memory sets the pace, and likes a single stream */
            for (int t = 0; t < tiles; t++) values[t] = product_of_row(w, tile + t, x, 0);
            finish(w, tile, tiles, 0, 1, values, how, y, stride);
            continue;
        }
        el_tiles at = open_tiles(w, tile, tiles, x->kp, room);
        for (int block = 0; block < blocks; block++) {
            int b, end;
            share(rows, block, blocks, &b, &end);
            if (tiles == 2) product_of_pair(w, &at, tile, x, b, end - b, values);
            else product_of_one(w, &at, tile, x, b, end - b, values);
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
    linear(&layer->qkv, &x, rows, STORE, s->qkv, qkv_size, s, part, parts);
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
    linear(&layer->output, &x, rows, ADD, hidden, m->hidden, s, part, parts);
#pragma omp barrier
    x = enter_linear(&layer->gate_up, hidden, m->hidden, layer->mlp_norm, m->eps, rows, s, part, parts);
#pragma omp barrier
    int inner = padded(m->intermediate, LANES);
    linear(&layer->gate_up, &x, rows, SILU, s->x, inner, s, part, parts);
#pragma omp barrier
    x = enter_linear(&layer->down, s->x, inner, NULL, 0.0f, rows, s, part, parts);
#pragma omp barrier
    linear(&layer->down, &x, rows, ADD, hidden, m->hidden, s, part, parts);
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
        linear(w, &quantized, rows, STORE, y, w->n, s, PART, PARTS);
    }
}
