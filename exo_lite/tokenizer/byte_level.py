"""Byte-level BPE (Radford et al. 2019): a printable character for each byte, and how text is cut before merging."""

from __future__ import annotations

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"


def word_pattern(digits: str) -> str:
    """Return the expression that Llama 3 and its like cut text by; `digits` is the part of it that cuts numbers."""
    return (
        CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


LLAMA3_WORDS = word_pattern(r"\p{N}{1,3}")


def byte_characters() -> dict[int, str]:
    """Printable bytes stand for themselves, the others are counted up from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + index) for index, byte in enumerate(others)}
