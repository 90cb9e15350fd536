from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from exo_lite.catalog.hf_config import spec_from_config, spec_to_config
from exo_lite.catalog.table import ShardTable, load_table
from exo_lite.domain.errors import InvalidRequest
from exo_lite.domain.model_spec import RopeScaling

PUBLISHED = {
    "llama-7b": (32, 6_738_415_616),
    "llama-13b": (40, 13_015_864_320),
    "llama-30b": (60, 32_528_943_616),
    "llama-65b": (80, 65_285_660_672),
    "llama-2-7b": (32, 6_738_415_616),
    "llama-2-13b": (40, 13_015_864_320),
    "llama-2-70b": (80, 68_976_648_192),
    "llama-3-8b": (32, 8_030_261_248),
    "llama-3-70b": (80, 70_553_706_496),
    "llama-3.1-8b": (32, 8_030_261_248),
    "llama-3.1-70b": (80, 70_553_706_496),
    "llama-3.1-405b": (126, 405_853_388_800),
    "llama-3.2-1b": (16, 1_235_814_400),
    "llama-3.2-3b": (28, 3_212_749_824),
    "llama-3.3-70b": (80, 70_553_706_496),
    "alpaca-7b": (32, 6_738_423_808),
    "vicuna-7b": (32, 6_738_415_616),
    "vicuna-13b": (40, 13_015_864_320),
    "tinyllama-1.1b": (22, 1_100_048_384),
    "smollm2-135m": (30, 134_515_008),
    "smollm2-360m": (32, 361_821_120),
    "smollm2-1.7b": (24, 1_711_376_384),
}
"""Layers and parameters as their authors, or the headers of their checkpoints, give them."""


@pytest.fixture
def table() -> ShardTable:
    return load_table()


def test_the_table_lists_the_models_with_their_published_sizes(table: ShardTable) -> None:
    assert {row.model_id: (row.spec.n_layers, row.spec.num_parameters) for row in table.rows} == PUBLISHED


def test_no_name_means_two_models(table: ShardTable) -> None:
    names = [name for row in table.rows for name in row.names]
    assert len(names) == len(set(names))
    assert all(name == name.strip().lower() for name in names)


@pytest.mark.parametrize(
    ("name", "model_id"),
    [
        ("llama-3-8b", "llama-3-8b"),
        ("Llama-3-8B", "llama-3-8b"),
        (" meta-llama/Meta-Llama-3-8B-Instruct ", "llama-3-8b"),
        ("llama3:8b", "llama-3-8b"),
        ("llama3-70b", "llama-3-70b"),
        ("meta-llama/Meta-Llama-3.1-405B-Instruct", "llama-3.1-405b"),
        ("meta-llama/Llama-3.2-1B-Instruct", "llama-3.2-1b"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m"),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "tinyllama-1.1b"),
    ],
)
def test_a_model_is_found_by_its_names_in_any_case(table: ShardTable, name: str, model_id: str) -> None:
    row = table.find(name)
    assert row is not None
    assert row.model_id == model_id


def test_every_repository_of_weights_is_a_name_of_its_model(table: ShardTable) -> None:
    assert all(table.find(row.weights["torch"]) is row for row in table.rows)


@pytest.mark.parametrize("name", ["gpt-4", "", "llama", "../llama-3-8b"])
def test_what_is_not_in_the_table_is_not_found(table: ShardTable, name: str) -> None:
    assert table.find(name) is None


@pytest.mark.parametrize(
    ("name", "closest"),
    [("lama-3-8b", "llama-3-8b"), ("SmolLM2-135", "smollm2-135m"), ("llama-3-405b", "llama-3.1-405b")],
)
def test_a_slip_of_the_pen_has_close_matches(table: ShardTable, name: str, closest: str) -> None:
    matches = table.close_matches(name)
    assert closest in matches
    assert len(matches) == len(set(matches)) <= 3


def test_nothing_is_close_to_a_strange_name(table: ShardTable) -> None:
    assert table.close_matches("zzzzzz") == []


def test_each_engine_finds_its_weights(table: ShardTable) -> None:
    weights = {row.model_id: dict(row.weights) for row in table.rows if len(row.weights) > 1}
    assert weights == {
        "llama-3-8b": {
            "torch": "meta-llama/Meta-Llama-3-8B-Instruct",
            "mlx": "mlx-community/Meta-Llama-3-8B-Instruct-4bit",
            "tinygrad": "llama3-8b-sfr",
        },
        "llama-3-70b": {
            "torch": "meta-llama/Meta-Llama-3-70B-Instruct",
            "mlx": "mlx-community/Meta-Llama-3-70B-Instruct-4bit",
            "tinygrad": "llama3-70b-sfr",
        },
    }


@pytest.mark.parametrize(("version", "factor"), [("3.1", 8.0), ("3.2", 32.0), ("3.3", 8.0)])
def test_later_llamas_scale_their_positions(table: ShardTable, version: str, factor: float) -> None:
    rows = [row for row in table.rows if row.model_id.startswith(f"llama-{version}-")]
    assert rows
    assert {row.spec.rope_scaling for row in rows} == {RopeScaling("llama3", factor, 1.0, 4.0, 8192)}


def test_every_row_reads_back_from_its_config(table: ShardTable) -> None:
    assert all(spec_from_config(spec_to_config(row.spec)) == row.spec for row in table.rows)


TEMPLATES = {
    "llama-7b": None,
    "llama-13b": None,
    "llama-30b": None,
    "llama-65b": None,
    "llama-2-7b": "llama-2",
    "llama-2-13b": "llama-2",
    "llama-2-70b": "llama-2",
    "llama-3-8b": "llama-3",
    "llama-3-70b": "llama-3",
    "llama-3.1-8b": "llama-3",
    "llama-3.1-70b": "llama-3",
    "llama-3.1-405b": "llama-3",
    "llama-3.2-1b": "llama-3",
    "llama-3.2-3b": "llama-3",
    "llama-3.3-70b": "llama-3",
    "alpaca-7b": "alpaca",
    "vicuna-7b": "vicuna",
    "vicuna-13b": "vicuna",
    "tinyllama-1.1b": None,
    "smollm2-135m": None,
    "smollm2-360m": None,
    "smollm2-1.7b": None,
}
"""What each model was tuned on. LLaMA was not tuned for chats; the files of the small ones bring their own."""


def test_each_model_has_the_template_of_its_own_family(table: ShardTable) -> None:
    sources = {
        path.stem: path.read_text(encoding="utf-8")
        for path in Path(str(files("exo_lite.catalog").joinpath("templates"))).glob("*.jinja")
    }
    names = {source: name for name, source in sources.items()}
    found = {row.model_id: row.chat_template and names[row.chat_template] for row in table.rows}
    assert found == TEMPLATES


def test_a_model_without_a_vocabulary_of_its_template_has_none(table: ShardTable) -> None:
    """Llama 3's template writes tokens that only its vocabulary has."""
    rows = [row for row in table.rows if row.chat_template and "<|eot_id|>" in row.chat_template]
    assert rows
    assert {row.spec.vocab_size for row in rows} == {128256}


@given(
    st.sampled_from([(name, row.model_id) for row in load_table().rows for name in row.names]),
    st.sampled_from([str.lower, str.upper, str.title, lambda name: f"  {name}\n"]),
)
def test_every_name_stands_for_one_id_however_it_is_written(
    name_and_id: tuple[str, str], write: Callable[[str], str]
) -> None:
    name, model_id = name_and_id
    assert load_table().id_of(write(name)) == model_id


@given(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True).filter(lambda name: ".." not in name))
def test_any_other_name_stands_for_itself(name: str) -> None:
    row = load_table().find(name)
    assert load_table().id_of(name) == (row.model_id if row else name)


