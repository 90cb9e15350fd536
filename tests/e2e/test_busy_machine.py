"""Long prompts over two nodes whose cores are kept busy by other programs."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.conftest import DEMO_MODEL
from tests.daemons import Daemons, Node

pytestmark = pytest.mark.alone

BUSY_PROGRAM = "while True: pass"
NUM_BUSY_PROGRAMS = 2
PROMPT_TOKENS = 2000
NUM_TOKENS = 8


@contextmanager
def busy_cores() -> Iterator[None]:
    programs = [subprocess.Popen([sys.executable, "-c", BUSY_PROGRAM]) for _ in range(NUM_BUSY_PROGRAMS)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def two_halves(daemons: Daemons, quant: str) -> Node:
    first, _ = daemons.start_all({"a": "700MiB", "b": "700MiB"})
    model = first.load(DEMO_MODEL, quant=quant, slots=2, timeout_s=120.0)
    assert len(model["shards"]) == 2
    return first


def answered(node: Node, num_tokens: int, seed: int) -> bool:
    """Whether a prompt of random tokens is answered in full; prompts of different seeds share nothing."""
    prompt = random.Random(seed).choices(range(1000, 40_000), k=num_tokens)
    body = {"model": DEMO_MODEL, "prompt": prompt, "max_tokens": NUM_TOKENS, "temperature": 0, "ignore_eos": True}
    reply = node.client.post(f"http://{node.http}/v1/completions", json=body, timeout=900.0)
    assert reply.status_code == 200, reply.text
    usage = reply.json()["usage"]
    return usage["prompt_tokens"] == num_tokens and usage["prompt_tokens_details"]["cached_tokens"] == 0


@pytest.mark.timeout(240)
def test_a_prompt_of_several_chunks_is_answered_by_busy_nodes(own_daemons: Daemons):
    node = two_halves(own_daemons, "none")
    with busy_cores():
        assert answered(node, 300, seed=0)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("quant", ["none", "int8"])
def test_twenty_long_prompts_of_twenty_are_answered_by_busy_nodes(own_daemons: Daemons, quant: str):
    node = two_halves(own_daemons, quant)
    with busy_cores():
        assert [answered(node, PROMPT_TOKENS, seed) for seed in range(20)] == [True] * 20
