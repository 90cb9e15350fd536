"""Stages over a tiny random model: chained ones agree with a single one, and refuse what no sound neighbour sends."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import pytest

from exo_lite.domain.errors import MalformedStep
from exo_lite.domain.ids import Epoch
from exo_lite.domain.request import Sampling
from exo_lite.domain.step import (
    Admission,
    HiddenStates,
    SampledToken,
    SequenceChunk,
    Step,
    StepFailure,
    StepMessage,
)
from exo_lite.pipeline.stage import Stage, StageOutput

GREEDY = Sampling(temperature=0.0)
PROMPT = (5, 17, 60, 2, 33)
HIDDEN_SIZE = 32
MakeStage = Callable[..., Stage]


def message(*chunks: SequenceChunk, admit: dict[int, Sampling] | None = None, step_id: int = 0) -> StepMessage:
    admissions = tuple(Admission(index, sampling) for index, sampling in (admit or {}).items())
    return StepMessage(Step(Epoch(1), step_id, chunks, admissions))


def prompt_message(
    sequence_index: int = 0, token_ids: Sequence[int] = PROMPT, sampling: Sampling = GREEDY
) -> StepMessage:
    return message(
        SequenceChunk(sequence_index, 0, len(token_ids), tuple(token_ids), 0), admit={sequence_index: sampling}
    )


def through(stages: Sequence[Stage], first: StepMessage) -> tuple[SampledToken, ...]:
    """A step's way down the pipeline, as sessions send it: token ids travel no further than the first stage."""
    output, passed = StageOutput(), first
    for stage in stages:
        output = stage.compute(passed)
        bare = tuple(chunk._replace(token_ids=()) for chunk in first.step.chunks)
        passed = StepMessage(first.step._replace(chunks=bare), output.hidden_states)
    return output.tokens


def answer(
    stages: Sequence[Stage], *, sequence_index: int = 0, sampling: Sampling = GREEDY, num_tokens: int = 6
) -> list[int]:
    """Prompt and decodes of one sequence."""
    tokens = [through(stages, prompt_message(sequence_index, sampling=sampling))[0].token_id]
    for index in range(1, num_tokens):
        chunk = SequenceChunk(sequence_index, len(PROMPT) + index - 1, 1, (tokens[-1],), index)
        tokens.append(through(stages, message(chunk))[0].token_id)
    return tokens


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.0, seed=7), Sampling(top_p=0.8, top_k=20)])
def test_chained_stages_give_the_tokens_of_a_single_one(make_stage: MakeStage, sampling: Sampling):
    whole = answer([make_stage()], sampling=sampling)
    assert len(set(whole)) > 1
    for splits in ([(0, 0), (1, 2)], [(0, 1), (2, 2)], [(0, 0), (1, 1), (2, 2)]):
        assert answer([make_stage(*split) for split in splits], sampling=sampling) == whole


def test_first_and_middle_stages_hand_on_hidden_states_and_no_tokens(make_stage: MakeStage):
    first, middle = make_stage(0, 0), make_stage(1, 1)
    output = first.compute(prompt_message())
    assert output.tokens == ()
    assert output.hidden_states is not None
    shape = (output.hidden_states.dtype, output.hidden_states.num_tokens, output.hidden_states.hidden_size)
    assert shape == ("float32", len(PROMPT), HIDDEN_SIZE)
    onward = middle.compute(prompt_message()._replace(hidden_states=output.hidden_states))
    assert onward.tokens == ()
    assert onward.hidden_states is not None
    assert onward.hidden_states.data != output.hidden_states.data


def test_sequences_in_one_step_do_not_touch_each_other(make_stage: MakeStage):
    alone = answer([make_stage()], num_tokens=1)
    both = message(
        SequenceChunk(2, 0, 3, (9, 9, 9), 0),
        SequenceChunk(0, 0, len(PROMPT), PROMPT, 0),
        admit={0: GREEDY, 2: Sampling(seed=1)},
    )
    tokens = make_stage().compute(both).tokens
    assert [one.sequence_index for one in tokens] == [2, 0]
    assert tokens[1].token_id == alone[0]


