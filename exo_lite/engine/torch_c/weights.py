"""Loading a shard: only its own tensors, block by block, straight into the storage that they stay in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from exo_lite.checkpoint.safetensors_file import TensorEntry
from exo_lite.checkpoint.shard_entries import shard_entries
from exo_lite.checkpoint.tensor_names import EMBEDDING, NORM, layer_prefix, lm_head_name
from exo_lite.domain.errors import InvalidModel
from exo_lite.domain.model_spec import DTYPE_BYTES, DType, ModelSpec
from exo_lite.domain.shard import Shard
from exo_lite.engine.torch_c.attention import Attention
from exo_lite.engine.torch_c.dtypes import TORCH_DTYPES
from exo_lite.engine.torch_c.finite import is_finite
from exo_lite.engine.torch_c.huge_pages import advise_huge_pages
from exo_lite.engine.torch_c.layers import Linear, SwiGLU
from exo_lite.engine.torch_c.llama import DecoderLayer, LlamaShard
from exo_lite.engine.torch_c.native.few_rows import few_rows_for
from exo_lite.engine.torch_c.native.float_layers import FloatLayers, fits
from exo_lite.engine.torch_c.stored_tensors import read_blocks

BLOCK_BYTES = 4 * 2**20
"""Read at once: small next to any shard, and the block is still in the processor's cache when it is checked."""


def load_shard(
    model_dir: Path,
    spec: ModelSpec,
    shard: Shard,
    *,
    dtype: DType,
    device: str,
    on_progress: Callable[[float], None],
) -> LlamaShard:
    """Read a shard's weights from `model_dir`, converted to `dtype`. `on_progress` hears fractions that rise to 1.

    Memory peaks at what the shard keeps and a block of a few MiB. Names, shapes and types are checked before the first
    weight is read. Raises InvalidModel naming file and tensor, InvalidShard where shard and spec differ.
    """
    reader = TensorReader(shard_entries(model_dir, spec, shard), TORCH_DTYPES[dtype], torch.device(device), on_progress)
    embedding = reader.tensor(f"{EMBEDDING}.weight") if shard.is_first else None
    layers = tuple(_layer(reader, spec, layer) for layer in shard.layers)
    norm = reader.tensor(f"{NORM}.weight") if shard.is_last else None
    lm_head = _lm_head(reader, spec, embedding) if shard.is_last else None
    few_rows = few_rows_for([layer.mlp.gate_up.weight for layer in layers])
    return LlamaShard(
        spec,
        shard,
        TORCH_DTYPES[dtype],
        torch.device(device),
        layers,
        embedding,
        norm,
        lm_head and replace(lm_head, few_rows=few_rows),
        FloatLayers(few_rows, spec, layers) if few_rows is not None and fits(spec) else None,
    )


def _layer(reader: TensorReader, spec: ModelSpec, layer: int) -> DecoderLayer:
    prefix = layer_prefix(layer)
    attention = prefix + "self_attn."
    return DecoderLayer(
        attention_norm=reader.tensor(prefix + "input_layernorm.weight"),
        attention=Attention(
            qkv=reader.linear(attention + "q_proj", attention + "k_proj", attention + "v_proj"),
            output=reader.linear(attention + "o_proj"),
            qk_norm=_qk_norm(reader, spec, attention) if spec.has_qk_norm else None,
            num_heads=spec.num_attention_heads,
            num_kv_heads=spec.num_key_value_heads,
            head_dim=spec.head_dim,
            eps=spec.rms_norm_eps,
        ),
        mlp_norm=reader.tensor(prefix + "post_attention_layernorm.weight"),
        mlp=SwiGLU(
            gate_up=reader.linear(prefix + "mlp.gate_proj", prefix + "mlp.up_proj"),
            down=reader.linear(prefix + "mlp.down_proj"),
        ),
        eps=spec.rms_norm_eps,
    )


