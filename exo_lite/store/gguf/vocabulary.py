"""The vocabulary inside a GGUF file, as the tokenizer files of a Hugging Face folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import tokenizers
from tokenizers import AddedToken, processors

from exo_lite.domain.errors import InvalidModel, UnsupportedModel
from exo_lite.store.gguf.byte_level import adds_bos_by_default, byte_level_tokenizer
from exo_lite.store.gguf.file import GGUFFile
from exo_lite.store.gguf.sentencepiece import sentencepiece_tokenizer
from exo_lite.tokenizer.end_tokens import is_end_name
from exo_lite.tokenizer.library_faults import LibraryFaults

MAX_TOKEN_CHARS = 1024
"""Several times the longest known. How a token can be made of others takes time that grows with its square."""
_PREFIX = "tokenizer.ggml."


class TokenType(IntEnum):
    """llama.cpp's numbers."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens in the order of their ids."""

    tokens: list[str]
    types: list[int]
    bos_token_id: int | None
    eos_token_id: int | None
    unk_token_id: int | None
    pad_token_id: int | None
    stop_token_ids: list[int]
    adds_bos: bool

    def token(self, token_id: int | None) -> str | None:
        return None if token_id is None else self.tokens[token_id]


def tokenizer_files(file: GGUFFile, context_length: int) -> dict[str, bytes]:
    """Contents by file name. Raises InvalidModel, UnsupportedModel."""
    vocabulary = _vocabulary(file)
    with LibraryFaults(f"the vocabulary of {file.name}"):
        tokenizer = _tokenizer(file, vocabulary)
        _add_special_tokens(tokenizer, vocabulary)
        content = tokenizer.to_str(pretty=False).encode()
    return {
        "tokenizer.json": content,
        "tokenizer_config.json": _json(_tokenizer_config(file, vocabulary, context_length)),
        "generation_config.json": _json(
            {
                "bos_token_id": vocabulary.bos_token_id,
                "eos_token_id": vocabulary.stop_token_ids,
                "pad_token_id": vocabulary.pad_token_id,
            }
        ),
    }


def _vocabulary(file: GGUFFile) -> Vocabulary:
    tokens = file.texts(f"{_PREFIX}tokens")
    if (longest := max(map(len, tokens), default=0)) > MAX_TOKEN_CHARS:
        raise InvalidModel(f"{file.name}: a token has {longest} characters, more than the {MAX_TOKEN_CHARS} read here")
    if (twice := _first_repeated(tokens)) is not None:
        raise InvalidModel(f"{file.name}: the token {twice[:80]!r} stands twice in the vocabulary")
    types = file.whole_numbers(f"{_PREFIX}token_type")
    if len(types) != len(tokens):
        raise InvalidModel(f"{file.name} has {len(tokens)} tokens, but types for {len(types)}")
    types = _with_control_ends(file, tokens, types)
    is_sentencepiece = file.text(f"{_PREFIX}model") == "llama"
    eos_token_id = _token_id(file, "eos_token_id", len(tokens), 2 if is_sentencepiece else None)
    turn_ends = [_token_id(file, key, len(tokens), None) for key in ("eot_token_id", "eom_token_id")]
    return Vocabulary(
        tokens=tokens,
        types=types,
        bos_token_id=_token_id(file, "bos_token_id", len(tokens), 1 if is_sentencepiece else None),
        eos_token_id=eos_token_id,
        unk_token_id=_token_id(file, "unknown_token_id", len(tokens), 0 if is_sentencepiece else None),
        pad_token_id=_token_id(file, "padding_token_id", len(tokens), None),
        stop_token_ids=sorted({one for one in (eos_token_id, *turn_ends) if one is not None}),
        adds_bos=file.boolean(f"{_PREFIX}add_bos_token", is_sentencepiece or adds_bos_by_default(file)),
    )


def _first_repeated(tokens: list[str]) -> str | None:
    seen: set[str] = set()
    for token in tokens:
        if token in seen:
            return token
        seen.add(token)
    return None


def _with_control_ends(file: GGUFFile, tokens: list[str], types: list[int]) -> list[int]:
    """Make control tokens of ends of answers that a converter left among the words, though text cannot have them."""
    ends = [index for index, token in enumerate(tokens) if types[index] == TokenType.NORMAL and is_end_name(token)]
    if not ends:
        return types
    is_made = _is_made(file, tokens)
    unmade = {index for index in ends if not is_made(tokens[index])}
    return [TokenType.CONTROL if index in unmade else kind for index, kind in enumerate(types)]


def _is_made(file: GGUFFile, tokens: list[str]) -> Callable[[str], bool]:
    """Return a function that says whether merging can make a token from two others."""
    if file.has(f"{_PREFIX}merges"):
        made = {line.replace(" ", "", 1) for line in file.texts(f"{_PREFIX}merges")}
        return made.__contains__
    parts = set(tokens)
    return lambda token: any(token[:cut] in parts and token[cut:] in parts for cut in range(1, len(token)))


def _token_id(file: GGUFFile, key: str, num_tokens: int, default: int | None) -> int | None:
    if default is None and not file.has(_PREFIX + key):
        return None
    token_id = file.count(_PREFIX + key, default)
    if token_id >= num_tokens:
        raise InvalidModel(f"{file.name}: {_PREFIX}{key} is {token_id}, and the vocabulary ends at {num_tokens - 1}")
    return token_id


def _tokenizer(file: GGUFFile, vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    kind = file.text(f"{_PREFIX}model")
    if kind == "gpt2":
        return byte_level_tokenizer(file, vocabulary.tokens)
    if kind == "llama":
        is_piece = [one == TokenType.NORMAL for one in vocabulary.types]
        return sentencepiece_tokenizer(file, vocabulary.tokens, is_piece, vocabulary.token(vocabulary.unk_token_id))
    raise UnsupportedModel(
        f"{file.name} has a vocabulary of the kind {kind}; known are gpt2 (byte-level BPE) and llama (SentencePiece)"
    )


def _add_special_tokens(tokenizer: tokenizers.Tokenizer, vocabulary: Vocabulary) -> None:
    """Control tokens are found in text whole and left out of answers; user-defined ones are found whole and kept."""
    pairs = list(zip(vocabulary.tokens, vocabulary.types, strict=True))
    special = [token for token, kind in pairs if kind in (TokenType.CONTROL, TokenType.UNKNOWN)]
    user_defined = [token for token, kind in pairs if kind == TokenType.USER_DEFINED]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in user_defined])
    bos_token = vocabulary.token(vocabulary.bos_token_id)
    if vocabulary.adds_bos and bos_token is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[bos_token, "$A"],
            pair=[bos_token, "$A", f"{bos_token}:1", "$B:1"],
            special_tokens=[(bos_token, vocabulary.bos_token_id)],
        )


def _tokenizer_config(file: GGUFFile, vocabulary: Vocabulary, context_length: int) -> dict[str, object]:
    config: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": vocabulary.token(vocabulary.bos_token_id),
        "eos_token": vocabulary.token(vocabulary.eos_token_id),
        "unk_token": vocabulary.token(vocabulary.unk_token_id),
        "pad_token": vocabulary.token(vocabulary.pad_token_id),
        "add_bos_token": vocabulary.adds_bos,
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
    }
    if file.has("tokenizer.chat_template"):
        config["chat_template"] = file.text("tokenizer.chat_template")
    return config


def _json(document: dict[str, object]) -> bytes:
    present = {key: value for key, value in document.items() if value is not None}
    return (json.dumps(present, indent=2, ensure_ascii=False) + "\n").encode()
