/* Matrix products in integers: rows of activations, quantized as they come, times weights in tiles of int8 or int4. */
#ifndef EXO_LITE_INTEGER_GEMM_H
#define EXO_LITE_INTEGER_GEMM_H

#include "threads.h"

#ifdef EL_AVX512
#define MAX_ROWS 6 /* multiplied at once: as many as the registers hold sums of */
#else
#define MAX_ROWS 2
#endif

/* ---- activations: float rows to integers with one scale a row ---------------------------------------------------- */

/* Rows that are multiplied at once lie together: four inputs of each row, then the next four. */
typedef struct {
    const int8_t *bytes; /* [blocks of rows, kp / 4, rows of the block, activation_bytes, 4] */
    const float *scales; /* [rows] */
    const int32_t *sums; /* [rows], of the integers */
    int kp, rows;
} el_activations;

/* Float rows that a product takes: x [rows, stride], normed first where `norm`, the weight of an RMS norm, is given. */
typedef struct {
    const float *x;
    int rows, stride;
    const float *norm;
    float eps;
} el_input;

INLINE int num_blocks(int rows) { return (rows + MAX_ROWS - 1) / MAX_ROWS; }

/* x = scale * q; q = 256 * high + low, both int8, with two bytes, or q = high with one. Row `row` goes to the block of
   the rows [block.start, block.end). */
static void quantize_row(const float *x, int k, int activation_bytes, int row, el_range block, const el_scratch *s) {
    int kp = padded(k, EL_GROUP), inside = row - block.start, count = block.end - block.start;
    int8_t *bytes = s->bytes + (int64_t)block.start * kp * activation_bytes;

    f32x16 top = splat(0.0f);
    for (int i = 0; i < k; i += LANES) top = max16(abs16(load_tail(x, i, k)), top);
    float most = hmax(top), limit = activation_bytes == 2 ? (float)EL_MAX_Q16 : (float)EL_MAX_Q8;
    f32x16 inverse = splat(most > 0.0f ? limit / most : 0.0f);

    i32x16 total = splat_i32(0);
    for (int i = 0; i < kp; i += LANES) {
        f32x16 value = i < k ? load_tail(x, i, k) : splat(0.0f);
        i32x16 q = round_to_i32(value * inverse);
        i32x16 h = activation_bytes == 2 ? (q + 128) >> 8 : q;
        i8x16 high = to_i8(h), low = to_i8(q - 256 * h);
        for (int j = 0; j < LANES; j += 4) {
            int8_t *to = bytes + ((int64_t)(i + j) / 4 * count + inside) * activation_bytes * 4;
            memcpy(to, (const int8_t *)&high + j, 4);
            if (activation_bytes == 2) memcpy(to + 4, (const int8_t *)&low + j, 4);
        }
        total += q;
    }
    s->scales[row] = most / limit;
    s->sums[row] = hsum_i32(total);
}

/* Norm and quantize this thread's blocks of rows. The result is whole once all threads are here. */
static el_activations quantize_input(const el_linear *w, el_input in, const el_scratch *s, el_thread t) {
    int kp = padded(w->k, EL_GROUP);
    float *normed = s->normed + (int64_t)t.index * kp;
    el_range blocks = partition(num_blocks(in.rows), t.index, t.count);
    for (int b = blocks.start; b < blocks.end; b++) {
        el_range block = partition(in.rows, b, num_blocks(in.rows));
        for (int r = block.start; r < block.end; r++) {
            const float *row = in.x + (int64_t)r * in.stride;
            if (in.norm) {
                rms_norm(row, in.norm, w->k, in.eps, normed);
                row = normed;
            }
            quantize_row(row, w->k, w->activation_bytes, r, block, s);
        }
    }
    return (el_activations){s->bytes, s->scales, s->sums, kp, in.rows};
}

/* ---- products and sums of integers ------------------------------------------------------------------------------- */

/* sums[lane] += the products of four weights of the lane's channel, unsigned, with four activations, signed. */
INLINE i32x16 dot4(i32x16 sums, u8x64 weights, const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
#if defined(EL_AVX512)
    return (i32x16)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)weights, _mm512_set1_epi32(four));