def _qk_norm(reader: TensorReader, spec: ModelSpec, prefix: str) -> Tensor:
    """[heads + kv_heads, head_dim]: one weight per head, so that q and k are normed by one call."""
    query = reader.tensor(prefix + "q_norm.weight").expand(spec.num_attention_heads, -1)
    key = reader.tensor(prefix + "k_norm.weight").expand(spec.num_key_value_heads, -1)
    return torch.cat((query, key))


def _lm_head(reader: TensorReader, spec: ModelSpec, embedding: Tensor | None) -> Linear:
    if spec.tie_word_embeddings and embedding is not None:
        return Linear(embedding)
    return reader.linear(lm_head_name(spec))


class TensorReader:
    """Reads tensors into memory of their own, converts and checks them, and tells how far it is."""

    def __init__(
        self,
        entries: Mapping[str, TensorEntry],
        dtype: torch.dtype,
        device: torch.device,
        on_progress: Callable[[float], None],
    ) -> None:
        self._entries = entries
        self._dtype = dtype
        self._device = device
        self._on_progress = on_progress
        self._num_total = sum(entry.num_elements for entry in entries.values())
        self._num_read = 0
        self._scratch = torch.empty(BLOCK_BYTES, dtype=torch.uint8)  # one for all: freed blocks leave holes

    def tensor(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """One tensor of the checkpoint, in the shard's type unless another is asked for."""
        return self._fused([name], dtype)

    def row_blocks(self, name: str) -> Iterator[Tensor]:
        """A matrix in the checkpoint's own type, some rows at a time, each block valid until the next one."""
        entry = self._entries[name]
        num_columns = entry.shape[1]
        row_bytes = num_columns * DTYPE_BYTES[entry.stored_dtype]
        if row_bytes > self._scratch.numel():
            self._scratch = torch.empty(row_bytes, dtype=torch.uint8)
        for block in read_blocks(entry, self._scratch[: self._scratch.numel() // row_bytes * row_bytes]):
            self._check(block, entry)
            yield block.view(-1, num_columns)
            self._advance(block.numel())

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entries[name].shape

    def has(self, name: str) -> bool:
        return name in self._entries

    def skip(self, *names: str) -> None:
        """Count tensors as read that were found elsewhere."""
        self._advance(sum(self._entries[name].num_elements for name in names))

    def linear(self, *names: str) -> Linear:
        """The projections of these names as one, their rows one below the other."""
        weight = self._fused([f"{name}.weight" for name in names])
        has_bias = f"{names[0]}.bias" in self._entries
        return Linear(weight, self._fused([f"{name}.bias" for name in names]) if has_bias else None)

    def _fused(self, names: list[str], dtype: torch.dtype | None = None) -> Tensor:
        entries = [self._entries[name] for name in names]
        num_rows = [entry.shape[0] for entry in entries]
        shape = (sum(num_rows), *entries[0].shape[1:])
        storage = advise_huge_pages(torch.empty(shape, dtype=dtype or self._dtype, device=self._device))
        for entry, rows in zip(entries, storage.split_with_sizes(num_rows), strict=True):
            self._fill(rows.view(-1), entry)
        return storage

    def _fill(self, target: Tensor, entry: TensorEntry) -> None:
        start = 0
        for block in read_blocks(entry, self._scratch):
            part = target[start : start + block.numel()]
            part.copy_(block)
            self._check(part, entry)
            start += block.numel()
            self._advance(block.numel())

    def _check(self, part: Tensor, entry: TensorEntry) -> None:
        if not is_finite(part):
            narrow = part.dtype == torch.float16 and entry.stored_dtype != "float16"
            way_out = "load it with `--dtype bfloat16`" if narrow else "the file is damaged: fetch it again"
            raise InvalidModel(
                f"{entry.path}: tensor {entry.name} holds values that are not finite in {part.dtype}; {way_out}"
            )

    def _advance(self, num_elements: int) -> None:
        self._num_read += num_elements
        self._on_progress(min(1.0, self._num_read / self._num_total))
