from __future__ import annotations

from dataclasses import fields, replace
from typing import get_type_hints

import pytest

from exo_lite.domain.errors import InvalidRequest
from exo_lite.domain.load_options import LOAD_OPTIONS, LoadOptions, LoadRequest, load_request_from_json, options_to_json
from exo_lite.domain.model_spec import ModelSpec, RopeScaling

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
    assert LoadRequest(context_length=context_length).resolve(spec).context_length == context_length
    with pytest.raises(InvalidRequest, match=f"between 1 and the model's {context_length}, not"):
        LoadRequest(context_length=context_length + 1).resolve(spec)


def test_without_options_a_short_context_is_whole() -> None:
    spec = replace(VICUNA, max_position_embeddings=512, rope_scaling=RopeScaling("linear", 2.0))
    assert LoadRequest().resolve(spec).context_length == 1024


def test_a_load_request_may_leave_every_option_open_and_has_no_other_ones() -> None:
    asked, options = get_type_hints(LoadRequest), get_type_hints(LoadOptions)
    assert {name: hint | None for name, hint in options.items()} == {name: asked[name] for name in options}
    assert [one.name for one in fields(LoadRequest)] == [*options, "keep_alive_s", "is_on_demand"]
    assert LoadRequest().asked == {}


def test_what_is_asked_for_comes_back_from_its_json() -> None:
    request = LoadRequest("float16", "int4", 100, 2, "by_work", prefix_cache=False, speculation=True)
    assert load_request_from_json(options_to_json(request)) == request
    assert request.asked.keys() == {option.field for option in LOAD_OPTIONS}
    assert options_to_json(request.resolve(VICUNA)) == options_to_json(request)
    assert load_request_from_json({"dtype": "auto", "quant": None}) == LoadRequest()


@pytest.mark.parametrize("num_slots", [0, 257])
def test_slots_have_limits(num_slots: int) -> None:
    with pytest.raises(InvalidRequest, match=f"slots must lie between 1 and 256, not {num_slots}"):
        LoadRequest(num_slots=num_slots).resolve(VICUNA)