#elif defined(EL_AVX2)
    /* In 16 bits: the instruction for bytes saturates. */
    __m256i w[2], sum[2];
    memcpy(w, &weights, sizeof weights);
    memcpy(sum, &sums, sizeof sums);
    __m256i both = _mm256_set1_epi32(four);
    __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(both, 8), 8), odd = _mm256_srai_epi16(both, 8);
    for (int i = 0; i < 2; i++) {
        __m256i w_even = _mm256_and_si256(w[i], _mm256_set1_epi16(0xff)), w_odd = _mm256_srli_epi16(w[i], 8);
        sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(w_even, even));
        sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(w_odd, odd));
    }
    memcpy(&sums, sum, sizeof sums);
    return sums;
#elif defined(EL_NEON)
    int8x16_t both = vreinterpretq_s8_s32(vdupq_n_s32(four));
    for (int i = 0; i < 4; i++) { /* it multiplies signed by signed: w = (w - 128) + 64 + 64 */
        uint8x16_t w;
        int32x4_t sum;
        memcpy(&w, (const uint8_t *)&weights + 16 * i, 16);
        memcpy(&sum, (const int32_t *)&sums + 4 * i, 16);
        sum = vdotq_s32(sum, vreinterpretq_s8_u8(veorq_u8(w, vdupq_n_u8(128))), both);
        sum = vdotq_s32(vdotq_s32(sum, vdupq_n_s8(64), both), vdupq_n_s8(64), both);
        memcpy((int32_t *)&sums + 4 * i, &sum, 16);
    }
    return sums;
#else
    for (int lane = 0; lane < LANES; lane++)
        for (int i = 0; i < 4; i++) sums[lane] += weights[4 * lane + i] * x[i];
    return sums;
#endif
}

/* 256 high + low - offset as float, rounded once: no int32 holds it. */
INLINE f32x16 sums_to_f32(i32x16 high, i32x16 low, int64_t offset) {
#ifdef EL_AVX512
    __m512i h = (__m512i)high, l = (__m512i)low;
    __m512d k = _mm512_set1_pd(256.0), o = _mm512_set1_pd((double)offset);
    __m512d a = _mm512_fmadd_pd(
        _mm512_cvtepi32_pd(_mm512_castsi512_si256(h)), k, _mm512_cvtepi32_pd(_mm512_castsi512_si256(l)));
    __m512d b = _mm512_fmadd_pd(
        _mm512_cvtepi32_pd(_mm512_extracti64x4_epi64(h, 1)), k, _mm512_cvtepi32_pd(_mm512_extracti64x4_epi64(l, 1)));
    __m256 first = _mm512_cvtpd_ps(_mm512_sub_pd(a, o)), second = _mm512_cvtpd_ps(_mm512_sub_pd(b, o));
    return (f32x16)_mm512_insertf32x8(_mm512_castps256_ps512(first), second, 1);
#else
    f32x16 y;
    for (int i = 0; i < LANES; i++) y[i] = (float)(256 * (int64_t)high[i] + low[i] - offset);
    return y;
#endif
}

/* The sums of a tile's products as the outputs that they stand for, without bias. */
INLINE f32x16 dequantized(
    const el_linear *w, int tile, const el_activations *x, int row, int activation_bytes, i32x16 high, i32x16 low) {
    int64_t offset = EL_WEIGHT_OFFSET * (int64_t)x->sums[row];
    f32x16 total = activation_bytes == 2 ? sums_to_f32(high, low, offset) : sums_to_f32(splat_i32(0), high, offset);
    return total * splat(x->scales[row]) * load(w->scale + tile * LANES);
}

/* ---- int4 to bytes ----------------------------------------------------------------------------------------------- */

