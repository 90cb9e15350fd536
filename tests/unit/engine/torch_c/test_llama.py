"""The decoder against transformers: every variant, every split, every way to cut a prompt."""

from typing import Any

import pytest
import torch

from exo_lite.domain.errors import InvalidShard
from exo_lite.domain.step import SequenceChunk

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gqa": ("llama", {}),
    "mha": ("llama", {"num_key_value_heads": 4}),
    "mqa": ("llama", {"num_key_value_heads": 1}),
    "head_dim wider than hidden / heads": ("llama", {"head_dim": 16}),
    "head_dim of no round number": ("llama", {"head_dim": 6}),
    "three heads": ("llama", {"hidden_size": 30, "num_attention_heads": 3, "num_key_value_heads": 3}),
    "attention biases": ("llama", {"attention_bias": True}),
    "mlp biases": ("llama", {"mlp_bias": True}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "rope theta": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    "rope linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0}}),
    "rope dynamic": ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0}}),
    "rope llama3": ("llama", {"rope_parameters": LLAMA3}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen2 tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {"head_dim": 16}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_the_reference_at_every_split(variant, random_model, token_ids):
    model_type, changes = VARIANTS[variant]
    model = random_model(model_type, **changes)
    expected = model.logits(token_ids)
    for ends in ((), (0,), (1,), (0, 1)):
        torch.testing.assert_close(model.pipeline(*ends).prefill(token_ids), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("variant", ["gqa", "mqa", "qwen3"])
@pytest.mark.parametrize("chunk_size", [1, 2, 7, 22])
def test_a_prompt_in_chunks_equals_the_prompt_at_once(variant, chunk_size, random_model, token_ids):
    model_type, changes = VARIANTS[variant]
    model = random_model(model_type, **changes)
    at_once = model.pipeline(0).prefill(token_ids)
    in_chunks = model.pipeline(0).prefill(token_ids, chunk_size=chunk_size)
    torch.testing.assert_close(in_chunks, at_once, atol=1e-4, rtol=0)
    assert torch.equal(in_chunks.argmax(-1), at_once.argmax(-1))


def test_greedy_decoding_equals_the_reference(random_model, token_ids):
    model = random_model()
    with torch.inference_mode():
        expected = model.reference.generate(
            torch.tensor([token_ids]), max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0
        )[0].tolist()
    pipeline = model.pipeline(1)
    answer = [int(pipeline.prefill(token_ids)[-1].argmax())]
    while len(answer) < 20:
        chunk = SequenceChunk(0, len(token_ids) + len(answer) - 1, 1)
        answer.append(int(pipeline.logits(answer[-1:], [chunk])[0].argmax()))
    assert token_ids + answer == expected


def test_a_ragged_batch_equals_each_sequence_alone(random_model, token_ids):
    model = random_model()
    first, second, third = token_ids[:9], token_ids[9:], token_ids[4:5]
    alone = [model.pipeline().prefill(one) for one in (first, second, third)]
    pipeline = model.pipeline(1)
    pipeline.prefill(second[:5], sequence_index=1)
    chunks = [SequenceChunk(0, 0, len(first)), SequenceChunk(1, 5, len(second) - 5), SequenceChunk(2, 0, 1)]
    together = pipeline.logits([*first, *second[5:], *third], chunks)
    torch.testing.assert_close(together, torch.cat([alone[0], alone[1][5:], alone[2]]), atol=1e-5, rtol=0)


def test_two_chunks_of_one_sequence_may_share_a_step(random_model, token_ids):
    model = random_model()
    chunks = [SequenceChunk(0, 0, 10), SequenceChunk(0, 10, 13)]
    expected = model.pipeline().prefill(token_ids)
    torch.testing.assert_close(model.pipeline().logits(token_ids, chunks), expected, atol=1e-5, rtol=0)


def test_an_index_serves_one_sequence_after_another(random_model, token_ids):
    model = random_model()
    used = model.pipeline()
    used.prefill(token_ids)
    expected = model.pipeline().prefill(token_ids[3:8])
    assert torch.equal(used.prefill(token_ids[3:8]), expected)


def test_bfloat16_stays_close_to_float32(random_model, token_ids):
    model = random_model()
    shard = model.shard(dtype="bfloat16")
    hidden = shard.forward(torch.tensor(token_ids), [SequenceChunk(0, 0, len(token_ids))], model.cache(shard))
    logits = shard.logits(hidden)
    assert (hidden.dtype, logits.dtype) == (torch.bfloat16, torch.float32)
    similarity = torch.nn.functional.cosine_similarity(logits, model.logits(token_ids), dim=-1)
    assert similarity.min() > 0.99


def test_a_proof_without_chunks_passes_every_shard(random_model):
    pipeline = random_model().pipeline(1)
    assert pipeline.shards[0].forward(torch.tensor([], dtype=torch.int64), [], pipeline.caches[0]).shape == (0, 32)
    assert pipeline.shards[1].forward(torch.empty(0, 32), [], pipeline.caches[1]).shape == (0, 32)
    assert pipeline.shards[1].logits(torch.empty(0, 32)).shape == (0, 97)


def test_only_the_last_shard_has_logits(random_model):
    shard = random_model().shard(0, 1)
    with pytest.raises(InvalidShard, match=r"random\[0\.\.1\] has no output head"):
        shard.logits(torch.zeros(1, 32))


def test_inputs_are_not_changed(random_model):
    model = random_model()
    shard = model.shard(1, 2)
    inputs = torch.randn(5, 32)
    before = inputs.clone()
    shard.forward(inputs, [SequenceChunk(0, 0, 5)], model.cache(shard))
    assert torch.equal(inputs, before)
