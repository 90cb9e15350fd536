/* Floats in memory, of 32 or 16 bits. Registers hold float32; `type` is a constant wherever a loop is inlined. */
#ifndef EXO_LITE_FLOAT_TYPES_H
#define EXO_LITE_FLOAT_TYPES_H

#include "simd.h"

#if !defined(__FLT16_MAX__) && defined(__F16C__)
#include <immintrin.h>
#endif

/* ---- one number -------------------------------------------------------------------------------------------------- */

#if defined(__FLT16_MAX__) /* the compiler has _Float16: clang from 15, GCC on x86-64 from 12, on AArch64 from 7 on */

INLINE uint16_t f32_to_f16(float x) {
    _Float16 f = (_Float16)x;
    uint16_t half;
    memcpy(&half, &f, sizeof half);
    return half;
}

INLINE float f16_to_f32(uint16_t half) {
    _Float16 f;
    memcpy(&f, &half, sizeof f);
    return (float)f;
}

#elif defined(__F16C__) /* the processor has the instructions: x86-64 since 2013 */

INLINE uint16_t f32_to_f16(float x) { return (uint16_t)_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT); }
INLINE float f16_to_f32(uint16_t half) { return _cvtsh_ss(half); }

#else
#error "float16 needs a newer compiler on this processor: GCC 12 or clang 15"
#endif

INLINE uint16_t f32_to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16); /* to the nearest, ties to even */
}

INLINE float bf16_to_f32(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Element i of an array of the type. */
INLINE float load_element(int type, const void *from, int64_t i) {
    if (type == EL_FLOAT32) return ((const float *)from)[i];
    uint16_t half = ((const uint16_t *)from)[i];
    return type == EL_BFLOAT16 ? bf16_to_f32(half) : f16_to_f32(half);
}

INLINE void store_element(int type, void *to, int64_t i, float x) {
    if (type == EL_FLOAT32) ((float *)to)[i] = x;
    else ((uint16_t *)to)[i] = type == EL_BFLOAT16 ? f32_to_bf16(x) : f32_to_f16(x);
}

/* x as the type holds it. */
INLINE float rounded(int type, float x) {
    if (type == EL_FLOAT32) return x;
    return type == EL_BFLOAT16 ? bf16_to_f32(f32_to_bf16(x)) : f16_to_f32(f32_to_f16(x));
}

/* ---- 16 numbers -------------------------------------------------------------------------------------------------- */

/* Elements i to i + 15. */
INLINE f32x16 load_elements(int type, const void *from, int64_t i) {
    if (type == EL_FLOAT32) return load((const float *)from + i);
    const uint16_t *halves = (const uint16_t *)from + i;
#ifdef EL_AVX512
    __m256i packed = _mm256_loadu_si256((const __m256i *)halves);
    if (type == EL_FLOAT16) return (f32x16)_mm512_cvtph_ps(packed);
    return (f32x16)_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(packed), 16));
#else
    f32x16 v;
    for (int j = 0; j < LANES; j++) v[j] = type == EL_BFLOAT16 ? bf16_to_f32(halves[j]) : f16_to_f32(halves[j]);
    return v;
#endif
}

/* Numbers that are rounded to the type already. */
INLINE void store_elements(int type, void *to, int64_t i, f32x16 v) {
    if (type == EL_FLOAT32) store((float *)to + i, v);
    else
        for (int j = 0; j < LANES; j++) store_element(type, to, i + j, v[j]);
}

INLINE f32x16 rounded16(int type, f32x16 v) {
    if (type == EL_FLOAT32) return v;
#ifdef EL_AVX512
    if (type == EL_FLOAT16) return (f32x16)_mm512_cvtph_ps(_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
#endif
    if (type == EL_BFLOAT16) {
        i32x16 bits = bits_of(v);
        return from_bits((bits + 0x7fff + ((bits >> 16) & 1)) & (int32_t)0xffff0000);
    }
    for (int i = 0; i < LANES; i++) v[i] = rounded(type, v[i]);
    return v;
}

#endif