@pytest.mark.parametrize("name", ["Mine", "org/mine", "../mine", ""])
def test_what_can_be_no_id_is_refused(table: ShardTable, name: str) -> None:
    with pytest.raises(InvalidRequest, match="is not a model id"):
        table.id_of(name)


def test_where_files_are_another_model_than_their_row_is_told(table: ShardTable) -> None:
    row = table.find("llama-3-8b")
    assert row is not None
    assert row.differences(replace(row.spec, vocab_size=128264, max_position_embeddings=2**20, dtype="float16")) == []
    other = replace(row.spec, num_hidden_layers=32 + 1, head_dim=64)
    assert row.differences(other) == ["33 num_hidden_layers, not 32", "64 head_dim, not 128"]
    assert row.template_for(row.spec) == row.chat_template is not None
    assert row.template_for(other) is None


DIALOG = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "1 + 1?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "Sure?"},
]
VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
ALPACA_SYSTEM = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)


def render(table: ShardTable, model_id: str, messages: list[dict[str, str]]) -> str:
    row = table.find(model_id)
    assert row is not None
    assert row.chat_template is not None
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    template = environment.from_string(row.chat_template)
    return template.render(messages=messages, bos_token="<s>", eos_token="</s>", add_generation_prompt=True)


def refuse(message: str) -> None:
    raise ValueError(message)


@pytest.mark.parametrize(
    ("model_id", "messages", "prompt"),
    [
        ("llama-2-13b", DIALOG[1:2], "<s>[INST] 1 + 1? [/INST]"),
        (
            "llama-2-13b",
            DIALOG,
            "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n1 + 1? [/INST] 2 </s><s>[INST] Sure? [/INST]",
        ),
        ("vicuna-13b", DIALOG[1:2], f"<s>{VICUNA_SYSTEM} USER: 1 + 1? ASSISTANT:"),
        ("vicuna-13b", DIALOG, "<s>Be brief. USER: 1 + 1? ASSISTANT: 2</s>USER: Sure? ASSISTANT:"),
        ("alpaca-7b", DIALOG[1:2], f"<s>{ALPACA_SYSTEM}\n\n### Instruction:\n1 + 1?\n\n### Response:"),
        (
            "alpaca-7b",
            DIALOG,
            "<s>Be brief.\n\n### Instruction:\n1 + 1?\n\n### Response:2</s>\n\n"
            "### Instruction:\nSure?\n\n### Response:",
        ),
        (
            "llama-3-70b",
            DIALOG[:2],
            "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\n1 + 1?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
    ],
)
def test_templates_write_what_their_models_were_tuned_on(
    table: ShardTable, model_id: str, messages: list[dict[str, str]], prompt: str
) -> None:
    assert render(table, model_id, messages) == prompt


@pytest.mark.parametrize(
    ("model_id", "messages"),
    [
        ("llama-2-7b", []),
        ("llama-2-7b", DIALOG[:1]),
        ("llama-2-7b", DIALOG[2:]),
        ("llama-2-7b", [*DIALOG, DIALOG[1]]),
        ("vicuna-7b", [*DIALOG, DIALOG[0]]),
        ("alpaca-7b", [*DIALOG, {"role": "tool", "content": ""}]),
    ],
)
def test_templates_refuse_turns_that_they_have_no_form_for(
    table: ShardTable, model_id: str, messages: list[dict[str, str]]
) -> None:
    with pytest.raises(ValueError, match=r"user|no place"):
        render(table, model_id, messages)