/* Unpack a group of one int4 tile: eight vectors, of four inputs each. */
INLINE void unpack_group(const el_linear *w, int tile, int group, int kp, u8x64 *to) {
    const uint8_t *from = w->weight + ((int64_t)tile * kp + group * EL_GROUP) * LANES / 2;
    int64_t at = ((int64_t)tile * kp / EL_GROUP + group) * LANES;
#ifdef EL_AVX512
    /* Halves of bytes are multiplied where they stand: the product's upper half has the first byte of a pair, its lower
       half the second one, and nothing needs to be shifted. */
    const __m512i to_words = _mm512_set_epi32(
        (int)0x800f800f, (int)0x800e800e, (int)0x800d800d, (int)0x800c800c, (int)0x800b800b, (int)0x800a800a,
        (int)0x80098009, (int)0x80088008, (int)0x80078007, (int)0x80068006, (int)0x80058005, (int)0x80048004,
        (int)0x80038003, (int)0x80028002, (int)0x80018001, (int)0x80008000);
    const __m512i to_bytes = _mm512_set_epi32(
        0x0f0f0f0f, 0x0e0e0e0e, 0x0d0d0d0d, 0x0c0c0c0c, 0x0b0b0b0b, 0x0a0a0a0a, 0x09090909, 0x08080808, 0x07070707,
        0x06060606, 0x05050505, 0x04040404, 0x03030303, 0x02020202, 0x01010101, 0);
    __m512i steps = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(w->steps + at)));
    __m512i minima = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(w->minima + at)));
    __m512i step = _mm512_shuffle_epi8(steps, to_words), minimum = _mm512_shuffle_epi8(minima, to_bytes);
    __m512i step16 = _mm512_slli_epi16(step, 4), second = _mm512_set1_epi16((short)0xff00);
    for (int i = 0; i < EL_GROUP / 4; i += 2, from += 4 * LANES) {
        __m512i q = _mm512_loadu_si512(from);
        __m512i first0 = _mm512_mulhi_epu16(_mm512_and_si512(q, _mm512_set1_epi16(0x0f00)), step16);
        __m512i second0 = _mm512_mullo_epi16(_mm512_and_si512(q, _mm512_set1_epi16(0x000f)), step16);
        __m512i first1 = _mm512_mulhi_epu16(_mm512_and_si512(q, _mm512_set1_epi16((short)0xf000)), step);
        __m512i second1 = _mm512_mullo_epi16(_mm512_and_si512(q, _mm512_set1_epi16(0x00f0)), step);
        __m512i pair0 = _mm512_ternarylogic_epi32(second0, second, first0, 0xea); /* (a & b) | c */
        __m512i pair1 = _mm512_ternarylogic_epi32(second1, second, first1, 0xea);
        to[i] = (u8x64)_mm512_add_epi8(pair0, minimum);
        to[i + 1] = (u8x64)_mm512_add_epi8(pair1, minimum);
    }
