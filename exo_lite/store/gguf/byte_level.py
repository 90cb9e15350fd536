"""Byte-level BPE (`tokenizer.ggml.model` gpt2): how text is cut before merging goes by `tokenizer.ggml.pre`."""

from __future__ import annotations

import tokenizers
from tokenizers import decoders, models, normalizers

from exo_lite.domain.errors import InvalidModel, UnsupportedModel
from exo_lite.store.gguf.file import GGUFFile
from exo_lite.store.gguf.pre_tokenizers import CUTTINGS, Cutting, pre_tokenizer

_PRE_KEY = "tokenizer.ggml.pre"


def byte_level_tokenizer(file: GGUFFile, tokens: list[str]) -> tokenizers.Tokenizer:
    """Raises InvalidModel, and UnsupportedModel for a way of cutting that is not known here."""
    cutting = _cutting(file)
    vocab = {token: index for index, token in enumerate(tokens)}
    model = models.BPE(vocab=vocab, merges=_merges(file, vocab), ignore_merges=cutting.ignores_merges)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer(cutting)
    tokenizer.decoder = decoders.ByteLevel()
    if cutting.composes:
        tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def adds_bos_by_default(file: GGUFFile) -> bool:
    """Apply llama.cpp's rule for files that do not say."""
    cutting = CUTTINGS.get(file.text(_PRE_KEY)) if file.has(_PRE_KEY) else None
    return cutting is not None and cutting.adds_bos


def _cutting(file: GGUFFile) -> Cutting:
    if not file.has(_PRE_KEY):
        raise UnsupportedModel(
            f"{file.name} does not say how its text is cut ({_PRE_KEY}), as files of early 2024 don't: get a newer one"
        )
    pre = file.text(_PRE_KEY)
    if pre not in CUTTINGS:
        raise UnsupportedModel(f"{file.name} cuts its text in the way {pre}; known are {', '.join(CUTTINGS)}")
    return CUTTINGS[pre]


def _merges(file: GGUFFile, vocab: dict[str, int]) -> list[tuple[str, str]]:
    merges = []
    for line in file.texts("tokenizer.ggml.merges"):
        left, _, right = line.partition(" ")
        if left not in vocab or right not in vocab or left + right not in vocab:
            raise InvalidModel(f"{file.name}: the merge {line[:80]!r} is not one of two tokens to a third")
        merges.append((left, right))
    return merges
