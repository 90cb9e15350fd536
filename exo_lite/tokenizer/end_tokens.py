"""Tokens that end an answer by their name, whatever a model's files say: many name only one of those that they use."""

from __future__ import annotations

from collections.abc import Collection

_ENDS = frozenset(
    {
        "<|endoftext|>",  # GPT-2, Qwen
        "<|im_end|>",  # ChatML: Qwen, SmolLM2
        "<|end_of_text|>",  # Llama 3, Granite
        "<|eot_id|>",  # Llama 3: of a turn
        "<|eom_id|>",  # Llama 3: of a message, before a tool's answer
        "<|eot|>",  # Llama 4
        "<|eom|>",
        "<|end|>",  # Phi
        "<|endofturn|>",  # EXAONE
        "[|endofturn|]",
        "<end_of_turn>",  # Gemma
        "<turn|>",
        "<eos>",
        "<|END_OF_TURN_TOKEN|>",  # Command R
        "<｜end▁of▁sentence｜>",  # DeepSeek  # noqa: RUF001
        "<|EOT|>",  # DeepSeek Coder
        "<EOT>",
        "_<EOT>",
        "▁<EOT>",  # Code Llama: of what is filled in
        "[EOT]",  # Kimi
        "[EOS]",
        "<end_of_utterance>",  # SmolVLM
        "<|return|>",  # gpt-oss
        "<|call|>",
        "<fim-pad>",  # of a file: what follows in training is padding or the next one
        "<fim_pad>",
        "<|fim_pad|>",
        "<fim-repo>",
        "<|fim_repo|>",
        "<|repo_name|>",
        "<reponame>",
        "<|file_sep|>",
    }
)
_ENDS_IF_SPECIAL = frozenset({"</s>"})
"""These end an answer only if marked special: HTML's tag for struck-out text is a word in some vocabularies."""

_HARMONY = frozenset({"<|return|>", "<|call|>"})
"""A vocabulary with both uses <|end|> only between the messages of one answer."""


def is_end_name(token: str) -> bool:
    """Say whether a token of this name ends an answer, if text cannot contain it."""
    return token in _ENDS or token in _ENDS_IF_SPECIAL


def end_tokens(whole: Collection[str], special: Collection[str]) -> tuple[str, ...]:
    """Return the tokens that end an answer, among a vocabulary's `whole` tokens (never merged from parts).

    Words that merges can make of text are not among them, however they look. `special` are those left out of answers.
    """
    ends = {token for token in whole if token in _ENDS} | {token for token in special if token in _ENDS_IF_SPECIAL}
    if ends >= _HARMONY:
        ends.discard("<|end|>")
    return tuple(sorted(ends))
