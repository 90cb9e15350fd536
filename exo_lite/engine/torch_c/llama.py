"""A Llama-like decoder, or the part of one that a node holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch program gives it
from torch import Tensor

from exo_lite.domain.errors import InvalidShard
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.shard import Shard
from exo_lite.domain.step import SequenceChunk
from exo_lite.engine.torch_c.attention import Attention, Batch, open_batch
from exo_lite.engine.torch_c.kv_cache import KVCache
from exo_lite.engine.torch_c.layers import Linear, SwiGLU, rms_norm
from exo_lite.engine.torch_c.native.float_layers import FloatLayers
from exo_lite.engine.torch_c.step_checks import check_chunks, check_hidden_states, check_logits, check_token_ids


@dataclass(frozen=True, slots=True, eq=False)
class DecoderLayer:
    """Attention and MLP, each behind a norm and added to its input. The norms' weights: [hidden_size]."""

    attention_norm: Tensor
    attention: Attention
    mlp_norm: Tensor
    mlp: SwiGLU
    eps: float

    def __call__(self, hidden: Tensor, batch: Batch, layer: int) -> Tensor:
        hidden = hidden + self.attention(rms_norm(hidden, self.attention_norm, self.eps), batch, layer)
        return hidden + self.mlp(rms_norm(hidden, self.mlp_norm, self.eps))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.attention_norm, self.mlp_norm, *self.attention.tensors, *self.mlp.tensors)


@dataclass(frozen=True, slots=True, eq=False)
class LlamaShard:
    """The layers of one shard; on the first one the embedding, on the last one the final norm and the output head.

    embedding: [vocab_size, hidden_size], lm_head's own weight where both are here and tied. few_rows: a faster way
    through the layers for steps of few rows.
    """

    spec: ModelSpec
    shard: Shard
    dtype: torch.dtype
    device: torch.device
    layers: tuple[DecoderLayer, ...]
    embedding: Tensor | None = None
    norm: Tensor | None = None
    lm_head: Linear | None = None
    few_rows: FloatLayers | None = None

    @property
    def numerics(self) -> None:
        """None: the order of float sums depends on what is computed beside a token."""

    @property
    def num_bytes(self) -> int:
        """The bytes of all weights, each tensor counted once."""
        return sum({tensor.data_ptr(): tensor.nbytes for tensor in self._tensors()}.values())

    def new_cache(self, num_slots: int, context_length: int, num_sequences: int | None = None) -> KVCache:
        """Room for the sequences that this shard is to serve."""
        return KVCache(
            self.spec,
            len(self.layers),
            num_slots,
            context_length,
            self.dtype,
            self.device,
            num_sequences=num_sequences,
        )

    @torch.inference_mode()
    def forward(self, inputs: Tensor, chunks: Sequence[SequenceChunk], kv_cache: KVCache) -> Tensor:
        """Run the rows of all chunks through the layers; the cache keeps their keys and values.

        inputs: token ids, int64 [tokens], on the first shard, else hidden states [tokens, hidden_size], chunk after
        chunk. Returns hidden states [tokens, hidden_size].
        Raises MalformedStep before anything is computed; the cache is then as it was.
        """
        check_chunks(chunks, inputs.shape[0] if inputs.dim() else 0, kv_cache)
        hidden = self._enter(inputs)
        if not chunks:
            return hidden
        if self.few_rows is not None and hidden.shape[0] <= self.few_rows.max_rows:
            hidden = self.few_rows.forward(hidden, chunks, kv_cache)
        else:
            batch = open_batch(chunks, kv_cache)
            for index, layer in enumerate(self.layers):
                hidden = layer(hidden, batch, index)
        kv_cache.commit(chunks)
        return hidden

    @torch.inference_mode()
    def logits(self, hidden_states: Tensor) -> Tensor:
        """Scores of every next token: [rows, hidden_size] to float32 [rows, vocab_size], on the last shard.

        Raises MalformedStep where they aren't finite, InvalidShard where there is no output head.
        """
        if self.norm is None or self.lm_head is None:
            raise InvalidShard(
                f"{self.shard} has no output head: it is not the last one of {self.shard.n_layers} layers"
            )
        check_hidden_states(hidden_states, self.spec.hidden_size, self.dtype)
        logits = self.lm_head(rms_norm(hidden_states, self.norm, self.spec.rms_norm_eps)).float()
        check_logits(logits, self.dtype)
        return logits

    def _enter(self, inputs: Tensor) -> Tensor:
        if self.embedding is None:
            check_hidden_states(inputs, self.spec.hidden_size, self.dtype)
            return inputs
        check_token_ids(inputs, self.spec.vocab_size)
        return F.embedding(inputs, self.embedding)

    def _tensors(self) -> Iterator[Tensor]:
        for layer in self.layers:
            yield from layer.tensors
        yield from (tensor for tensor in (self.embedding, self.norm) if tensor is not None)
        if self.lm_head is not None:
            yield from self.lm_head.tensors
