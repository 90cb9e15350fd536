"""Random folders of tokenizer files, with transformers as the reference for what their tokens are in text."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from transformers import AutoTokenizer

from exo_lite.tokenizer.tokenizer_files import load_tokenizer
from tests.unit.tokenizer.conftest import write_byte_level

NUM_FOLDERS = 80
SAMPLES = ["the cat sat on the mat", "a hat that the cat had", "in the heat of the night", "hello there, world 2024"]
NEW = ["<a>", "<b|>", "tool", "[PAD]", "<a><b", "é", "<end>"]
WORDS = {"tokenizer.json": ["<eos>", "hello", "he"], "tokenizer.model": ["the", "cat"]}
FLAGS = ["lstrip", "rstrip", "single_word", "normalized"]
BETWEEN = ["<img>", "x", " ", "  ", "\n", "he", "llo", "the cat", "1", "</s>"]


@pytest.fixture(scope="module")
def tokenizer_model() -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SAMPLES),
        model_writer=model,
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
        user_defined_symbols=["<tool>"],
        control_symbols=["[CTL]"],
    )
    return model.getvalue()


class Folder:
    """A folder made of a seed: tokens in a decoder or in the older files, some of them in a role."""

    def __init__(self, path: Path, kind: str, seed: int, tokenizer_model: bytes) -> None:
        self.path = path
        self.random = random.Random(f"{kind} {seed}")
        self.tokens = [*NEW, *WORDS[kind]]
        if kind == "tokenizer.json":
            write_byte_level(path)
            self.config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>"}
            first_id = 256 + 5 + 3
        else:
            (path / kind).write_bytes(tokenizer_model)
            self.config = {"tokenizer_class": "LlamaTokenizer", **self._prefix()}
            first_id = 320
        self.map: dict[str, Any] = {}
        self.is_model = kind == "tokenizer.model"
        self._add(first_id)
        self._name()
        self._write("config.json", {"model_type": "llama"})
        self._write("tokenizer_config.json", self.config)
        self._write("special_tokens_map.json", self.map)

    def texts(self) -> Iterator[str]:
        for _ in range(5):
            parts = self.random.choices([*self.tokens, *BETWEEN], k=self.random.randint(1, 8))
            yield "".join(parts).lstrip()  # transformers takes one leading space of a text for SentencePiece's own

    def _add(self, first_id: int) -> None:
        contents = self.random.sample(self.tokens, self.random.randint(0, 3))
        by_id = dict(enumerate(contents, first_id))
        if self.random.random() < 0.6:
            entries = {str(i): {"content": one, "special": self._chance(), **self._flags()} for i, one in by_id.items()}
            self.config["added_tokens_decoder"] = entries
        else:
            self._write("added_tokens.json", {content: token_id for token_id, content in by_id.items()})
            self.tokens = [token for token in self.tokens if token not in contents]  # roles would make them special
        self._contents = contents

    def _name(self) -> None:
        for files in (self.config, self.map):
            if self._chance():
                content = self.random.choice(self.tokens)
                flagged = {"content": content, "special": True, **self._flags()}
                kind = {"__type": "AddedToken"} if files is self.config else {}
                files["pad_token"] = content if self._chance() else {**kind, **flagged}
        files = self.config if self.is_model else self.random.choice([self.config, self.map])
        if self._chance():  # of a tokenizer.model, transformers heeds the list in the newer file only
            files["additional_special_tokens"] = self.random.sample(self.tokens, self.random.randint(0, 2))
        if self._chance():
            self.config["image_token"] = "<img>"
        self.tokens = sorted({*self.tokens, *self._contents})

    def _prefix(self) -> dict[str, bool]:
        return self.random.choice(
            [{"legacy": False}, {"add_prefix_space": False}, {"legacy": False, "add_prefix_space": True}]
        )

    def _flags(self) -> dict[str, bool]:
        return {flag: self.random.random() < 0.3 for flag in FLAGS}

    def _chance(self) -> bool:
        return self.random.random() < 0.4

    def _write(self, name: str, content: object) -> None:
        (self.path / name).write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize("kind", WORDS)
def test_texts_have_the_tokens_that_transformers_finds(
    tmp_path_factory: pytest.TempPathFactory, kind: str, tokenizer_model: bytes
) -> None:
    for seed in range(NUM_FOLDERS):
        folder = Folder(tmp_path_factory.mktemp("folder"), kind, seed, tokenizer_model)
        ours, theirs = load_tokenizer(folder.path), AutoTokenizer.from_pretrained(folder.path)
        for text in folder.texts():
            ids = theirs.encode(text, add_special_tokens=False)
            assert ours.encode(text, add_bos=False) == ids, (seed, text, folder.config, folder.map)
            assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True), (seed, text)
            assert ours.decode(ids, skip_special=False) == theirs.decode(ids), (seed, text)
