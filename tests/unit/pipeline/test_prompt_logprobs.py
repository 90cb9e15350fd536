"""How likely each token of a prompt is: as a draw after the tokens before it says, whatever the chunks."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from exo_lite.domain.errors import MalformedStep
from exo_lite.domain.ids import Epoch, ModelId, RequestId
from exo_lite.domain.model_spec import Quantization
from exo_lite.domain.request import AnswerRequest, GenerateRequest, Logprobs, Sampling
from exo_lite.domain.step import PromptScores, SampledToken, SequenceChunk, Step, StepMessage, StepResult
from exo_lite.pipeline.scheduler import Features
from tests.unit.pipeline.local_pipeline import SPEC, LocalPipeline, open_pipeline, write_checkpoint

PROMPT = tuple(random.Random(5).choices(range(SPEC.vocab_size), k=300))
GREEDY = Sampling(temperature=0.0, logprobs=3)
SCORING = replace(GREEDY, prompt_logprobs=True)
PLACES = (1, 2, 63, 64, 255, 256, 257, 299)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    write_checkpoint(folder)
    return folder


def request(
    name: str, prompt: tuple[int, ...] = PROMPT, sampling: Sampling = SCORING, max_tokens: int = 1
) -> GenerateRequest:
    return GenerateRequest(RequestId(name), ModelId("m"), Epoch(1), 0, AnswerRequest(prompt, max_tokens, sampling))


def drawn_at(pipeline: LocalPipeline, place: int) -> Logprobs:
    """Of the prompt's token at a place, as a draw after those before it tells: bias forces it, and is not told."""
    forced = replace(GREEDY, logit_bias=((PROMPT[place], 100.0),))
    [[token]] = pipeline.answer(request(f"at {place}", PROMPT[:place], forced))
    assert token.token_id == PROMPT[place]
    assert token.logprobs is not None
    return token.logprobs


@pytest.mark.parametrize("quant", ["int8", "none"])
def test_prompts_are_scored_as_draws_are(checkpoint: Path, quant: Quantization) -> None:
    is_exact = quant != "none"
    pipeline = open_pipeline(checkpoint, quant, Features(is_exact=is_exact))
    [[first, *_]] = pipeline.answer(request("whole", max_tokens=4))
    assert len(first.prompt_logprobs) == len(PROMPT) - 1
    assert (first.index, first.num_cached_tokens) == (0, 0)
    for place in PLACES:
        found, expected = first.prompt_logprobs[place - 1], drawn_at(pipeline, place)
        assert len(found.top) == 3
        if is_exact:
            assert found == expected
        else:
            assert found.chosen == pytest.approx(expected.chosen, abs=1e-4)


def test_scores_are_the_same_beside_others_and_with_the_prompt_in_the_cache(checkpoint: Path) -> None:
    pipeline = open_pipeline(checkpoint, "int8", Features())
    [[alone]] = pipeline.answer(request("alone"))
    plain = [request(f"plain {number}", PROMPT[number:], GREEDY, max_tokens=9) for number in range(2)]
    beside, *others = pipeline.answer(request("beside"), *plain)
    assert beside[0].prompt_logprobs == alone.prompt_logprobs
    assert beside[0].num_cached_tokens == 0  # what is in the cache has no scores
    assert all(not token.prompt_logprobs for answer in others for token in answer)


def test_a_prompt_of_one_token_has_nothing_to_score(checkpoint: Path) -> None:
    [[token]] = open_pipeline(checkpoint, "none", Features(is_exact=False)).answer(request("one", PROMPT[:1]))
    assert token.prompt_logprobs == ()


@pytest.mark.parametrize("scores", [(), (PromptScores(0, ()),), (PromptScores(0, (Logprobs(-1.0),) * 3),)])
def test_a_result_with_other_scores_than_asked_for_changes_nothing(
    checkpoint: Path, scores: tuple[PromptScores, ...]
) -> None:
    scheduler = open_pipeline(checkpoint, "none", Features(is_exact=False)).scheduler
    scheduler.submit(request("r", PROMPT[:3]))
    step = scheduler.next_step()
    assert step is not None
    [chunk] = step.chunks
    assert chunk.scored_token_ids == PROMPT[1:3]
    drawn = (SampledToken(chunk.sequence_index, 5),)
    with pytest.raises(MalformedStep, match="was to score 2 tokens"):
        scheduler.complete(StepResult(step.epoch, step.step_id, drawn, (), scores=scores))
    sound = (PromptScores(chunk.sequence_index, (Logprobs(-1.0), Logprobs(-2.0))),)
    [(_, token)] = scheduler.complete(StepResult(step.epoch, step.step_id, drawn, (), scores=sound))
    assert token.prompt_logprobs == (Logprobs(-1.0), Logprobs(-2.0))


@pytest.mark.parametrize(
    ("sampling", "scored"), [(GREEDY, (1, 2, 3)), (SCORING, (1, SPEC.vocab_size)), (Sampling(), (1,))]
)
def test_a_stage_scores_nothing_that_no_sound_driver_asks_for(
    checkpoint: Path, sampling: Sampling, scored: tuple[int, ...]
) -> None:
    """More than follows in the prompt, what is no token, and for a sequence that wants no log probabilities."""
    pipeline = open_pipeline(checkpoint, "none", Features(is_exact=False))
    pipeline.scheduler.submit(request("r", PROMPT[:3], sampling))
    step = pipeline.scheduler.next_step()
    assert step is not None
    chunk = SequenceChunk(step.chunks[0].sequence_index, 0, 3, PROMPT[:3], 0, scored_token_ids=scored)
    sound, last = pipeline.stages
    [plain] = step.chunks
    before = sound.compute(StepMessage(step._replace(chunks=(plain._replace(scored_token_ids=()),))))
    with pytest.raises(MalformedStep):
        last.compute(StepMessage(Step(step.epoch, 0, (chunk,), step.admissions), before.hidden_states))
