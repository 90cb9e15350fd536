"""Hypothesis strategies for what crosses the wire, read off the domain's own type hints."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from typing import Any, Literal, NewType, TypeVar, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from exo_lite.domain.ids import ModelId
from exo_lite.domain.model_spec import DTYPE_BYTES, DType
from exo_lite.domain.request import MAX_MIN_TOKENS, MAX_TOP_LOGPROBS, Sampling
from exo_lite.domain.shard import Shard
from exo_lite.domain.step import HiddenStates, SequenceChunk

T = TypeVar("T")

UINT32 = st.integers(0, 2**32 - 1)
UINT64 = st.integers(0, 2**64 - 1)
MODEL_IDS = st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,8}\.?[a-z0-9_-]{0,8})", fullmatch=True).map(ModelId)
WIDE_FIELDS = {"seed", "epoch", "placed_epoch", "joined_epoch", "step_id", "sequence", "revision"}

POSITIVE_FIELDS = {"age_s"}


def any_of(cls: type[T]) -> st.SearchStrategy[T]:
    """Any value of a domain type whose every field the wire can carry."""
    strategy: st.SearchStrategy[T] = _strategy(cls, cls.__name__)
    return strategy


@st.composite
def _shards(draw: st.DrawFn) -> Shard:
    start, end, last = sorted(draw(st.lists(st.integers(0, 2**32 - 2), min_size=3, max_size=3)))
    return Shard(draw(MODEL_IDS), start, end, last + 1)


@st.composite
def _hidden_states(draw: st.DrawFn) -> HiddenStates:
    dtype: DType = draw(st.sampled_from(list(DTYPE_BYTES)))
    num_tokens, hidden_size = draw(st.integers(0, 5)), draw(st.integers(1, 5))
    num_bytes = num_tokens * hidden_size * DTYPE_BYTES[dtype]
    return HiddenStates(dtype, num_tokens, hidden_size, draw(st.binary(min_size=num_bytes, max_size=num_bytes)))


_SAMPLINGS = st.builds(
    Sampling,
    temperature=st.floats(0, 2),
    top_p=st.floats(0, 1, exclude_min=True),
    top_k=UINT32,
    seed=UINT64,
    min_p=st.floats(0, 1),
    repetition_penalty=st.floats(0.01, 100),
    presence_penalty=st.floats(-2, 2),
    frequency_penalty=st.floats(-2, 2),
    logit_bias=st.dictionaries(UINT32, st.floats(-100, 100), max_size=3).map(lambda biases: tuple(biases.items())),
    logprobs=st.none() | st.integers(0, MAX_TOP_LOGPROBS),
    min_tokens=st.integers(0, MAX_MIN_TOKENS),
    late_token_ids=st.lists(UINT32, max_size=3).map(tuple),
).map(lambda sampling: replace(sampling, prompt_logprobs=sampling.logprobs is not None))


def _strategy(hint: Any, name: str) -> st.SearchStrategy[Any]:
    known = {Shard: _shards(), HiddenStates: _hidden_states(), Sampling: _SAMPLINGS, ModelId: MODEL_IDS}
    if hint in known:
        return known[hint]
    if hint is SequenceChunk:
        return st.builds(
            SequenceChunk,
            *(UINT32,) * 3,
            token_ids=st.just(()),  # they stay behind
            sample_index=st.none() | UINT32,
            proposed_token_ids=st.lists(UINT32, max_size=3).map(tuple),
            scored_token_ids=st.lists(UINT32, max_size=3).map(tuple),
        )
    if isinstance(hint, NewType):
        return _strategy(hint.__supertype__, name)
    if isinstance(hint, type) and (is_dataclass(hint) or issubclass(hint, tuple)):
        hints = get_type_hints(hint)
        return st.builds(hint, **{name: _strategy(hints[name], name) for name in hints})
    if get_origin(hint) is None:
        return _plain(hint, name)
    return _generic(get_origin(hint), get_args(hint), name)


def _plain(hint: type, name: str) -> st.SearchStrategy[Any]:
    plain: dict[type, st.SearchStrategy[Any]] = {
        int: UINT64 if name in WIDE_FIELDS or name.endswith("_bytes") else UINT32,
        float: st.floats(0.0 if name in POSITIVE_FIELDS else None, allow_nan=False),
        str: st.text(st.characters(codec="utf-8"), max_size=12),
        bool: st.booleans(),
        type(None): st.none(),
    }
    return plain[hint]


def _generic(origin: Any, arguments: tuple[Any, ...], name: str) -> st.SearchStrategy[Any]:
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, types.UnionType):
        return st.one_of(*(_strategy(one, name) for one in reversed(arguments)))
    if origin is Mapping:
        keys, values = (_strategy(one, name) for one in arguments)
        return st.dictionaries(keys, values, max_size=3)
    if origin is frozenset:
        return st.frozensets(_strategy(arguments[0], name), max_size=4)
    assert origin is tuple, f"no strategy for {origin} of {name}"
    if arguments[1:] == (Ellipsis,):
        return st.lists(_strategy(arguments[0], name), max_size=3).map(tuple)
    return st.tuples(*(_strategy(one, name) for one in arguments))
