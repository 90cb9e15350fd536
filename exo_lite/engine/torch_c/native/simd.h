/* Vectors of 16 lanes in plain C: the compiler makes one, two or four registers of each.

   GCC's and clang's vector extensions serve all processors; intrinsics stand only where both compilers miss the right
   instruction. Every function gives the same bits on every path. */
#ifndef EXO_LITE_SIMD_H
#define EXO_LITE_SIMD_H

#include "kernels.h"

#include <math.h>
#include <string.h>

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

typedef float f32x16 __attribute__((vector_size(64), aligned(4)));
typedef int32_t i32x16 __attribute__((vector_size(64), aligned(4)));
typedef int8_t i8x16 __attribute__((vector_size(16), aligned(1)));
typedef uint8_t u8x64 __attribute__((vector_size(64), aligned(1)));

/* The lanes of a vector in another order. */
#ifdef __clang__
#define SHUFFLE(v, ...) __builtin_shufflevector(v, v, __VA_ARGS__)
#else
#define SHUFFLE(v, ...) __builtin_shuffle(v, (i32x16){__VA_ARGS__}) /* GCC has the other one from 12 on */
#endif

/* ---- lanes ------------------------------------------------------------------------------------------------------- */

INLINE f32x16 splat(float x) { return (f32x16){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
INLINE i32x16 splat_i32(int32_t x) { return (i32x16){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
INLINE f32x16 load(const float *p) { return *(const f32x16 *)p; }
INLINE void store(float *p, f32x16 v) { *(f32x16 *)p = v; }
INLINE u8x64 load_bytes(const uint8_t *p) { return *(const u8x64 *)p; }

/* Lanes beyond the end of a row of n floats are zero. */
INLINE f32x16 load_tail(const float *p, int i, int n) {
    if (n - i >= LANES) return load(p + i);
    f32x16 v = splat(0.0f);
    memcpy(&v, p + i, (size_t)(n - i) * sizeof(float));
    return v;
}

/* The same bits as another type; `to_…` converts the numbers. */
INLINE i32x16 bits_of(f32x16 v) {
    i32x16 bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}

INLINE f32x16 from_bits(i32x16 bits) {
    f32x16 v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

INLINE f32x16 to_f32(i32x16 v) { return __builtin_convertvector(v, f32x16); }

INLINE i8x16 to_i8(i32x16 v) {
#ifdef EL_AVX512
    return (i8x16)_mm512_cvtepi32_epi8((__m512i)v);
#else
    return __builtin_convertvector(v, i8x16);
#endif
}

/* 1.5 * 2^23. Added to a float of at most 2^22 it leaves no bits for a fraction: the sum is rounded to the nearest
   whole number, ties to even, and its lowest bits are that number's. The half keeps sums with negative ones in one
   binade. */
#define ROUNDING 12582912.0f

INLINE i32x16 round_to_i32(f32x16 v) { return bits_of(v + splat(ROUNDING)) - bits_of(splat(ROUNDING)); }

INLINE f32x16 blend(i32x16 mask, f32x16 a, f32x16 b) { return from_bits((bits_of(a) & mask) | (bits_of(b) & ~mask)); }
INLINE f32x16 max16(f32x16 a, f32x16 b) { return blend(a > b, a, b); }
INLINE f32x16 abs16(f32x16 v) { return from_bits(bits_of(v) & 0x7fffffff); }

/* a * b + c, rounded once on every machine: also where it takes a call. */
INLINE f32x16 fma16(f32x16 a, f32x16 b, f32x16 c) {
#ifdef EL_AVX512
    return (f32x16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
    for (int i = 0; i < LANES; i++) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return c;
#endif
}

/* ---- across the lanes -------------------------------------------------------------------------------------------- */

/* Horizontal sum, in one order: halves of 8 lanes, of 4, of 2, of 1. */
INLINE float hsum(f32x16 v) {
    v += SHUFFLE(v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    v += SHUFFLE(v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    v += SHUFFLE(v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    v += SHUFFLE(v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    return v[0];
}

INLINE int32_t hsum_i32(i32x16 v) {
#ifdef EL_AVX512
    return _mm512_reduce_add_epi32((__m512i)v);
#else
    int32_t sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
#endif
}

INLINE float hmax(f32x16 v) {
#ifdef EL_AVX512
    return _mm512_reduce_max_ps((__m512)v);
#else
    float most = v[0];
    for (int i = 1; i < LANES; i++) most = v[i] > most ? v[i] : most;
    return most;
#endif
}

/* ---- functions --------------------------------------------------------------------------------------------------- */

INLINE int padded(int n, int unit) { return (n + unit - 1) / unit * unit; }

/* exp(x) for x <= 88, relative error below 3e-7 (range reduction by ln 2, polynomial of degree 6). */
INLINE f32x16 exp16(f32x16 x) {
    x = max16(x, splat(-87.0f));
    f32x16 t = x * splat(1.44269504088896341f) + splat(ROUNDING);
    f32x16 n = t - splat(ROUNDING);
    x = x - n * splat(0.693145751953125f);
    x = x - n * splat(1.42860682030941723e-6f);
    f32x16 p = splat(1.9875691500e-4f);
    p = p * x + splat(1.3981999507e-3f);
    p = p * x + splat(8.3334519073e-3f);
    p = p * x + splat(4.1665795894e-2f);
    p = p * x + splat(1.6666665459e-1f);
    p = p * x + splat(5.0000001201e-1f);
    p = p * x * x + x + splat(1.0f);
    return p * from_bits((__builtin_convertvector(n, i32x16) + 127) << 23);
}

INLINE f32x16 silu(f32x16 x) { return x / (splat(1.0f) + exp16(-x)); }

/* Scores to the numerators of their softmax, zero from `length` up to `end`. Returns the denominator. */
INLINE float softmax_numerators(float *scores, int length, int end) {
    for (int j = length; j < padded(length, LANES); j++) scores[j] = -INFINITY;

    f32x16 tops = splat(-INFINITY), total = splat(0.0f);
    for (int j = 0; j < length; j += LANES) tops = max16(load(scores + j), tops);
    f32x16 top = splat(hmax(tops));

    for (int j = 0; j < length; j += LANES) {
        f32x16 p = exp16(load(scores + j) - top);
        for (int i = length - j; i < LANES; i++) p[i] = 0.0f;
        total += p;
        store(scores + j, p);
    }
    for (int j = padded(length, LANES); j < end; j++) scores[j] = 0.0f;
    return hsum(total);
}

/* y = x / rms(x) * weight (Zhang & Sennrich 2019, arXiv:1910.07467); y may be x. */
INLINE void rms_norm(const float *x, const float *weight, int n, float eps, float *y) {
    f32x16 squares = splat(0.0f);
    for (int i = 0; i < n; i += LANES) {
        f32x16 v = load_tail(x, i, n);
        squares += v * v;
    }
    float inverse_rms = 1.0f / sqrtf(hsum(squares) / (float)n + eps);
    for (int i = 0; i < n; i++) y[i] = x[i] * inverse_rms * weight[i];
}

#endif
