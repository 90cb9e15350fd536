"""Tokens that a model's JSON files add to its tokenizer file's, or rename there, as transformers has them."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from exo_lite.domain.errors import InvalidModel

MAX_TOKEN_ID = 2**24
"""Far above any vocabulary known."""

_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_NEEDED = ("bos_token", "eos_token")
_EXTRA = ("extra_special_tokens", "additional_special_tokens")
"""The second is the first one's older name."""


@dataclass(frozen=True, slots=True)
class AddedToken:
    """Found in text whole. Answers leave it out where it is special."""

    content: str
    is_special: bool
    lstrip: bool = False
    """Takes in the white space before it; `rstrip`, that behind it."""
    rstrip: bool = False
    single_word: bool = False
    """Is found only where no letter or digit touches it."""
    normalized: bool = False
    """Is found in the text as the tokenizer normalizes it."""


@dataclass(frozen=True, slots=True)
class AddedTokens:
    """The added tokens that the files declare together."""

    by_id: Mapping[int, AddedToken] = field(default_factory=dict)
    """The tokens by id, in the order of the ids."""
    named: tuple[AddedToken, ...] = ()
    """Tokens named by a role such as pad_token, or in a list; its id is the known or the next one."""
    in_role: frozenset[str] = frozenset()
    """Special whatever else is said of them."""
    needed: frozenset[str] = frozenset()
    """BOS and EOS: a vocabulary without them is another model's, so they are never added to it."""

    def missing(self, whole: Collection[str], has: Callable[[str], bool]) -> list[AddedToken]:
        """Named tokens that are not `whole` ones yet. `has` tells what the vocabulary has in any way."""
        return [token for token in self.named if token.content not in whole and self._may_add(token.content, has)]

    def _may_add(self, content: str, has: Callable[[str], bool]) -> bool:
        return content not in self.needed or has(content)


def gather_added_tokens(
    added_tokens: Mapping[str, object], special_tokens_map: Mapping[str, object], tokenizer_config: Mapping[str, object]
) -> AddedTokens:
    """Merge added_tokens.json, special_tokens_map.json and tokenizer_config.json. Raises InvalidModel.

    Where tokenizer_config.json has an added_tokens_decoder, it overrules the two older files.
    """
    decoder = tokenizer_config.get("added_tokens_decoder")
    if not isinstance(decoder, Mapping | None):
        raise InvalidModel(
            f"tokenizer_config.json: added_tokens_decoder must be an object, not {reprlib.repr(decoder)}"
        )
    naming = tokenizer_config if decoder is not None else {**tokenizer_config, **special_tokens_map}
    naming = {**naming, **{key: tokenizer_config[key] for key in _EXTRA if key in tokenizer_config}}
    in_role = {token.content: token for key in _roles(naming) for token in _named([naming[key]])}
    named = in_role | {token.content: token for token in _named(_extra(naming))}
    by_id = {_token_id(key, "tokenizer_config.json"): _entry(entry) for key, entry in (decoder or {}).items()}
    contents = {token.content for token in by_id.values()}
    older = _older_tokens(added_tokens, special=named)
    by_id = {i: token for i, token in older.items() if token.content not in contents} | by_id
    placed = {
        i: replace(by_id[i], is_special=by_id[i].is_special or by_id[i].content in in_role) for i in sorted(by_id)
    }
    needed = {token.content for token in _named([naming.get(key) for key in _NEEDED])}
    return AddedTokens(placed, tuple(named.values()), frozenset(in_role), frozenset(needed))


def check_distinct(by_id: Mapping[int, AddedToken]) -> None:
    """Raises InvalidModel where one token has two ids, or no text."""
    contents = [token.content for token in by_id.values()]
    if "" in contents or len(set(contents)) != len(contents):
        raise InvalidModel("an added token of tokenizer_config.json or added_tokens.json is empty or stands twice")


def _roles(values: Mapping[str, object]) -> list[str]:
    """Keys that name a token, a model's own roles such as image_token last: new ids are given in this order."""
    own = [key for key in values if key.endswith("_token") and key not in _ROLES]
    return [key for key in (*_ROLES, *own) if key in values]


def _extra(values: Mapping[str, object]) -> list[object]:
    extra = next((values[key] for key in _EXTRA if values.get(key)), [])
    if isinstance(extra, Mapping):
        return list(extra.values())
    if isinstance(extra, list):
        return extra
    raise InvalidModel(f"tokenizer_config.json: {_EXTRA[0]} must be a list of tokens, not {reprlib.repr(extra)}")


def _named(values: Iterable[object]) -> Iterator[AddedToken]:
    """Yield the values that are tokens: null is none, and add_bos_token is not one either."""
    for value in values:
        if isinstance(value, str) and value:
            yield AddedToken(value, is_special=True)
        elif isinstance(value, Mapping) and value.get("content"):
            yield replace(_entry(value), is_special=True)


def _older_tokens(added_tokens: Mapping[str, object], *, special: Collection[str]) -> dict[int, AddedToken]:
    return {
        _token_id(token_id, "added_tokens.json"): AddedToken(
            content, is_special=content in special, normalized=content not in special
        )
        for content, token_id in added_tokens.items()
    }


def _token_id(value: object, file_name: str) -> int:
    """A number, or its digits, as the keys of a JSON object are."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_TOKEN_ID:
        return value
    raise InvalidModel(f"{file_name}: {reprlib.repr(value)} is not the id of an added token")


def _entry(entry: object) -> AddedToken:
    if not isinstance(entry, Mapping) or not isinstance(content := entry.get("content"), str):
        raise InvalidModel(
            f"tokenizer_config.json: added_tokens_decoder has {reprlib.repr(entry)} where a token should be"
        )
    is_special = entry.get("special") is True
    flags = {name: entry.get(name) is True for name in ("lstrip", "rstrip", "single_word")}
    normalized = entry.get("normalized")
    return AddedToken(
        content, is_special, normalized=normalized if isinstance(normalized, bool) else not is_special, **flags
    )