#elif defined(EL_AVX2)
    /* The same by halves of vectors, of eight channels each. */
    const __m256i to_words = _mm256_set_epi32(
        (int)0x80078007, (int)0x80068006, (int)0x80058005, (int)0x80048004, (int)0x80038003, (int)0x80028002,
        (int)0x80018001, (int)0x80008000);
    const __m256i to_bytes = _mm256_set_epi32(
        0x07070707, 0x06060606, 0x05050505, 0x04040404, 0x03030303, 0x02020202, 0x01010101, 0);
    const __m256i second = _mm256_set1_epi16((short)0xff00);
    for (int half = 0; half < 2; half++) {
        __m256i steps = _mm256_broadcastq_epi64(_mm_loadl_epi64((const __m128i *)(w->steps + at + 8 * half)));
        __m256i minima = _mm256_broadcastq_epi64(_mm_loadl_epi64((const __m128i *)(w->minima + at + 8 * half)));
        __m256i step = _mm256_shuffle_epi8(steps, to_words), minimum = _mm256_shuffle_epi8(minima, to_bytes);
        __m256i step16 = _mm256_slli_epi16(step, 4);
        for (int i = 0; i < EL_GROUP / 4; i += 2) {
            __m256i q = _mm256_loadu_si256((const __m256i *)(from + 2 * i * LANES + 32 * half));
            __m256i first0 = _mm256_mulhi_epu16(_mm256_and_si256(q, _mm256_set1_epi16(0x0f00)), step16);
            __m256i second0 = _mm256_mullo_epi16(_mm256_and_si256(q, _mm256_set1_epi16(0x000f)), step16);
            __m256i first1 = _mm256_mulhi_epu16(_mm256_and_si256(q, _mm256_set1_epi16((short)0xf000)), step);
            __m256i second1 = _mm256_mullo_epi16(_mm256_and_si256(q, _mm256_set1_epi16(0x00f0)), step);
            __m256i pair0 = _mm256_or_si256(_mm256_and_si256(second0, second), first0);
            __m256i pair1 = _mm256_or_si256(_mm256_and_si256(second1, second), first1);
            pair0 = _mm256_add_epi8(pair0, minimum);
            pair1 = _mm256_add_epi8(pair1, minimum);
            memcpy((uint8_t *)(to + i) + 32 * half, &pair0, sizeof pair0);
            memcpy((uint8_t *)(to + i + 1) + 32 * half, &pair1, sizeof pair1);
        }
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

/* Tiles as the products want them, a byte per input and channel, and the memory that the next ones will come from. */
typedef struct {
    const uint8_t *bytes, *next;
    int next_stride; /* bytes of `next` per input of a tile */
} el_tiles;

/* Tiles [tile, tile + tiles); int4 is unpacked to `unpacked`. */
static el_tiles unpack_tiles(const el_linear *w, int tile, int tiles, int kp, uint8_t *unpacked) {
    int stride = w->kind == EL_INT4 ? LANES / 2 : LANES;
    int64_t tile_bytes = (int64_t)kp * stride;
    const uint8_t *bytes = w->weight + tile * tile_bytes;
    if (w->kind == EL_INT4)
        for (int t = 0; t < tiles; t++)
            for (int g = 0; g < kp / EL_GROUP; g++)
                unpack_group(w, tile + t, g, kp, (u8x64 *)(unpacked + ((int64_t)t * kp + g * EL_GROUP) * LANES));
    return (el_tiles){w->kind == EL_INT4 ? unpacked : bytes, bytes + tiles * tile_bytes, stride};
}

/* ---- one row: gemv ----------------------------------------------------------------------------------------------- */

/* Outputs of a tile for one row, in four chains of sums that do not wait for each other. */
INLINE f32x16 gemv(const el_linear *w, int tile, const el_activations *x, int row, int kind, int activation_bytes) {
    const u8x64 *weight = (const u8x64 *)(w->weight + (int64_t)tile * x->kp * LANES);
    const int8_t *bytes = x->bytes + (int64_t)row * x->kp * activation_bytes;
    i32x16 high[4], low[4];
    for (int c = 0; c < 4; c++) high[c] = low[c] = splat_i32(0);

    for (int group = 0; group < x->kp / EL_GROUP; group++) {
        u8x64 unpacked[EL_GROUP / 4];
        if (kind == EL_INT4) unpack_group(w, tile, group, x->kp, unpacked);
        for (int i = 0; i < EL_GROUP / 4; i++, weight++, bytes += activation_bytes * 4) {
            u8x64 four = kind == EL_INT4 ? unpacked[i] : *weight;
            high[i % 4] = dot4(high[i % 4], four, bytes);
            if (activation_bytes == 2) low[i % 4] = dot4(low[i % 4], four, bytes + 4);
        }
    }
    return dequantized(
        w, tile, x, row, activation_bytes, (high[0] + high[1]) + (high[2] + high[3]),
        (low[0] + low[1]) + (low[2] + low[3]));
}

static f32x16 gemv_of_kind(const el_linear *w, int tile, const el_activations *x, int row) {
    if (w->kind == EL_INT4)
        return w->activation_bytes == 2 ? gemv(w, tile, x, row, EL_INT4, 2) : gemv(w, tile, x, row, EL_INT4, 1);
    return w->activation_bytes == 2 ? gemv(w, tile, x, row, EL_INT8, 2) : gemv(w, tile, x, row, EL_INT8, 1);
}

/* ---- several rows: gemm ------------------------------------------------------------------------------------------ */

/* Outputs of `tiles` tiles for `rows` rows from b on: y[row][tile]. Counts are constants where this is inlined, and all
   sums stay in registers. */
INLINE void gemm_block(
    const el_linear *w, const el_tiles *at, int tile, int tiles, const el_activations *x, int b, int rows,
    int activation_bytes, f32x16 *y) {
    const uint8_t *next = at->next;
    const int8_t *bytes = x->bytes + (int64_t)b * x->kp * activation_bytes;
    i32x16 high[MAX_ROWS * 2], low[MAX_ROWS * 2];
    for (int i = 0; i < rows * tiles; i++) high[i] = low[i] = splat_i32(0);

    for (int i = 0; i < x->kp; i += 4, next += 4 * at->next_stride, bytes += rows * activation_bytes * 4) {
        u8x64 weights[2];
        for (int t = 0; t < tiles; t++) {
            weights[t] = load_bytes(at->bytes + ((int64_t)t * x->kp + i) * LANES);
            __builtin_prefetch(next + (int64_t)t * x->kp * at->next_stride, 0, 2); /* to level 2: the first is full */
        }
        for (int r = 0; r < rows; r++) {
            const int8_t *four = bytes + r * activation_bytes * 4;
            for (int t = 0; t < tiles; t++) high[r * tiles + t] = dot4(high[r * tiles + t], weights[t], four);
            for (int t = 0; t < tiles && activation_bytes == 2; t++)
                low[r * tiles + t] = dot4(low[r * tiles + t], weights[t], four + 4);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int t = 0; t < tiles; t++) {
            i32x16 high_sum = high[r * tiles + t], low_sum = low[r * tiles + t];
            y[r * tiles + t] = dequantized(w, tile + t, x, b + r, activation_bytes, high_sum, low_sum);
        }
}

#define ROWS_CASE(ROWS) \
    case ROWS: \
        if (w->activation_bytes == 2) gemm_block(w, at, tile, tiles, x, b, ROWS, 2, y); \
        else gemm_block(w, at, tile, tiles, x, b, ROWS, 1, y); \
        break;

INLINE void gemm_block_of(
    const el_linear *w, const el_tiles *at, int tile, int tiles, const el_activations *x, int b, int rows, f32x16 *y) {
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

static void gemm_one_tile(
    const el_linear *w, const el_tiles *at, int tile, const el_activations *x, int b, int rows, f32x16 *y) {
    gemm_block_of(w, at, tile, 1, x, b, rows, y);
}

static void gemm_two_tiles(
    const el_linear *w, const el_tiles *at, int tile, const el_activations *x, int b, int rows, f32x16 *y) {
    gemm_block_of(w, at, tile, 2, x, b, rows, y);
}

/* ---- the product ------------------------------------------------------------------------------------------------- */

typedef enum { STORE, ADD, SWIGLU } el_epilogue; /* what happens to an output: y = , y += , y = silu(gate) * up */

typedef struct {
    float *y; /* [rows, stride] */
    int stride;
    el_epilogue epilogue;
} el_output;

/* Add the bias to the outputs of a block of rows, and put them where they belong. */
INLINE void finish_block(
    const el_linear *w, int tile, int tiles, int b, int rows, f32x16 *values, const el_output *out) {
    for (int i = 0; w->bias && i < rows * tiles; i++) values[i] += load(w->bias + (tile + i % tiles) * LANES);
    for (int r = 0; r < rows; r++) {
        float *to = out->y + (int64_t)(b + r) * out->stride;
        if (out->epilogue == SWIGLU) { /* a tile of gates and their ups */
            store(to + tile / 2 * LANES, silu(values[2 * r]) * values[2 * r + 1]);
            continue;
        }
        for (int t = 0; t < tiles; t++) {
            int n = (tile + t) * LANES, count = w->n - n < LANES ? w->n - n : LANES;
            f32x16 value = values[r * tiles + t];
            if (out->epilogue == ADD) value += load_tail(to, n, w->n);
            memcpy(to + n, &value, (size_t)count * sizeof(float));
        }
    }
}

/* This thread's channels for all rows, two tiles at a time: they stay in the processor's cache over the rows. */
static void gemm(const el_linear *w, const el_activations *x, el_output out, const el_scratch *s, el_thread t) {
    int num_tiles = padded(w->n, LANES) / LANES, blocks = num_blocks(x->rows);
    uint8_t *unpacked = s->unpacked + (int64_t)t.index * 2 * LANES * x->kp;
    el_range pairs = partition((num_tiles + 1) / 2, t.index, t.count);
    for (int pair = pairs.start; pair < pairs.end; pair++) {
        int tile = 2 * pair, tiles = num_tiles - tile < 2 ? 1 : 2;
        f32x16 values[MAX_ROWS * 2];

        if (x->rows == 1) { /* as fast as memory is, which likes a single stream */
            for (int i = 0; i < tiles; i++) values[i] = gemv_of_kind(w, tile + i, x, 0);
            finish_block(w, tile, tiles, 0, 1, values, &out);
            continue;
        }

        el_tiles at = unpack_tiles(w, tile, tiles, x->kp, unpacked);
        for (int block = 0; block < blocks; block++) {
            el_range rows = partition(x->rows, block, blocks);
            int b = rows.start, count = rows.end - rows.start;
            if (tiles == 2) gemm_two_tiles(w, &at, tile, x, b, count, values);
            else gemm_one_tile(w, &at, tile, x, b, count, values);
            finish_block(w, tile, tiles, b, count, values, &out);
        }
    }
}

#endif