def test_a_chunk_in_the_middle_of_a_prompt_draws_nothing(make_stage: MakeStage):
    stage = make_stage()
    whole = through([make_stage()], prompt_message())
    start = message(SequenceChunk(0, 0, 2, PROMPT[:2], None), admit={0: GREEDY})
    assert stage.compute(start).tokens == ()
    assert stage.compute(message(SequenceChunk(0, 2, 3, PROMPT[2:], 0))).tokens == whole


def test_a_proof_passes_every_stage_without_work(make_stage: MakeStage):
    for stage in (make_stage(0, 0), make_stage(1, 1), make_stage(2, 2)):
        assert stage.compute(message()) == StageOutput()


def test_a_failed_step_is_not_computed_and_leaves_no_trace(make_stage: MakeStage):
    for stage in (make_stage(), make_stage(1, 2)):
        failed = prompt_message()._replace(failure=StepFailure("malformed_step", "a stage before could not"))
        assert stage.compute(failed) == StageOutput()
    stage = make_stage()
    stage.compute(prompt_message()._replace(failure=StepFailure("malformed_step", "no")))
    with pytest.raises(MalformedStep, match="sequence 0 holds 0 tokens, its chunk starts at 5"):
        stage.compute(message(SequenceChunk(0, 5, 1, (1,), 1)))


