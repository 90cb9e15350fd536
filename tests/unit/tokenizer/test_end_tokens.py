from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer

from exo_lite.tokenizer.end_tokens import end_tokens
from exo_lite.tokenizer.tokenizer_files import load_tokenizer

ENDS = [
    "<|endoftext|>",
    "<|im_end|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<end_of_turn>",
    "<|END_OF_TURN_TOKEN|>",
    "</s>",
]


@pytest.mark.parametrize("end", ENDS)
def test_an_end_of_the_vocabulary_ends_an_answer_though_the_files_name_another(
    byte_level_folder: Path, end: str
) -> None:
    library = Tokenizer.from_file(str(byte_level_folder / "tokenizer.json"))
    library.add_special_tokens([AddedToken(end, special=True)])
    library.save(str(byte_level_folder / "tokenizer.json"))
    (byte_level_folder / "tokenizer_config.json").write_text('{"eos_token": "<eos>"}', encoding="utf-8")
    tokenizer = load_tokenizer(byte_level_folder)
    assert tokenizer.stop_token_ids == {library.token_to_id("<eos>"), library.token_to_id(end)}


def test_a_word_that_looks_like_an_end_is_one_only_if_it_was_added(byte_level_folder: Path) -> None:
    tokenizer_json = json.loads((byte_level_folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer_json["model"]["vocab"]["<EOT>"] = 300
    tokenizer_json["added_tokens"].append(
        {"id": 301, "content": "</s>", "special": False, "normalized": False}
        | dict.fromkeys(["lstrip", "rstrip", "single_word"], False)
    )
    tokenizer_json["model"]["vocab"]["</s>"] = 301
    (byte_level_folder / "tokenizer.json").write_text(json.dumps(tokenizer_json), encoding="utf-8")
    tokenizer = load_tokenizer(byte_level_folder)
    assert tokenizer.decode([301]) == "</s>"
    assert tokenizer.stop_token_ids.isdisjoint({300, 301})


@pytest.mark.parametrize("key", ["eot_token", "eom_token"])
def test_the_config_may_name_the_end_of_a_turn(byte_level_folder: Path, key: str) -> None:
    (byte_level_folder / "tokenizer_config.json").write_text(json.dumps({key: "<end>"}), encoding="utf-8")
    tokenizer = load_tokenizer(byte_level_folder)
    assert tokenizer.stop_token_ids == set(tokenizer.encode("<eos><end>", add_bos=False))


def test_an_end_of_one_of_several_messages_ends_no_answer() -> None:
    harmony = ["<|return|>", "<|call|>", "<|end|>", "<|start|>"]
    assert end_tokens(harmony, harmony) == ("<|call|>", "<|return|>")
    assert end_tokens(harmony[1:], harmony[1:]) == ("<|call|>", "<|end|>")
