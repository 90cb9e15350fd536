"""The tokens that begin and end a text, gathered from the model's files."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from exo_lite.domain.errors import InvalidModel
from exo_lite.tokenizer.added_tokens import MAX_TOKEN_ID


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Texts are None where the model has no such token."""

    bos_token: str | None
    eos_token: str | None
    unk_token: str | None
    pad_token: str | None
    bos_token_id: int | None
    stop_token_ids: frozenset[int]


@dataclass(frozen=True, slots=True)
class TokenSources:
    """The parsed files, empty where absent, and the vocabulary's two look-ups."""

    tokenizer_config: Mapping[str, object]
    generation_config: Mapping[str, object]
    config: Mapping[str, object]
    token_to_id: Callable[[str], int | None]
    id_to_token: Callable[[int], str | None]
    defaults: Mapping[str, str] = field(default_factory=dict)
    """`bos_token`, `eos_token` and so on of the vocabulary itself, for what tokenizer_config.json leaves open."""
    end_tokens: tuple[str, ...] = ()
    """End an answer whatever the files say; all in the vocabulary."""


def gather_special_tokens(sources: TokenSources) -> SpecialTokens:
    """tokenizer_config.json names the tokens; where it is silent, the vocabulary does, then the ids in config.json.

    Raises InvalidModel.
    """
    bos_token = _named_token(sources, "bos")
    eos_token = _named_token(sources, "eos")
    stop_token_ids = _token_ids(sources.generation_config, "eos_token_id", "generation_config.json")
    stop_token_ids += _token_ids(sources.config, "eos_token_id", "config.json")
    stop_token_ids += [_id_of(sources, token, "eos_token") for token in (eos_token, *sources.end_tokens) if token]
    stop_token_ids += _turn_end_ids(sources)
    return SpecialTokens(
        bos_token=bos_token,
        eos_token=eos_token,
        unk_token=_stated_token(sources, "unk_token"),
        pad_token=_stated_token(sources, "pad_token"),
        bos_token_id=None if bos_token is None else _id_of(sources, bos_token, "bos_token"),
        stop_token_ids=frozenset(stop_token_ids),
    )


def _turn_end_ids(sources: TokenSources) -> list[int]:
    """The ends of a turn, of a message or of a filled-in text, which some files name beside eos_token."""
    tokens = (_stated_token(sources, key) for key in ("eot_token", "eom_token"))
    token_ids = (sources.token_to_id(token) for token in tokens if token)
    return [token_id for token_id in token_ids if token_id is not None]


def _named_token(sources: TokenSources, kind: str) -> str | None:
    """null means that there is none; an empty text, as early conversions of LLaMA have it, says nothing."""
    token = _stated_token(sources, f"{kind}_token")
    if token is not None or sources.tokenizer_config.get(f"{kind}_token", "") is None:
        return token
    token_ids = _token_ids(sources.config, f"{kind}_token_id", "config.json")
    return sources.id_to_token(token_ids[0]) if token_ids else None


def _stated_token(sources: TokenSources, key: str) -> str | None:
    value = sources.tokenizer_config.get(key, "")
    text = value.get("content") if isinstance(value, Mapping) else value
    if isinstance(text, str):
        return text or sources.defaults.get(key)
    if text is None:
        return None
    raise InvalidModel(f"tokenizer_config.json: {key} must be a token, not {reprlib.repr(value)}")


def _token_ids(values: Mapping[str, object], key: str, file_name: str) -> list[int]:
    value = values.get(key)
    candidates = value if isinstance(value, list) else [] if value is None else [value]
    token_ids = [one for one in candidates if isinstance(one, int) and not isinstance(one, bool) and _is_id(one)]
    if len(token_ids) != len(candidates):
        raise InvalidModel(f"{file_name}: {key} must be a token id or a list of them, not {reprlib.repr(value)}")
    return token_ids


def _is_id(number: int) -> bool:
    """Say whether the libraries can look up this id at all; a vocabulary may be shorter."""
    return 0 <= number < MAX_TOKEN_ID


def _id_of(sources: TokenSources, token: str, key: str) -> int:
    token_id = sources.token_to_id(token)
    if token_id is None:
        raise InvalidModel(f"tokenizer_config.json: {key} {token[:80]!r} is not in the model's vocabulary")
    return token_id