def test_a_later_stage_needs_hidden_states(make_stage: MakeStage):
    with pytest.raises(MalformedStep, match="step 3 came to a later stage without hidden states"):
        make_stage(1, 2).compute(prompt_message()._replace(step=prompt_message().step._replace(step_id=3)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_hidden_states_with_a_value_that_is_none_are_refused(make_stage: MakeStage, value: float):
    numbers = [0.5] * (len(PROMPT) * HIDDEN_SIZE)
    numbers[40] = value
    damaged = HiddenStates("float32", len(PROMPT), HIDDEN_SIZE, struct.pack(f"<{len(numbers)}f", *numbers))
    for stage in (make_stage(1, 1), make_stage(1, 2)):
        with pytest.raises(MalformedStep, match="NaN or infinity"):
            stage.compute(prompt_message()._replace(hidden_states=damaged))


@pytest.mark.parametrize(
    "hidden_states",
    [
        HiddenStates("bfloat16", len(PROMPT), HIDDEN_SIZE, bytes(2 * len(PROMPT) * HIDDEN_SIZE)),
        HiddenStates("float32", len(PROMPT), 2 * HIDDEN_SIZE, bytes(8 * len(PROMPT) * HIDDEN_SIZE)),
        HiddenStates("float32", 2 * len(PROMPT), HIDDEN_SIZE, bytes(8 * len(PROMPT) * HIDDEN_SIZE)),
        HiddenStates("float32", 0, HIDDEN_SIZE, b""),
        HiddenStates("float32", 0, 2**32 - 1, b""),
        HiddenStates("float32", len(PROMPT), 0, b""),
    ],
    ids=["type", "width", "rows", "none", "none-and-wide", "no-width"],
)
def test_hidden_states_of_another_type_or_shape_are_refused(make_stage: MakeStage, hidden_states: HiddenStates):
    with pytest.raises(MalformedStep):
        make_stage(1, 2).compute(prompt_message()._replace(hidden_states=hidden_states))


@pytest.mark.parametrize("layers", [(0, 2), (0, 0)])
def test_a_sequence_that_was_never_admitted_is_refused_by_every_stage(make_stage: MakeStage, layers: tuple[int, int]):
    stage = make_stage(*layers)
    stage.compute(prompt_message(sequence_index=0))
    with pytest.raises(MalformedStep, match=r"sequences \[1\] were never admitted"):
        stage.compute(message(SequenceChunk(1, 0, 1, (1,), 0)))


def test_a_later_stage_refuses_a_sequence_that_was_never_admitted(make_stage: MakeStage):
    hidden_states = make_stage(0, 0).compute(prompt_message()).hidden_states
    for stage in (make_stage(1, 1), make_stage(1, 2)):
        not_admitted = message(SequenceChunk(0, 0, len(PROMPT), (), 0))
        with pytest.raises(MalformedStep, match=r"sequences \[0\] were never admitted"):
            stage.compute(not_admitted._replace(hidden_states=hidden_states))


@pytest.mark.parametrize(
    "bad",
    [
        message(SequenceChunk(9, 0, 1, (1,), 0), admit={9: GREEDY}),
        message(SequenceChunk(0, 0, 41, (1,) * 41, 0), admit={0: GREEDY}),
        message(SequenceChunk(0, 0, 2, (1,), 0), admit={0: GREEDY}),
        message(SequenceChunk(0, 0, 1, (97,), 0), admit={0: GREEDY}),
        message(SequenceChunk(0, 3, 1, (1,), 0), admit={0: GREEDY}),
        message(admit={2**32 - 1: GREEDY}),
    ],
    ids=["sequence-index", "context", "token-count", "vocabulary", "gap", "admission"],
)
def test_steps_beyond_the_cache_are_refused_and_the_stage_goes_on(make_stage: MakeStage, bad: StepMessage):
    stage = make_stage()
    with pytest.raises(MalformedStep):
        stage.compute(bad)
    assert answer([stage], sequence_index=1) == answer([make_stage()])


def test_an_admission_forgets_what_was_held_before(make_stage: MakeStage):
    stage = make_stage()
    answer([stage])
    with pytest.raises(MalformedStep, match="sequence 0 holds 0 tokens"):
        stage.compute(message(SequenceChunk(0, 4, 1, (1,), 0), admit={0: GREEDY}))
    assert answer([stage]) == answer([make_stage()])


def test_a_new_epoch_forgets_every_sequence(make_stage: MakeStage):
    for layers in ((0, 2), (0, 0)):
        stage = make_stage(*layers)
        stage.compute(prompt_message())
        stage.reset()
        with pytest.raises(MalformedStep, match="never admitted"):
            stage.compute(message(SequenceChunk(0, len(PROMPT), 1, (1,), 1)))


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.0, seed=7, frequency_penalty=0.5)])
def test_a_run_of_right_guesses_gives_the_tokens_of_single_steps(make_stage: MakeStage, sampling: Sampling):
    expected = answer([make_stage()], sampling=sampling)
    stages = [make_stage(0, 0), make_stage(1, 2)]
    first = through(stages, prompt_message(sampling=sampling))[0].token_id
    guesses = (*expected[1:3], (expected[3] + 1) % 97, 5)
    chunk = SequenceChunk(0, len(PROMPT), 5, (first, *guesses), 1, guesses)
    run = [one.token_id for one in through(stages, message(chunk))]
    assert [first, *run] == expected[:4]
    again = SequenceChunk(0, len(PROMPT) + 3, 1, (run[-1],), 4)  # over the rows of the wrong guesses
    assert through(stages, message(again))[0].token_id == expected[4]


@pytest.mark.parametrize(("num_tokens", "sample_index"), [(2, 1), (3, None)])
def test_guesses_without_a_token_before_them_or_a_draw_after_it_are_refused(
    make_stage: MakeStage, num_tokens: int, sample_index: int | None
):
    stage = make_stage()
    stage.compute(prompt_message())
    chunk = SequenceChunk(0, len(PROMPT), num_tokens, (1,) * num_tokens, sample_index, (1, 1))
    with pytest.raises(MalformedStep, match="2 proposals in a chunk"):
        stage.compute(message(chunk))
