"""How text is cut before bytes are merged: `tokenizer.ggml.pre` names the way, by expressions that llama.cpp knows.

The expressions are those that the models' makers published in their tokenizer files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tokenizers import Regex, pre_tokenizers
from tokenizers.pre_tokenizers import PreTokenizer

from exo_lite.tokenizer.byte_level import CONTRACTIONS, LLAMA3_WORDS, word_pattern

_EACH_DIGIT = r"\p{N}"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

_QWEN2 = word_pattern(_EACH_DIGIT)
_QWEN35 = (
    CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SEED_CODER = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"

# Words break where a small letter is followed by a capital one.
_CAMEL = (
    r"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]*[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]+{suffix}"
    r"|[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]+[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]*{suffix}"
    r"|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = _CAMEL.format(suffix="", digits=_EACH_DIGIT)
_GPT4O = _CAMEL.format(suffix=CONTRACTIONS + "?", digits=r"\p{N}{1,3}")

_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, _EACH_DIGIT)
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_FALCON = (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")
_VIKING = (r" ?[^(\s|.,!?…。，、।۔،)]+", _EACH_DIGIT)  # noqa: RUF001  # its own punctuation marks
_MINICPM5 = (r"\p{N}{1,3}", word_pattern(r"\p{N}+"))


@dataclass(frozen=True, slots=True)
class Cutting:
    """Each expression cuts what the ones before it left whole, and every match is a piece, as all between two are."""

    expressions: tuple[str, ...]
    ignores_merges: bool = False
    """A piece that is a token is this token, whatever merges make of it."""
    adds_bos: bool = False
    """The default for files that do not say."""
    composes: bool = False
    """Text is in Unicode's NFC first."""


def _named(names: str, cutting: Cutting) -> dict[str, Cutting]:
    return dict.fromkeys(names.split(), cutting)


CUTTINGS: Mapping[str, Cutting] = {
    **_named("gpt-2 phi-2 olmo mellum exaone4 trillion gigachat a.x-4.0", Cutting((_GPT2,))),
    **_named("default", Cutting(_DEFAULT)),
    **_named("smollm starcoder refact command-r codeshell exaone minerva-7b mellum2", Cutting((_EACH_DIGIT, _GPT2))),
    **_named(
        "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
        Cutting((LLAMA3_WORDS,), ignores_merges=True, adds_bos=True),
    ),
    **_named("smaug-bpe dbrx glm4 chatglm-bpe", Cutting((LLAMA3_WORDS,))),
    **_named("minicpm5", Cutting(_MINICPM5, ignores_merges=True)),
    **_named("qwen2 deepseek-r1-qwen", Cutting((_QWEN2,), composes=True)),
    **_named("megrez kormo stablelm2 hunyuan solar-open grok-2", Cutting((_QWEN2,))),
    **_named("qwen35", Cutting((_QWEN35,), composes=True)),
    **_named("seed-coder", Cutting((_SEED_CODER,))),
    **_named("tekken", Cutting((_TEKKEN,), ignores_merges=True, adds_bos=True)),
    **_named("gpt-4o llama4 kanana2", Cutting((_GPT4O,))),
    **_named("deepseek-coder", Cutting(_DEEPSEEK_CODER)),
    **_named("deepseek-v3 hunyuan-dense joyai-llm", Cutting(_DEEPSEEK3)),
    **_named("falcon", Cutting(_FALCON)),
    **_named("viking", Cutting(_VIKING)),
}
"""Pre-tokenizers by their names in files."""


def pre_tokenizer(cutting: Cutting) -> PreTokenizer:
    """Cuts text, then writes each byte as the character that stands for it."""
    *first, last = cutting.expressions
    steps = [_step(expression) for expression in first]
    if last == _GPT2:  # the library's own
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True))
    else:
        steps += [_step(last), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    return steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)


def _step(expression: str) -> PreTokenizer:
    if expression == _EACH_DIGIT:
        return pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Split(Regex(expression), behavior="isolated", invert=False)
