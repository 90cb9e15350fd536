"""A whole model in this process, as a worker with all of its layers would hold it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exo_lite.catalog.hf_config import spec_from_config
from exo_lite.checkpoint.json_files import read_json_object
from exo_lite.domain.ids import ModelId
from exo_lite.domain.load_options import LoadOptions, LoadRequest
from exo_lite.domain.shard import Shard
from exo_lite.engine.torch_c.integer_shard import IntegerShard
from exo_lite.engine.torch_c.kv_cache import KVCache
from exo_lite.engine.torch_c.llama import LlamaShard
from exo_lite.engine.torch_c.open_shard import open_shard


@dataclass(frozen=True, slots=True)
class WholeModel:
    shard: LlamaShard | IntegerShard
    kv_cache: KVCache
    options: LoadOptions


def load_whole(folder: Path, request: LoadRequest) -> WholeModel:
    """All layers of a stored model on this machine's processor, with a cache as asked for."""
    spec = spec_from_config(read_json_object(folder / "config.json"))
    options = request.resolve(spec)
    whole = Shard(ModelId(folder.name), 0, spec.n_layers - 1, spec.n_layers)
    shard = open_shard(folder, spec, whole, options, device="cpu", on_progress=lambda _: None)
    return WholeModel(shard, shard.new_cache(options.num_slots, options.context_length), options)


def decode_weight_bytes(shard: LlamaShard | IntegerShard) -> int:
    """Of weights that each decode step reads: all but the embedding, of which it reads a row, unless it is the head."""
    assert shard.embedding is not None
    assert shard.lm_head is not None
    is_lm_head = any(tensor.data_ptr() == shard.embedding.data_ptr() for tensor in shard.lm_head.tensors)
    return shard.num_bytes - (0 if is_lm_head else shard.embedding.nbytes)
