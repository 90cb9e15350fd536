"""SentencePiece BPE (`tokenizer.ggml.model` llama): pieces with scores, bytes for what no piece covers."""

from __future__ import annotations

from collections.abc import Sequence

import tokenizers
from tokenizers import decoders, models, normalizers

from exo_lite.domain.errors import InvalidModel, UnsupportedModel
from exo_lite.store.gguf.file import GGUFFile
from exo_lite.tokenizer.byte_level import byte_characters
from exo_lite.tokenizer.merges import pairs_of
from exo_lite.tokenizer.metaspace import SPACE


def sentencepiece_tokenizer(
    file: GGUFFile, tokens: list[str], is_piece: Sequence[bool], unk_token: str | None
) -> tokenizers.Tokenizer:
    """Raises InvalidModel, UnsupportedModel. Only pieces take part in merges, not control tokens and bytes."""
    scores = file.numbers("tokenizer.ggml.scores")
    if len(scores) != len(tokens):
        raise InvalidModel(f"{file.name} has {len(tokens)} tokens, but scores for {len(scores)}")
    _refuse_byte_level(file, tokens)
    pieces = {token: score for token, score, is_one in zip(tokens, scores, is_piece, strict=True) if is_one}
    vocab = {token: index for index, token in enumerate(tokens)}
    model = models.BPE(
        vocab=vocab, merges=merges_by_score(pieces, vocab), unk_token=unk_token, fuse_unk=True, byte_fallback=True
    )
    tokenizer = tokenizers.Tokenizer(model)
    has_prefix = file.boolean("tokenizer.ggml.add_space_prefix", True)
    replace = normalizers.Replace(" ", SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), replace] if has_prefix else [replace])
    decoding = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*decoding, decoders.Strip(" ", 1, 0)] if has_prefix else decoding)
    return tokenizer


def _refuse_byte_level(file: GGUFFile, tokens: list[str]) -> None:
    """mlx-lm writes every vocabulary as SentencePiece; the merges of a byte-level one are lost in that."""
    known = set(tokens)
    if SPACE not in known and byte_characters()[ord(" ")] in known:
        raise UnsupportedModel(
            f"{file.name} has a byte-level vocabulary and says that it is SentencePiece, as mlx-lm's export does: "
            "how it merges bytes is not in the file; import the Hugging Face folder that it was made from"
        )


def merges_by_score(pieces: dict[str, float], vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to make a piece of two others, the piece with the highest score first.

    SentencePiece always joins the neighbours whose whole scores highest; a ranked list of merges does the same. Ways to
    the same piece go by the lengths and ids of the parts, as the published Llama files have them.
    """
    ranked = sorted(pieces, key=lambda piece: (-pieces[piece], vocab[piece]))
    return [pair for piece in ranked for pair in sorted(pairs_of(piece, pieces), key=lambda pair: _rank(pair, vocab))]


def _rank(pair: tuple[str, str], vocab: dict[str, int]) -> tuple[int, int, int]:
    left, right = pair
    return (-len(left), vocab[left], vocab[right])
