"""Models to measure that need no download: real shapes, random weights, a vocabulary of our own."""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from exo_lite.catalog.table import load_table
from exo_lite.checkpoint.tensor_names import Shape
from exo_lite.domain.model_spec import ModelSpec, RopeScaling

BLOCK_ELEMENTS = 2**22 + 1
"""Of the random block that every tensor is cut from; odd, so that no two rows of a matrix are the same."""
WEIGHT_STD = 0.02
BFLOAT16_ONE = 0x3F80

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
MERGE = ("a", "b")
"""The one merge: readers of byte-level BPE want at least one."""

Bits = npt.NDArray[np.uint16]


def shape_names() -> list[str]:
    return ["tiny", "1b", "8b"]


def spec_of(shape: str) -> ModelSpec:
    """`tiny` is for trying a script out; `1b` is Llama-3.2-1B's shape, `8b` Llama-3-8B's, both in bfloat16."""
    if shape == "tiny":
        return TINY
    row = load_table().find({"1b": "llama-3.2-1b", "8b": "llama-3-8b"}[shape])
    assert row is not None
    return replace(row.spec, dtype="bfloat16")


TINY = ModelSpec(
    model_type="llama",
    num_hidden_layers=2,
    hidden_size=256,
    intermediate_size=512,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=64,
    vocab_size=512,
    max_position_embeddings=8192,
    rope_theta=500000.0,
    rope_scaling=RopeScaling("llama3", 32.0),
    tie_word_embeddings=True,
)


class RandomWeights:
    """Any tensor as bfloat16 bits, always the same for a name: matrices from a normal distribution, norms one."""

    def __init__(self) -> None:
        normal = np.random.default_rng(0).standard_normal(BLOCK_ELEMENTS, dtype=np.float32)
        self._block: Bits = ((normal * np.float32(WEIGHT_STD)).view(np.uint32) >> 16).astype(np.uint16)

    def tensor(self, name: str, shape: Shape) -> Bits:
        """A repeated block costs no more than copying it, which makes 16 GB a matter of the disk."""
        if len(shape) == 1:
            return np.full(shape, BFLOAT16_ONE, dtype=np.uint16)
        filled = np.empty(math.prod(shape), dtype=np.uint16)
        start, offset = 0, zlib.crc32(name.encode()) % BLOCK_ELEMENTS
        while start < filled.size:
            part = self._block[offset : offset + filled.size - start]
            filled[start : start + part.size] = part
            start, offset = start + part.size, 0
        return filled.reshape(shape)


def as_float32(bits: Bits) -> npt.NDArray[np.float32]:
    wide = bits.astype(np.uint32)
    wide <<= 16  # in place: the largest matrix has two gigabytes
    return wide.view(np.float32)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Every byte, one merged pair, numbers as words to fill up, and two special tokens at the end."""

    tokens: tuple[str, ...]

    @property
    def bos_token_id(self) -> int:
        return len(self.tokens) - 2

    @property
    def eos_token_id(self) -> int:
        return len(self.tokens) - 1


def vocabulary(size: int) -> Vocabulary:
    first = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "".join(MERGE)]
    words = [f"Ġ{number}" for number in range(size - len(first) - 2)]  # Ġ is the space of byte-level BPE
    return Vocabulary((*first, *words, BOS, EOS))


def tokenizer_files(spec: ModelSpec) -> dict[str, bytes]:
    """Contents by file name, as a Hugging Face folder has them."""
    tokens = vocabulary(spec.vocab_size).tokens
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[MERGE]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in (BOS, EOS)])
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": EOS, "add_bos_token": False}
    return {
        "tokenizer.json": tokenizer.to_str(pretty=False).encode(),
        "tokenizer_config.json": json.dumps(config).encode(),
    }
