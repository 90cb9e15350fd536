/* The exact engine's data, shared with exo_lite/engine/torch_c/native/layout.py, which mirrors these structs by ctypes. */
#ifndef EXO_LITE_KERNELS_H
#define EXO_LITE_KERNELS_H

#include <stdint.h>

#define EL_ABI 8

#define EL_BLOCK 64 /* tokens in a block of the KV cache */
#define EL_TILE 16  /* output channels in a tile */
#define EL_WEIGHT_OFFSET 128 /* of weights' bytes, so that the products' unsigned operand can hold them */
#define EL_GROUP 32 /* inputs that share an int4 step and minimum; rows of activations are padded to it */

enum { EL_INT8 = 0, EL_INT4 = 1 };
enum { EL_FLOAT32 = 0, EL_BFLOAT16 = 1, EL_FLOAT16 = 2 };

/* y = W x, W: [n, k], in tiles of 16 channels, kp = k and tiles * 16 = n rounded up; w = scale[n] * (byte - 128).
   int8: bytes: [tiles, kp / 4, 16, 4]: the four inputs of a channel stand together, as the products want them.
   int4: byte = steps[n, g] * q / 16, rounded down, + minima[n, g]; q: [tiles, kp / 8, 16, 4], where inputs 8 i + 1, 0, 3,
   2 have the low halves and 8 i + 5, 4, 7, 6 the high ones; steps and minima: [tiles, kp / 32, 16]. */
typedef struct {
    int32_t n, k, kind, halves; /* halves: 2 for activations of 16 bits, 1 for 8 */
    const uint8_t *weight, *steps, *minima;
    const float *scale; /* [tiles * 16] */
    const float *bias;  /* [tiles * 16] or null */
} el_linear;

typedef struct {
    const float *attention_norm, *mlp_norm; /* [hidden] */
    const float *qk_norm;                   /* [heads + kv_heads, head_dim] or null */
    el_linear qkv, output, gate_up, down;   /* gate_up: a tile of gates, the tile of their ups, and so on */
    void *keys, *values; /* [kv_heads, cache_tokens, head_dim]; a block of keys lies the other way, [head_dim, 64] */
} el_layer;

typedef struct {
    int32_t hidden, intermediate, heads, kv_heads, head_dim, context, num_layers, kv_type;
    int32_t cache_tokens, blocks_per_slot;
    const int32_t *tables; /* [slots, blocks_per_slot]: the block of each EL_BLOCK tokens of a sequence */
    float eps;
    const float *cos, *sin; /* [context, head_dim / 2] */
    const el_layer *layers;
} el_model;

typedef struct {
    int32_t slot, position;
} el_row;

/* Working memory; `widest` is the greatest number of inputs of a linear, padded. */
typedef struct {
    float *qkv;        /* [rows, qkv size] */
    float *x;          /* [rows, widest]: what goes into the next linear */
    int8_t *bytes;     /* [rows, widest, 2] */
    float *scales;     /* [rows] */
    int32_t *sums;     /* [rows] */
    uint8_t *unpacked; /* [threads, 2, EL_TILE, widest]: two tiles of int4 as int8 */
    float *scores;     /* [threads, 4, context rounded to EL_BLOCK] */
    float *normed;     /* [threads, widest] */
    int32_t *starts;   /* [rows + 1] */
} el_scratch;

/* ---- float weights, for few rows */

/* y = W x + b, W: [n, k] in the model's type. */
typedef struct {
    int32_t n, k;
    const void *weight, *bias; /* bias: [n] or null */
} el_float_linear;

typedef struct {
    const void *attention_norm, *mlp_norm; /* [hidden] */
    const void *qk_norm;                   /* [heads + kv_heads, head_dim] or null */
    el_float_linear qkv, output, gate_up, down; /* gate_up: all gates, then all ups */
    void *keys, *values; /* [kv_heads, cache_tokens, head_dim] */
} el_float_layer;

typedef struct {
    int32_t hidden, heads, kv_heads, head_dim, context, num_layers, type, cache_tokens, blocks_per_slot;
    const int32_t *tables; /* [slots, blocks_per_slot] */
    float eps;
    const void *cos, *sin; /* [context, head_dim / 2] */
    const el_float_layer *layers;
} el_float_model;

typedef struct {
    float *hidden; /* [rows, hidden] */
    void *x;       /* [rows, widest]: what goes into the next linear, in the model's type */
    float *wide;   /* [rows, widest output] */
    float *scores; /* [threads, context rounded to EL_BLOCK] */
} el_float_scratch;

#endif
