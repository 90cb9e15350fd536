/* Where a token's keys and values lie in the KV cache of a layer.

   Both arrays are [kv_heads, blocks, one block] in the cache's float type, a block being EL_BLOCK = 64 consecutive
   tokens of one sequence. block_tables [sequences, blocks_per_sequence] says which blocks a sequence owns, in the order
   of its tokens; cache_tokens = blocks * 64.

   Inside a block:

                     float engine (floats.c, torch)      integer engine (integers.c)
       values        [64 tokens, head_dim]               [64 tokens, head_dim]
       keys          [64 tokens, head_dim]               [head_dim, 64 tokens]: transposed

   Transposed, 16 tokens' scores grow in the lanes of a vector, and each is a sum over head_dim in ascending order:
   there is no horizontal sum, and the order does not depend on how many tokens or queries there are.

   Nobody but the engine that wrote a cache reads it. Blocks are handed from sequence to sequence whole, so whoever only
   hands them on need not know how they look inside. */
#ifndef EXO_LITE_KV_LAYOUT_H
#define EXO_LITE_KV_LAYOUT_H

#include "kernels.h"
#include "simd.h"

/* The first element of the block that holds a position. */
INLINE int64_t block_at(const el_model *m, int sequence, int kv_head, int position) {
    int64_t block = m->block_tables[(int64_t)sequence * m->blocks_per_sequence + position / EL_BLOCK];
    return ((int64_t)kv_head * m->cache_tokens + block * EL_BLOCK) * m->head_dim;
}

/* Element `dim` of the key of the `token`th token in a block, transposed; +1 is the next token's. */
INLINE int64_t key_at(int64_t block, int64_t token, int dim) { return block + (int64_t)dim * EL_BLOCK + token; }

/* Element 0 of the value of the `token`th token in a block; +1 is the next element. */
INLINE int64_t value_at(int64_t block, int64_t token, int head_dim) { return block + token * head_dim; }

/* Element 0 of a position's key or value in the float engine's cache; up to the block's end, + head_dim is the next
   token's. */
INLINE int64_t float_token_at(const el_float_model *m, int sequence, int kv_head, int position) {
    int64_t block = m->block_tables[(int64_t)sequence * m->blocks_per_sequence + position / EL_BLOCK];
    return ((int64_t)kv_head * m->cache_tokens + block * EL_BLOCK + position % EL_BLOCK) * m->head_dim;
}

#endif
