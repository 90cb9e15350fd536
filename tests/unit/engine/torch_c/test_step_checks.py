"""Malformed steps are refused before anything is computed."""

import pytest
import torch

from exo_lite.domain.errors import MalformedStep
from exo_lite.domain.step import SequenceChunk
from exo_lite.engine.torch_c.step_checks import check_hidden_states, check_logits

ONE = [SequenceChunk(0, 0, 1)]


@pytest.fixture
def stages(random_model):
    """The first and the last half of a model, with caches for 3 sequences of 48 tokens."""
    pipeline = random_model().pipeline(1)
    return tuple(zip(pipeline.shards, pipeline.caches, strict=True))


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([SequenceChunk(0, 0, 2)], "count 2 tokens, the input has 3 rows"),
        ([], "count 0 tokens, the input has 3 rows"),
        ([SequenceChunk(0, 0, 4), SequenceChunk(1, 0, -1)], "a chunk of -1 tokens at position 0"),
        ([SequenceChunk(0, 0, 3), SequenceChunk(1, 0, 0)], "a chunk of 0 tokens at position 0"),
        ([SequenceChunk(3, 0, 3)], r"sequence 3 is not within 0\.\.2"),
        ([SequenceChunk(-1, 0, 3)], r"sequence -1 is not within 0\.\.2"),
        ([SequenceChunk(0, -1, 3)], "at position -1"),
        ([SequenceChunk(0, 46, 3)], "end at 49, beyond its room for 48"),
        ([SequenceChunk(0, 2, 3)], "sequence 0 holds 0 tokens, its chunk starts at 2"),
    ],
)
def test_chunks(chunks, message, stages):
    first, cache = stages[0]
    with pytest.raises(MalformedStep, match=message):
        first.forward(torch.tensor([1, 2, 3]), chunks, cache)
    assert cache.length(0) == 0


def test_a_gap_behind_what_a_sequence_holds(stages):
    first, cache = stages[0]
    first.forward(torch.tensor([1, 2, 3]), [SequenceChunk(1, 0, 3)], cache)
    with pytest.raises(MalformedStep, match="sequence 1 holds 3 tokens, its chunk starts at 4"):
        first.forward(torch.tensor([1]), [SequenceChunk(1, 4, 1)], cache)


@pytest.mark.parametrize("token_id", [-1, 97, 2**40])
def test_token_ids_beyond_the_vocabulary(token_id, stages):
    first, cache = stages[0]
    with pytest.raises(MalformedStep, match=rf"token id {token_id} is not within the vocabulary, 0\.\.96"):
        first.forward(torch.tensor([token_id]), ONE, cache)


@pytest.mark.parametrize(
    "inputs", [torch.zeros(1, 32), torch.tensor([1], dtype=torch.int32), torch.zeros(1, 1, dtype=torch.int64)]
)
def test_token_ids_of_a_wrong_kind(inputs, stages):
    first, cache = stages[0]
    with pytest.raises(MalformedStep, match=r"token ids must be int64 \[tokens\]"):
        first.forward(inputs, ONE, cache)


def test_an_input_without_rows(stages):
    first, cache = stages[0]
    with pytest.raises(MalformedStep, match="the input has 0 rows"):
        first.forward(torch.tensor(1), ONE, cache)


@pytest.mark.parametrize(
    "inputs",
    [torch.zeros(1, 31), torch.zeros(1, 1, 32), torch.zeros(1, 32, dtype=torch.bfloat16), torch.tensor([1])],
)
def test_hidden_states_of_a_wrong_kind(inputs, stages):
    last, cache = stages[1]
    with pytest.raises(MalformedStep, match=r"hidden states must be torch\.float32 \[tokens, 32\]"):
        last.forward(inputs, ONE, cache)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_hidden_states_that_are_not_finite(value, stages):
    last, cache = stages[1]
    inputs = torch.zeros(1, 32)
    inputs[0, 7] = value
    with pytest.raises(MalformedStep, match="NaN or infinity"):
        last.forward(inputs, ONE, cache)
    with pytest.raises(MalformedStep, match="NaN or infinity"):
        last.logits(inputs)


def test_logits_that_overflow(random_model):
    model = random_model()
    with torch.no_grad():
        model.reference.lm_head.weight.fill_(60000.0)
    model.reference.save_pretrained(model.path)
    shard = model.shard(dtype="float16")
    with pytest.raises(MalformedStep, match="logits hold NaN or infinity"):
        shard.logits(torch.ones(1, 32, dtype=torch.float16))


def test_a_model_that_overflows_float16_names_a_type_that_does_not(random_model):
    """Published in bfloat16, as Qwen3 is (QwenLM/Qwen3#761): float16 ends at 65,504."""
    model = random_model()
    with torch.no_grad():
        model.reference.model.layers[0].mlp.down_proj.weight.fill_(60000.0)
    model.reference.save_pretrained(model.path)
    chunks, token_ids = [SequenceChunk(0, 0, 3)], torch.tensor([1, 2, 3])
    first, last = model.shard(0, 0, dtype="float16"), model.shard(1, dtype="float16")
    hidden = first.forward(token_ids, chunks, model.cache(first))
    way_out = "unload the model and load it with `--dtype bfloat16`"
    with pytest.raises(MalformedStep, match=f"hidden states hold NaN or infinity.*{way_out}"):
        last.forward(hidden, chunks, model.cache(last))
    whole = model.shard(dtype="float16")
    with pytest.raises(MalformedStep, match=way_out):
        whole.logits(whole.forward(token_ids, chunks, model.cache(whole)))
    wider = model.shard(dtype="bfloat16")
    assert wider.logits(wider.forward(token_ids, chunks, model.cache(wider))).isfinite().all()


def test_a_model_that_overflows_bfloat16_is_for_float32():
    rows = torch.full((1, 32), float("inf"), dtype=torch.bfloat16)
    with pytest.raises(MalformedStep, match="`--dtype float32`"):
        check_hidden_states(rows, 32, torch.bfloat16)
    with pytest.raises(MalformedStep, match="`--dtype float32`"):
        check_logits(rows.float(), torch.bfloat16)
