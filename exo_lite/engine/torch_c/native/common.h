/* What the integer and the float engine share: 16 floats at a time, caches of several types, shares of work. */
#ifndef EXO_LITE_COMMON_H
#define EXO_LITE_COMMON_H

#include "kernels.h"

#include <math.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#include <immintrin.h>
#define EL_AVX512 1
#elif defined(__AVX2__)
#include <immintrin.h>
#define EL_AVX2 1
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#define EL_NEON 1
#endif

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))
#define LANES EL_TILE
#define QUERIES 4 /* attended at once */

typedef float v16 __attribute__((vector_size(64), aligned(4)));
typedef int32_t i16v __attribute__((vector_size(64), aligned(4)));
typedef int8_t b16v __attribute__((vector_size(16), aligned(1)));
typedef uint8_t u16v __attribute__((vector_size(16), aligned(1)));
typedef uint8_t u64v __attribute__((vector_size(64), aligned(1)));

INLINE v16 splat(float x) { return (v16){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
INLINE i16v splat_i(int32_t x) { return (i16v){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
INLINE v16 load(const float *p) { return *(const v16 *)p; }
INLINE void store(float *p, v16 v) { *(v16 *)p = v; }
INLINE u64v load_bytes(const uint8_t *p) { return *(const u64v *)p; }

INLINE i16v bits_of(v16 v) { i16v b; memcpy(&b, &v, sizeof b); return b; }
INLINE v16 of_bits(i16v b) { v16 v; memcpy(&v, &b, sizeof v); return v; }
INLINE v16 pick(i16v mask, v16 a, v16 b) { return of_bits((bits_of(a) & mask) | (bits_of(b) & ~mask)); }
INLINE v16 max16(v16 a, v16 b) { return pick(a > b, a, b); }
INLINE v16 abs16(v16 v) { return of_bits(bits_of(v) & 0x7fffffff); }
INLINE v16 floats_of(i16v v) { return __builtin_convertvector(v, v16); }

/* Rounded once, on every machine. */
INLINE v16 fma16(v16 a, v16 b, v16 c) {
#ifdef EL_AVX512
    return (v16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
    for (int i = 0; i < LANES; i++) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return c;
#endif
}

INLINE float sum16(v16 v) {
    v += __builtin_shuffle(v, (i16v){8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7});
    v += __builtin_shuffle(v, (i16v){4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11});
    v += __builtin_shuffle(v, (i16v){2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13});
    v += __builtin_shuffle(v, (i16v){1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14});
    return v[0];
}

INLINE int32_t sum_i(i16v v) {
#ifdef EL_AVX512
    return _mm512_reduce_add_epi32((__m512i)v);
#else
    int32_t sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
#endif
}

INLINE float most16(v16 v) {
#ifdef EL_AVX512
    return _mm512_reduce_max_ps((__m512)v);
#endif
    float most = v[0];
    for (int i = 1; i < LANES; i++) most = v[i] > most ? v[i] : most;
    return most;
}

/* exp(x) for x <= 88, relative error below 3e-7 (range reduction by ln 2, polynomial of degree 6). */
INLINE v16 exp16(v16 x) {
    x = max16(x, splat(-87.0f));
    v16 t = x * splat(1.44269504088896341f) + splat(12582912.0f);
    v16 n = t - splat(12582912.0f);
    x = x - n * splat(0.693145751953125f);
    x = x - n * splat(1.42860682030941723e-6f);
    v16 p = splat(1.9875691500e-4f);
    p = p * x + splat(1.3981999507e-3f);
    p = p * x + splat(8.3334519073e-3f);
    p = p * x + splat(4.1665795894e-2f);
    p = p * x + splat(1.6666665459e-1f);
    p = p * x + splat(5.0000001201e-1f);
    p = p * x * x + x + splat(1.0f);
    return p * of_bits((__builtin_convertvector(n, i16v) + 127) << 23);
}

/* Lanes beyond the end of a row count as zero. */
INLINE v16 load_at(const float *p, int i, int n) {
    if (n - i >= LANES) return load(p + i);
    v16 v = splat(0.0f);
    memcpy(&v, p + i, (size_t)(n - i) * sizeof(float));
    return v;
}

INLINE int padded(int n, int unit) { return (n + unit - 1) / unit * unit; }

/* Numbers of the `part`th of `parts` shares. */
INLINE void share(int total, int part, int parts, int *from, int *to) {
    *from = (int)((int64_t)total * part / parts);
    *to = (int)((int64_t)total * (part + 1) / parts);
}

INLINE b16v bytes_of(i16v v) {
#ifdef EL_AVX512
    return (b16v)_mm512_cvtepi32_epi8((__m512i)v);
#else
    return __builtin_convertvector(v, b16v);
#endif
}

INLINE void norm_row(const float *x, const float *weight, int n, float eps, float *y) {
    v16 squares = splat(0.0f);
    for (int i = 0; i < n; i += LANES) {
        v16 v = load_at(x, i, n);
        squares += v * v;
    }
    float r = 1.0f / sqrtf(sum16(squares) / (float)n + eps);
    for (int i = 0; i < n; i++) y[i] = x[i] * r * weight[i];
}

INLINE uint16_t to_half(float x) {
    _Float16 f = (_Float16)x;
    uint16_t h;
    memcpy(&h, &f, sizeof h);
    return h;
}

INLINE float from_half(uint16_t h) {
    _Float16 f;
    memcpy(&f, &h, sizeof f);
    return (float)f;
}

INLINE uint16_t to_bfloat(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

INLINE float from_bfloat(uint16_t h) {
    uint32_t bits = (uint32_t)h << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

INLINE int cell_bytes(int kv_type) { return kv_type == EL_FLOAT32 ? 4 : 2; }

/* Element i of a cache, counted in its own type. */
INLINE void write_cell(int kv_type, void *cache, int64_t i, float x) {
    if (kv_type == EL_FLOAT32) ((float *)cache)[i] = x;
    else ((uint16_t *)cache)[i] = kv_type == EL_BFLOAT16 ? to_bfloat(x) : to_half(x);
}

INLINE v16 read_cells(int kv_type, const void *cache, int64_t i) {
    if (kv_type == EL_FLOAT32) return load((const float *)cache + i);
    const uint16_t *halves = (const uint16_t *)cache + i;
#ifdef EL_AVX512
    __m256i packed = _mm256_loadu_si256((const __m256i *)halves);
    if (kv_type == EL_FLOAT16) return (v16)_mm512_cvtph_ps(packed);
    return (v16)_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(packed), 16));
#else
    v16 v;
    for (int j = 0; j < LANES; j++) v[j] = kv_type == EL_BFLOAT16 ? from_bfloat(halves[j]) : from_half(halves[j]);
    return v;
#endif
}

INLINE float read_cell(int type, const void *from, int64_t i) {
    if (type == EL_FLOAT32) return ((const float *)from)[i];
    uint16_t half = ((const uint16_t *)from)[i];
    return type == EL_BFLOAT16 ? from_bfloat(half) : from_half(half);
}

/* Where the block of a sequence's tokens from `start` on begins, in elements. */
INLINE int64_t block_at(const el_model *m, int slot, int head, int start) {
    int64_t block = m->tables[(int64_t)slot * m->blocks_per_slot + start / EL_BLOCK];
    return ((int64_t)head * m->cache_tokens + block * EL_BLOCK) * m->head_dim;
}

/* Scores to weights that still want to be divided by what is returned; zero from `length` up to `end`. */
INLINE float soften(float *scores, int length, int end) {
    for (int j = length; j < padded(length, LANES); j++) scores[j] = -INFINITY;
    v16 tops = splat(-INFINITY), total = splat(0.0f);
    for (int j = 0; j < length; j += LANES) tops = max16(load(scores + j), tops);
    v16 top = splat(most16(tops));
    for (int j = 0; j < length; j += LANES) {
        v16 p = exp16(load(scores + j) - top);
        for (int i = length - j; i < LANES; i++) p[i] = 0.0f;
        total += p;
        store(scores + j, p);
    }
    for (int j = padded(length, LANES); j < end; j++) scores[j] = 0.0f;
    return sum16(total);
}

INLINE v16 silu(v16 g) { return g / (splat(1.0f) + exp16(-g)); }

#ifdef _OPENMP
#define PART omp_get_thread_num()
#define PARTS omp_get_num_threads()
#else
#define PART 0
#define PARTS 1
#endif

#endif
