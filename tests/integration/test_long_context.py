"""Contexts to a model's own limit run within the bytes that planning promised."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from exo_lite.store.model_store import ModelStore

pytestmark = [pytest.mark.long, pytest.mark.alone, pytest.mark.timeout(900)]

SLACK_BYTES = 48 * 2**20
"""Allocator, thread stacks, code loaded on demand: what does not grow with the model."""


def fill(folder: Path, quant: str, context_length: int) -> None:
    command = [sys.executable, "-m", "tests.integration.long_context", str(folder), quant, str(context_length)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert found["length"] == context_length
    assert found["taken"] <= found["planned"] + SLACK_BYTES


@pytest.mark.parametrize("quant", ["none", "int8", "int4"])
def test_smollm2_at_8192_tokens(smollm2_store: ModelStore, quant: str):
    fill(smollm2_store.get("smollm2-135m").path, quant, 8192)


@pytest.mark.parametrize("quant", ["none", "int8", "int4"])
def test_a_small_model_of_llama_31_shape_at_32768_tokens(tmp_path: Path, quant: str):
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=128,
        intermediate_size=448,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=131072,
        rope_parameters={**rope, "rope_theta": 500000.0, "original_max_position_embeddings": 8192},
        dtype="bfloat16",
    )
    LlamaForCausalLM(config).bfloat16().save_pretrained(tmp_path / "model")
    fill(tmp_path / "model", quant, 32768)
