"""Small random checkpoints written by transformers, which is also the reference for their logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from exo_lite.domain.ids import ModelId
from exo_lite.domain.model_spec import DType, ModelSpec, ModelType, RopeScaling
from exo_lite.domain.shard import Shard
from exo_lite.domain.step import SequenceChunk
from exo_lite.engine.torch_c.kv_cache import KVCache
from exo_lite.engine.torch_c.llama import LlamaShard
from exo_lite.engine.torch_c.weights import load_shard

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
CONFIGS: dict[str, type[PreTrainedConfig]] = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
}
CONTEXT_LENGTH = 48


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Shards of one model, each with a cache, run one after the other."""

    shards: tuple[LlamaShard, ...]
    caches: tuple[KVCache, ...]

    def hidden(self, token_ids: Sequence[int], chunks: Sequence[SequenceChunk]) -> Tensor:
        rows = torch.tensor(token_ids)
        for shard, cache in zip(self.shards, self.caches, strict=True):
            rows = shard.forward(rows, chunks, cache)
        return rows

    def logits(self, token_ids: Sequence[int], chunks: Sequence[SequenceChunk]) -> Tensor:
        return self.shards[-1].logits(self.hidden(token_ids, chunks))

    def prefill(self, token_ids: Sequence[int], *, sequence_index: int = 0, chunk_size: int | None = None) -> Tensor:
        """Logits of every position of one sequence, computed in chunks."""
        size = chunk_size or len(token_ids)
        parts = [token_ids[start : start + size] for start in range(0, len(token_ids), size)]
        return torch.cat(
            [
                self.logits(part, [SequenceChunk(sequence_index, index * size, len(part))])
                for index, part in enumerate(parts)
            ]
        )


@dataclass(frozen=True, slots=True)
class RandomModel:
    """A checkpoint on disk and the transformers model that wrote it."""

    path: Path
    spec: ModelSpec
    reference: PreTrainedModel

    def logits(self, token_ids: Sequence[int]) -> Tensor:
        """The reference's, float32 [tokens, vocab_size]."""
        with torch.inference_mode():
            logits: Tensor = self.reference(torch.tensor([token_ids])).logits
        return logits[0]

    def shard(self, start_layer: int = 0, end_layer: int | None = None, dtype: DType = "float32") -> LlamaShard:
        last = self.spec.n_layers - 1 if end_layer is None else end_layer
        shard = Shard(ModelId("random"), start_layer, last, self.spec.n_layers)
        return load_shard(self.path, self.spec, shard, dtype=dtype, device="cpu", on_progress=lambda fraction: None)

    def cache(self, shard: LlamaShard, num_slots: int = 3, context_length: int = CONTEXT_LENGTH) -> KVCache:
        return KVCache(self.spec, shard.shard.num_layers, num_slots, context_length, shard.dtype, shard.device)

    def pipeline(self, *ends: int, context_length: int = CONTEXT_LENGTH) -> Pipeline:
        """Shards that end at these layers; without any, the whole model as one."""
        last_layers = (*ends, self.spec.n_layers - 1)
        starts = (0, *(end + 1 for end in ends))
        shards = tuple(self.shard(start, end) for start, end in zip(starts, last_layers, strict=True))
        return Pipeline(shards, tuple(self.cache(shard, context_length=context_length) for shard in shards))


def make_config(model_type: str = "llama", **changes: Any) -> PreTrainedConfig:
    return CONFIGS[model_type](**{**SMALL, "attn_implementation": "eager", **changes})


def spec_of(config: PreTrainedConfig) -> ModelSpec:
    """By hand, so that these tests stand without the catalog."""
    has_bias = config.model_type == "qwen2" or bool(getattr(config, "attention_bias", False))
    rope = config.rope_parameters
    return ModelSpec(
        model_type=cast(ModelType, config.model_type),
        num_hidden_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
        rms_norm_eps=config.rms_norm_eps,
        rope_theta=rope["rope_theta"],
        rope_scaling=RopeScaling(**{key: rope[key] for key in RopeScaling.__slots__ if key in rope}),
        tie_word_embeddings=config.tie_word_embeddings,
        attention_bias=has_bias,
        attention_output_bias=has_bias and config.model_type != "qwen2",
        mlp_bias=bool(getattr(config, "mlp_bias", False)),
        has_qk_norm=config.model_type == "qwen3",
        dtype="float32",
    )


def randomize(model: PreTrainedModel, seed: int) -> None:
    """Weights large enough for every part to matter: transformers starts with biases of 0 and norms of 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = "norm" in name
            parameter.copy_(1 + 0.3 * noise if is_norm else noise * (0.25 if parameter.dim() == 2 else 0.5))


@pytest.fixture
def random_model(tmp_path: Path) -> Callable[..., RandomModel]:
    """Makes a RandomModel from changes to a small config; `max_shard_size` splits it over several files."""

    def make(model_type: str = "llama", *, seed: int = 0, max_shard_size: str = "1GB", **changes: Any) -> RandomModel:
        config = make_config(model_type, **changes)
        model = AutoModelForCausalLM.from_config(config).float().eval()
        randomize(model, seed)
        path = tmp_path / f"{model_type}-{seed}"
        model.save_pretrained(path, max_shard_size=max_shard_size)
        return RandomModel(path, spec_of(config), model)

    return make


@pytest.fixture
def token_ids() -> list[int]:
    return torch.randint(0, SMALL["vocab_size"], (23,), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.fixture
def config_maker() -> Callable[..., PreTrainedConfig]:
    """Makes a transformers config from changes to the small one."""
    return make_config
