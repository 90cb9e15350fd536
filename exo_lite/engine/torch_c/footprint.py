"""The bytes that a range of layers takes: weights, KV cache and working space, exact for the first two."""

from __future__ import annotations

from exo_lite.domain.footprint import Footprint, ShardBytes
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.model_spec import DTYPE_BYTES, ModelSpec, Quantization
from exo_lite.domain.step import KV_BLOCK_TOKENS, PREFILL_CHUNK_TOKENS, num_kv_blocks
from exo_lite.engine.torch_c.weight_format import GROUP_SIZE, TILE, padded

_INT4_GROUP_BYTES = 2
"""A step and a minimum."""
_SCALE_BYTES = 4
_FLOAT32_BYTES = 4

Matrix = tuple[int, int]
"""(output channels, input channels)."""


def footprint(spec: ModelSpec, options: LoadOptions) -> Footprint:
    """Return the bytes of a layer and of each place: the embedding on the first shard, norm and lm_head on the last."""

    def place(*, is_first: bool, is_last: bool) -> ShardBytes:
        edges = _edge_weight_bytes(spec, options, is_first=is_first, is_last=is_last)
        return ShardBytes(edges, 0, _working_bytes(spec, options, is_last=is_last))

    return Footprint(
        n_layers=spec.n_layers,
        layer=ShardBytes(_layer_weight_bytes(spec, options), _layer_kv_cache_bytes(spec, options), 0),
        first=place(is_first=True, is_last=False),
        middle=place(is_first=False, is_last=False),
        last=place(is_first=False, is_last=True),
        only=place(is_first=True, is_last=True),
        lm_head_bytes=_lm_head_bytes(spec, options),
    )


def _layer_weight_bytes(spec: ModelSpec, options: LoadOptions) -> int:
    """One decoder layer. Norms and biases are float32 beside quantized matrices."""
    if options.quant == "none":
        return spec.layer_parameters * DTYPE_BYTES[options.dtype]
    norms = 2 * spec.hidden_size + (spec.q_size + spec.kv_size if spec.has_qk_norm else 0)
    biases = sum(padded(n, TILE) for (n, _), has_bias in _quantized_matrices(spec) if has_bias)
    matrices = sum(_quantized_bytes(matrix, options.quant) for matrix, _ in _quantized_matrices(spec))
    return matrices + _FLOAT32_BYTES * (norms + biases)


def _layer_kv_cache_bytes(spec: ModelSpec, options: LoadOptions) -> int:
    """Keys and values of one layer, for every slot at full context, in whole blocks."""
    num_positions = options.num_slots * num_kv_blocks(options.context_length) * KV_BLOCK_TOKENS
    return 2 * spec.kv_size * num_positions * DTYPE_BYTES[options.dtype]


def _edge_weight_bytes(spec: ModelSpec, options: LoadOptions, *, is_first: bool, is_last: bool) -> int:
    """Embedding on the first shard, final norm and output head on the last.

    A tied output head shares the embedding's memory only where both are on one shard and neither is quantized: the
    embedding is looked up in the compute type, a quantized head is a matrix of its own, int8 also beside int4 layers.
    """
    embedding = spec.embedding_parameters * DTYPE_BYTES[options.dtype] if is_first else 0
    if not is_last:
        return embedding
    norm = spec.hidden_size * (DTYPE_BYTES[options.dtype] if options.quant == "none" else _FLOAT32_BYTES)
    is_shared = is_first and spec.tie_word_embeddings and options.quant == "none"
    return embedding + norm + (0 if is_shared else _lm_head_bytes(spec, options))


def _lm_head_bytes(spec: ModelSpec, options: LoadOptions) -> int:
    """The matrix that makes logits of hidden states, whether or not it is the embedding too."""
    if options.quant == "none":
        return spec.embedding_parameters * DTYPE_BYTES[options.dtype]
    return _quantized_bytes((spec.vocab_size, spec.hidden_size), "int8")


def _working_bytes(spec: ModelSpec, options: LoadOptions, *, is_last: bool) -> int:
    """An estimate of the activations of the largest step, as if none were reused and all were float32.

    A step carries at most PREFILL_CHUNK_TOKENS of prompts and one token of every sequence. For each: the residual and
    its norm; q, k, v and attention's output; gate, up and their product. Then the chunk's attention scores against
    a full context and, on the last shard, one row of logits per sequence.
    """
    num_prompt_tokens = min(PREFILL_CHUNK_TOKENS, options.num_slots * options.context_length)
    per_token = 2 * spec.hidden_size + 2 * spec.q_size + 2 * spec.kv_size + 3 * spec.intermediate_size
    scores = spec.num_attention_heads * num_prompt_tokens * options.context_length
    logits = options.num_sequences * spec.vocab_size if is_last else 0
    return _FLOAT32_BYTES * ((num_prompt_tokens + options.num_sequences) * per_token + scores + logits)


def _quantized_matrices(spec: ModelSpec) -> list[tuple[Matrix, bool]]:
    """Return the layer's matrices as stored: q/k/v fused, gate/up fused; each with whether it has a bias."""
    hidden, inner = spec.hidden_size, spec.intermediate_size
    return [
        ((spec.q_size + 2 * spec.kv_size, hidden), spec.attention_bias),
        ((hidden, spec.q_size), spec.attention_output_bias),
        ((2 * padded(inner, TILE), hidden), spec.mlp_bias),
        ((hidden, inner), spec.mlp_bias),
    ]


def _quantized_bytes(matrix: Matrix, quant: Quantization) -> int:
    """Elements and the scales that belong to them."""
    num_outputs, num_inputs = padded(matrix[0], TILE), padded(matrix[1], GROUP_SIZE)
    if quant != "int4":
        return num_outputs * (num_inputs + _SCALE_BYTES)
    group_bytes = num_inputs // GROUP_SIZE * _INT4_GROUP_BYTES
    return num_outputs * (num_inputs // 2 + group_bytes + _SCALE_BYTES)
