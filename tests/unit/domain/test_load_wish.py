from __future__ import annotations

from dataclasses import replace

import pytest

from exo_lite.domain.errors import InvalidRequest
from exo_lite.domain.model_spec import ModelSpec, RopeScaling
from exo_lite.domain.plan import LoadWish

VICUNA = ModelSpec("llama", 32, 4096, 11008, 32, 32, 128, 32000, 4096, rope_scaling=RopeScaling("linear", 4.0))
LLAMA_3_1 = RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)


@pytest.mark.parametrize(
    ("scaling", "context_length"),
    [
        (RopeScaling(), 4096),
        (RopeScaling("linear", 4.0), 16384),
        (RopeScaling("dynamic", 2.0), 8192),
        (RopeScaling("linear", 2.5), 10240),
        (LLAMA_3_1, 4096),
        (RopeScaling("linear", 1e18), 2**31 - 1),
    ],
    ids=["default", "linear", "dynamic", "broken factor", "llama3", "absurd"],
)
def test_the_context_ends_where_stretched_positions_end(scaling: RopeScaling, context_length: int) -> None:
    spec = replace(VICUNA, rope_scaling=scaling)
    assert spec.context_length == context_length
    assert LoadWish(context_length=context_length).resolve(spec).context_length == context_length
    with pytest.raises(InvalidRequest, match=f"not within 1 and the model's {context_length} tokens"):
        LoadWish(context_length=context_length + 1).resolve(spec)


def test_without_a_wish_a_short_context_is_whole() -> None:
    spec = replace(VICUNA, max_position_embeddings=512, rope_scaling=RopeScaling("linear", 2.0))
    assert LoadWish().resolve(spec).context_length == 1024
