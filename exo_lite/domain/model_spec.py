"""A model's dimensions. Names are those of Hugging Face's config.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DType = Literal["float32", "bfloat16", "float16"]
Quantization = Literal["none", "int8", "int4", "w8a8"]
"""The number type of weights, with 16-bit activations; w8a8 is int8 with 8-bit activations: faster prompts, less exact
answers."""
RopeType = Literal["default", "linear", "dynamic", "llama3"]
ModelType = Literal["llama", "mistral", "qwen2", "qwen3"]

MAX_CONTEXT_LENGTH = 2**31 - 1
DTYPE_BYTES: dict[DType, int] = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How positions are stretched beyond the length a model was trained on.

    The last four fields are Llama 3.1's (`rope_type: llama3`); the others take `factor` alone.
    """

    rope_type: RopeType = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Dimensions and switches of a Llama-like decoder."""

    model_type: ModelType
    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling = RopeScaling()
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    """True if q, k and v have a bias; `attention_output_bias` is the one of o."""
    attention_output_bias: bool = False
    mlp_bias: bool = False
    has_qk_norm: bool = False
    """RMSNorm over each head of q and k before RoPE (Qwen3)."""
    dtype: DType = "bfloat16"
    """The checkpoint's own type."""

    @property
    def n_layers(self) -> int:
        return self.num_hidden_layers

    @property
    def context_length(self) -> int:
        """The longest context.

        Beside `linear` and `dynamic` scaling, max_position_embeddings is what is stretched; Llama 3.1 has the length
        that it is stretched to there.
        """
        factor = self.rope_scaling.factor if self.rope_scaling.rope_type in ("linear", "dynamic") else 1.0
        return min(int(self.max_position_embeddings * factor), MAX_CONTEXT_LENGTH)

    @property
    def q_size(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_key_value_heads * self.head_dim

    @property
    def layer_parameters(self) -> int:
        """Parameters of one decoder layer."""
        return self.layer_matrix_parameters + self.layer_vector_parameters

    @property
    def layer_matrix_parameters(self) -> int:
        """The number of a layer's parameters in matrices, which quantization makes smaller."""
        attention = self.hidden_size * (2 * self.q_size + 2 * self.kv_size)
        return attention + 3 * self.hidden_size * self.intermediate_size

    @property
    def layer_vector_parameters(self) -> int:
        """The number of a layer's parameters in norms and biases, which keep the compute type."""
        norms = 2 * self.hidden_size + (2 * self.head_dim if self.has_qk_norm else 0)
        qkv_bias = self.q_size + 2 * self.kv_size if self.attention_bias else 0
        output_bias = self.hidden_size if self.attention_output_bias else 0
        mlp_bias = 2 * self.intermediate_size + self.hidden_size if self.mlp_bias else 0
        return norms + qkv_bias + output_bias + mlp_bias

    @property
    def embedding_parameters(self) -> int:
        return self.vocab_size * self.hidden_size

    @property
    def num_parameters(self) -> int:
        """The number of all parameters, a tied output head counted once."""
        num_matrices = 1 if self.tie_word_embeddings else 2
        return self.n_layers * self.layer_parameters + num_matrices * self.embedding_parameters + self.hidden_size
