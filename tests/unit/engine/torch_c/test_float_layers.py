"""Layers in one C call for few rows: what the path through torch computes, of every variant and type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from exo_lite.domain.model_spec import DType
from exo_lite.domain.step import SequenceChunk
from exo_lite.engine.torch_c.kv_cache import KVCache
from exo_lite.engine.torch_c.llama import LlamaShard
from exo_lite.engine.torch_c.native.few_rows import FewRows
from exo_lite.engine.torch_c.native.float_layers import FloatLayers, fits
from exo_lite.engine.torch_c.native.kernels import native_library
from tests.unit.engine.torch_c.conftest import RandomModel

WIDE = {"hidden_size": 64, "intermediate_size": 96, "max_position_embeddings": 400, "vocab_size": 203}
VARIANTS = {
    "llama": ("llama", {"head_dim": 32}),
    "mha": ("llama", {"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 16}),
}
WORST = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 2e-3}
"""Relative to the norm of what torch computes; in smaller types single numbers round to the other side."""


def with_kernel(shard: LlamaShard) -> LlamaShard:
    library = native_library()
    assert library is not None, "the suite needs a C compiler"
    return replace(shard, few_rows=FloatLayers(FewRows(library, 8), shard.spec, shard.layers))


def states(shard: LlamaShard, cache: KVCache, prompt: Tensor) -> Tensor:
    """A prompt in one chunk, then decodes beside another sequence's, in blocks that do not follow each other."""
    cache.admit(0, (5, 1, 3))
    cache.admit(1, (0, 4))
    parts = [
        shard.forward(prompt[:100], [SequenceChunk(0, 0, 100)], cache),
        shard.forward(prompt[:7], [SequenceChunk(1, 0, 7)], cache),
    ]
    for step in range(40):
        chunks = [SequenceChunk(1, 7 + step, 1), SequenceChunk(0, 100 + step, 1)]
        parts.append(shard.forward(prompt[step : step + 2], chunks, cache))
    return torch.cat(parts).float()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_kernel_computes_what_torch_does(random_model: Callable[..., RandomModel], variant: str, dtype: DType):
    model_type, changes = VARIANTS[variant]
    model = random_model(model_type, **{**WIDE, **changes})
    shard = replace(model.shard(dtype=dtype), few_rows=None)
    prompt = torch.randint(0, 203, (120,), generator=torch.Generator().manual_seed(2))
    expected = states(shard, model.cache(shard, 2, 192), prompt)
    found = states(with_kernel(shard), model.cache(shard, 2, 192), prompt)
    assert not torch.equal(found, expected)  # the kernel has served
    assert (found - expected).norm() / expected.norm() < WORST[dtype]


def test_a_kernel_that_counts_in_lanes_is_not_asked_for_other_sizes(random_model: Callable[..., RandomModel]):
    assert fits(random_model(**WIDE).spec)
    odd = random_model(**{**WIDE, "intermediate_size": 40})
    assert not fits(odd.spec)
    assert odd.shard().few_rows is None
