from __future__ import annotations

from collections.abc import Callable

import pytest

from exo_lite.domain.ids import NodeId
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.plan import NodeOffer

GIB = 2**30


@pytest.fixture
def llama_3_8b() -> ModelSpec:
    return ModelSpec(
        model_type="llama",
        num_hidden_layers=32,
        hidden_size=4096,
        intermediate_size=14336,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=128256,
        max_position_embeddings=8192,
    )


@pytest.fixture
def bfloat16() -> LoadOptions:
    return LoadOptions("bfloat16")


@pytest.fixture
def offers_of() -> Callable[..., list[NodeOffer]]:
    """Offers of `a=16` and so on: GiB by name."""

    def build(**sizes_gib: float) -> list[NodeOffer]:
        return [NodeOffer(NodeId(f"id-{name}"), name, int(size * GIB)) for name, size in sizes_gib.items()]

    return build
