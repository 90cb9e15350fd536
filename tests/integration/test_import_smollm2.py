"""The demo model through the store, with transformers as the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from exo_lite.domain.model_spec import ModelSpec
from exo_lite.store.model_store import ModelStore
from exo_lite.store.stored_model import StoredModel
from exo_lite.tokenizer.incremental import IncrementalDetokenizer
from exo_lite.tokenizer.model_tokenizer import ModelTokenizer
from exo_lite.tokenizer.template_files import load_chat_template
from exo_lite.tokenizer.tokenizer_files import load_tokenizer

TEXTS = [
    "The capital of France is",
    "In 2024, 1234567 people said: «Grüße!»",
    "  leading and trailing  ",
    "def f(x):\n\treturn x ** 2\r\n\n\n# 😀👩‍👩‍👧 日本語 العربية",
    "<|im_start|>user\nIt's you'll<|im_end|>\n",
    "",
]
DIALOG = [
    {"role": "system", "content": "Answer in «one» word."},
    {"role": "user", "content": "  Hi 😀\n"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "<|im_end|>"},
]
ABSENT_BYTES = bytes([0x04, 0x06, 0x13, 0x14, 0x16, 0x1D, 0xF1, 0xF2])
"""Those of UTF-8 that SmolLM2 has no token for, in its original as well; what holds one cannot come back."""


@pytest.fixture(scope="module")
def model(demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> StoredModel:
    """Imported anew, so that a change of the import is seen."""
    store = ModelStore(tmp_path_factory.mktemp("models"))
    return store.import_path(demo_gguf, "smollm2-135m", lambda num_written, num_bytes: None)


@pytest.fixture(scope="module")
def tokenizer(model: StoredModel) -> ModelTokenizer:
    return load_tokenizer(model.path)


@pytest.fixture(scope="module")
def reference(model: StoredModel) -> Any:
    return AutoTokenizer.from_pretrained(model.path)


def test_the_dimensions_are_those_of_smollm2(model: StoredModel) -> None:
    assert model.spec == ModelSpec(
        model_type="llama",
        num_hidden_layers=30,
        hidden_size=576,
        intermediate_size=1536,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
        vocab_size=49152,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_theta=100000.0,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    assert model.weight_bytes == 2 * model.spec.num_parameters == 269_030_016


def test_transformers_runs_the_imported_weights(model: StoredModel, reference: Any) -> None:
    torch.set_num_threads(1)
    decoder: Any = AutoModelForCausalLM.from_pretrained(model.path)
    prompt = reference("The capital of France is", return_tensors="pt")
    answer = decoder.generate(**prompt, max_new_tokens=8, do_sample=False)
    assert "Paris" in reference.decode(answer[0])


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_transformers(tokenizer: ModelTokenizer, reference: Any, text: str) -> None:
    assert tokenizer.encode(text) == reference(text).input_ids


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=40))
def test_any_text_has_the_ids_of_transformers(tokenizer: ModelTokenizer, reference: Any, text: str) -> None:
    assert tokenizer.encode(text) == reference(text).input_ids


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=40).filter(lambda text: not set(text.encode()) & set(ABSENT_BYTES)))
def test_text_comes_back(tokenizer: ModelTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text), skip_special=False) == text


@settings(max_examples=200, deadline=None)
@given(ids=st.lists(st.integers(0, 49151), max_size=30))
def test_random_ids_join_to_the_text_decoded_at_once(tokenizer: ModelTokenizer, ids: list[int]) -> None:
    detokenizer = IncrementalDetokenizer(tokenizer)
    pieces = [*(detokenizer.push(token_id) for token_id in ids), detokenizer.finish()]
    assert "".join(pieces) == tokenizer.decode(ids)


def test_tokens_are_those_of_smollm2(tokenizer: ModelTokenizer) -> None:
    assert tokenizer.vocab_size == 49152
    assert tokenizer.stop_token_ids == {0, 2, 4}  # of a text, of a turn, and what begins another repository
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.encode("<|endoftext|><|im_start|><|im_end|>") == [0, 1, 2]
    assert len(tokenizer.encode("1234567")) == 7


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("end", [2, 3, 4])
def test_the_chat_template_renders_as_in_transformers(
    model: StoredModel, tokenizer: ModelTokenizer, reference: Any, start: int, end: int
) -> None:
    messages = DIALOG[start:end]
    ours = load_chat_template(model.path, tokenizer.special).render(messages)
    assert ours == reference.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids = reference.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert tokenizer.encode(ours, add_bos=False) == ids


def test_the_shared_store_keeps_the_model(smollm2_store: ModelStore, model: StoredModel) -> None:
    assert smollm2_store.get("smollm2-135m").fingerprint == model.fingerprint
