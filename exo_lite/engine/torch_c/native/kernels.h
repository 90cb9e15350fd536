/* The data of the kernels. layout.py mirrors these structs by ctypes; el_sizeof_* in about.c let it check them.

   The sizes of the formats are written once, in constants.py, and reach the compiler as -D flags:

   EL_TILE           output channels of a linear that stand together, one in each lane of a vector
   EL_GROUP          inputs that share a step and a minimum in int4; rows of activations are padded to whole groups
   EL_WEIGHT_OFFSET  added to integer weights, so that they are unsigned: processors multiply unsigned by signed bytes
   EL_STEP_PARTS     parts of a weight's unit that an int4 step counts in
   EL_MAX_Q8, _Q16   the greatest integer that an activation of one and of two bytes becomes
   EL_BLOCK          tokens in a block of the KV cache
   EL_QUERIES        queries that attend together
   EL_INT8, EL_INT4                           kinds of weights
   EL_FLOAT32, EL_BFLOAT16, EL_FLOAT16        types of floats in memory */
#ifndef EXO_LITE_KERNELS_H
#define EXO_LITE_KERNELS_H

#include <stdint.h>

#ifndef EL_TILE
#error "sizes come from constants.py: compile with build.py, which passes them as -D flags"
#endif
_Static_assert(EL_TILE == 16, "a tile is as wide as the vectors of simd.h");
_Static_assert(EL_GROUP % 8 == 0, "int4 is unpacked eight inputs at a time");
_Static_assert(EL_STEP_PARTS == 16, "int4 is unpacked by shifts of four bits");
_Static_assert(EL_BLOCK % EL_TILE == 0, "the scores of a block are whole vectors");

/* y = W x + bias, W: [n, k]. Weights stand in tiles of EL_TILE = 16 channels; kp is k padded to EL_GROUP, and
   w = scale[n] * (byte - EL_WEIGHT_OFFSET).

   int8: bytes: [tiles, kp / 4, 16, 4]. Four inputs of a channel stand together, for one multiply-add instruction.
   int4: byte = steps[n, g] * q / 16, rounded down, + minima[n, g]. q: [tiles, kp / 8, 16, 4] bytes of two: inputs
         8 i + 1, 0, 3, 2 are the low halves, 8 i + 5, 4, 7, 6 the high ones. steps, minima: [tiles, kp / 32, 16]. */
typedef struct {
    int32_t n, k, kind, activation_bytes; /* activation_bytes: 1 or 2 */
    const uint8_t *weight, *steps, *minima;
    const float *scale; /* [tiles * 16] */
    const float *bias;  /* [tiles * 16] or null */
} el_linear;

typedef struct {
    const float *attention_norm, *mlp_norm; /* [hidden] */
    const float *qk_norm;                   /* [heads + kv_heads, head_dim] or null */
    el_linear qkv, output, gate_up, down;   /* gate_up: a tile of gates, the tile of their ups, and so on */
    void *keys, *values;                    /* see kv_layout.h */
} el_layer;

typedef struct {
    int32_t hidden, intermediate, heads, kv_heads, head_dim, context, num_layers, kv_type;
    int32_t cache_tokens, blocks_per_sequence;
    const int32_t *block_tables; /* [sequences, blocks_per_sequence] */
    float eps;
    const float *cos, *sin; /* [context, head_dim / 2] */
    const el_layer *layers;
} el_model;

/* Which token a row of hidden states belongs to. */
typedef struct {
    int32_t sequence, position;
} el_row;

/* Scratch memory. `widest` is the greatest number of inputs of a linear, padded to EL_GROUP. */
typedef struct {
    float *qkv;          /* [rows, qkv size] */
    float *x;            /* [rows, widest]: what goes into the next linear */
    int8_t *bytes;       /* [rows, widest, 2]: the same, quantized */
    float *scales;       /* [rows] */
    int32_t *sums;       /* [rows] */
    uint8_t *unpacked;   /* [threads, 2, EL_TILE, widest]: two tiles of int4 as bytes */
    float *scores;       /* [threads, EL_QUERIES, context padded to EL_BLOCK] */
    float *normed;       /* [threads, widest] */
    int32_t *run_starts; /* [rows + 1] */
} el_scratch;

/* ---- float weights, for few rows --------------------------------------------------------------------------------- */

/* y = W x + bias, W: [n, k] in the model's type. */
typedef struct {
    int32_t n, k;
    const void *weight, *bias; /* bias: [n] or null */
} el_float_linear;

typedef struct {
    const void *attention_norm, *mlp_norm;      /* [hidden] */
    const void *qk_norm;                        /* [heads + kv_heads, head_dim] or null */
    el_float_linear qkv, output, gate_up, down; /* gate_up: all gates, then all ups */
    void *keys, *values;                        /* see kv_layout.h */
} el_float_layer;

typedef struct {
    int32_t hidden, heads, kv_heads, head_dim, context, num_layers, type, cache_tokens, blocks_per_sequence;
    const int32_t *block_tables; /* [sequences, blocks_per_sequence] */
    float eps;
    const void *cos, *sin; /* [context, head_dim / 2] */
    const el_float_layer *layers;
} el_float_model;

typedef struct {
    float *hidden; /* [rows, hidden] */
    void *x;       /* [rows, widest]: what goes into the next linear, in the model's type */
    float *wide;   /* [rows, the greatest number of outputs of a linear] */
    float *scores; /* [threads, context padded to EL_BLOCK] */
} el_float_scratch;

#endif
