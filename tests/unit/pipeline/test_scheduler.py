"""The scheduler alone: arrivals, cancels and results in, steps out."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exo_lite.domain.errors import ContextLengthExceeded, InvalidRequest, MalformedStep, QueueFull, StaleEpoch
from exo_lite.domain.ids import Epoch, RequestId
from exo_lite.domain.request import Logprobs, Sampling, Token
from exo_lite.domain.step import PREFILL_CHUNK_TOKENS, SampledToken, Step, StepResult
from exo_lite.pipeline.scheduler import Features, Scheduler
from tests.unit.pipeline.asking import asking
from tests.unit.pipeline.scheduling import STOP, VOCAB_SIZE, complete_after, next_step, request, result, scheduler


def test_a_prompt_then_its_tokens_until_max_tokens():
    subject = scheduler()
    subject.submit(request("a", num_prompt=3, max_tokens=2))
    prompt = next_step(subject)
    assert [(c.position, c.num_tokens, c.token_ids, c.sample_index) for c in prompt.chunks] == [
        (0, 3, (100, 101, 102), 0)
    ]
    assert prompt.admissions[0].sampling == Sampling(seed=1)
    assert subject.next_step() is None  # its first token is not known yet
    assert subject.complete(result(prompt, 7)) == [("a", Token(0, 7))]
    decode = next_step(subject)
    assert [(c.position, c.num_tokens, c.token_ids, c.sample_index) for c in decode.chunks] == [(3, 1, (7,), 1)]
    assert subject.complete(result(decode, 8)) == [("a", Token(1, 8, "length"))]
    assert (subject.num_running, subject.next_step()) == (0, None)


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(presence_penalty=1.0, frequency_penalty=1.0, logit_bias=((1, 1.0),), logprobs=3), ()),
        (Sampling(repetition_penalty=1.1), (4, 7, 9)),
    ],
)
def test_the_prompts_tokens_go_to_the_sampler_only_where_a_penalty_counts_them(sampling, expected):
    subject = scheduler()
    subject.submit(asking(request("a"), token_ids=(9, 4, 9, 7), sampling=sampling))
    [admission] = next_step(subject).admissions
    assert (admission.sampling, admission.prompt_token_ids, admission.answer_token_ids) == (sampling, expected, ())


def test_log_probabilities_reach_the_token():
    subject = scheduler()
    subject.submit(request("a"))
    step = next_step(subject)
    logprobs = Logprobs(-0.5, ((7, -0.5),))
    sampled = StepResult(step.epoch, step.step_id, (SampledToken(step.chunks[0].sequence_index, 7, logprobs),), ())
    assert subject.complete(sampled) == [("a", Token(0, 7, None, logprobs))]


def test_a_stop_token_ends_the_answer():
    subject = scheduler()
    subject.submit(request("a"))
    assert subject.complete(result(next_step(subject), STOP)) == [("a", Token(0, STOP, "stop"))]
    assert subject.num_running == 0


def test_chunks_of_one_prompt_follow_each_other_without_waiting():
    subject = scheduler(num_stages=3)
    subject.submit(request("a", num_prompt=2 * PREFILL_CHUNK_TOKENS + 10))
    steps = [next_step(subject) for _ in range(3)]
    assert [step.chunks[0].position for step in steps] == [0, PREFILL_CHUNK_TOKENS, 2 * PREFILL_CHUNK_TOKENS]
    assert [step.chunks[0].sample_index for step in steps] == [None, None, 0]


def test_as_many_steps_under_way_as_stages_and_decodes_in_even_groups():
    subject = scheduler(num_stages=2)
    for name in "abcd":
        subject.submit(request(name, max_tokens=50))
    subject.complete(result(next_step(subject)))
    groups = [next_step(subject), next_step(subject)]
    assert [len(step.chunks) for step in groups] == [2, 2]
    assert len({chunk.sequence_index for step in groups for chunk in step.chunks}) == 4
    assert subject.next_step() is None


def test_more_requests_than_fit_wait_and_then_are_refused():
    subject = scheduler(num_sequences=1, max_waiting=1)
    subject.submit(request("a", max_tokens=1))
    first = next_step(subject)
    subject.submit(request("b"))
    with pytest.raises(QueueFull, match="the queue is full, 1 requests run and 1 wait"):
        subject.submit(request("c"))
    subject.complete(result(first))
    assert [one.sequence_index for one in next_step(subject).admissions] == [first.chunks[0].sequence_index]


def test_impossible_requests_change_nothing():
    subject = scheduler(context_length=10)
    for bad, error in [
        (request("a", num_prompt=8, max_tokens=3), ContextLengthExceeded),
        (request("a", num_prompt=0), InvalidRequest),
        (request("a", max_tokens=0), InvalidRequest),
        (request("a", epoch=2), StaleEpoch),
    ]:
        with pytest.raises(error):
            subject.submit(bad)
    assert (subject.num_waiting, subject.next_step()) == (0, None)
    subject.submit(request("fits", num_prompt=8, max_tokens=2))


def test_a_cancelled_request_frees_its_index_and_its_late_token_goes_nowhere():
    subject = scheduler(num_sequences=1)
    subject.submit(request("a"))
    late = next_step(subject)
    subject.cancel(RequestId("a"))
    subject.submit(request("b"))
    admitted = next_step(subject)
    assert admitted.admissions[0].sequence_index == late.chunks[0].sequence_index
    assert subject.complete(result(late, 5)) == []
    assert subject.complete(result(admitted, 6)) == [("b", Token(0, 6))]


def test_a_failed_step_ends_its_requests_only():
    subject = scheduler(num_stages=2)
    subject.submit(request("a"))
    first = next_step(subject)
    subject.submit(request("b"))
    second = next_step(subject)
    assert subject.fail(first.step_id) == ["a"]
    assert subject.complete(result(second)) == [("b", Token(0, 5))]


def test_a_late_token_of_a_cancelled_request_does_not_go_to_the_next_one_of_its_name():
    subject = scheduler(num_sequences=1)
    subject.submit(request("a"))
    late = next_step(subject)
    subject.cancel(RequestId("a"))
    subject.submit(request("a"))
    again = next_step(subject)
    assert subject.complete(result(late, 5)) == []
    assert subject.complete(result(again, 6)) == [("a", Token(0, 6))]


def test_a_name_is_taken_while_its_request_waits_or_runs():
    subject = scheduler(num_sequences=1)
    subject.submit(request("a"))
    first = next_step(subject)
    subject.submit(request("b"))
    for name in "ab":
        with pytest.raises(InvalidRequest, match=f"request {name} is already running"):
            subject.submit(request(name))
    subject.complete(result(first, STOP))
    subject.submit(request("a"))


def test_tokens_that_are_missing_not_asked_for_or_in_another_order_are_refused_and_change_nothing():
    subject = scheduler()
    for name in "ab":
        subject.submit(request(name))
    sound = result(next_step(subject))
    first, second = sound.tokens
    for tokens in ((), (first,), (first, first, second), (first, second._replace(sequence_index=3)), (second, first)):
        with pytest.raises(MalformedStep, match="was to bring tokens for sequences"):
            subject.complete(sound._replace(tokens=tokens))
    assert subject.complete(sound) == [("a", Token(0, 5)), ("b", Token(0, 5))]


def test_tokens_beyond_the_vocabulary_are_refused_before_they_can_end_the_steps_of_others():
    subject = scheduler()
    for bad in (
        asking(request("a"), token_ids=(1, VOCAB_SIZE)),
        asking(request("a"), sampling=Sampling(logit_bias=((VOCAB_SIZE, 1.0),))),
    ):
        with pytest.raises(InvalidRequest, match=f"token id {VOCAB_SIZE} is not within 0..{VOCAB_SIZE - 1}"):
            subject.submit(bad)
    assert subject.num_waiting == 0


def test_proofs_carry_no_work_and_unknown_names_are_no_error():
    subject = scheduler()
    proof = subject.proof_step()
    assert (proof.chunks, proof.num_tokens) == ((), 0)
    assert subject.complete(result(proof)) == []
    subject.cancel(RequestId("nobody"))
    assert subject.fail(77) == []


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), num_stages=st.integers(1, 4), num_sequences=st.integers(1, 5))
def test_random_histories_keep_every_promise(seed: int, num_stages: int, num_sequences: int):
    """Every admitted request ends with its exact tokens; nothing is twice in flight; all of the memory comes back."""
    rng = random.Random(seed)
    subject = scheduler(num_stages=num_stages, num_sequences=num_sequences, max_waiting=100)
    pipeline: list[Step] = []
    caches: dict[int, int] = {}  # by index: tokens held, as each stage would have it
    expected, cancelled = {}, set()
    answers: dict[str, list[int]] = {}
    for turn in range(200):
        action = rng.random()
        if action < 0.15 and turn < 150:
            name = f"r{turn}"
            expected[name] = rng.randint(1, 6)
            subject.submit(request(name, num_prompt=rng.choice([1, 5, 300, 700]), max_tokens=expected[name]))
            answers[name] = []
        elif action < 0.18 and answers:
            name = rng.choice(sorted(answers))
            subject.cancel(RequestId(name))
            cancelled.add(name)
        elif action < 0.6 and pipeline:
            _take_result(subject, pipeline.pop(0), answers)
        elif (step := subject.next_step()) is not None:
            _check_step(step, pipeline, caches)
            pipeline.append(step)
            assert len(pipeline) <= num_stages
    while pipeline or (step := subject.next_step()) is not None:
        if pipeline:
            _take_result(subject, pipeline.pop(0), answers)
        else:
            assert step is not None
            _check_step(step, pipeline, caches)
            pipeline.append(step)
    for name, num_tokens in expected.items():
        if name not in cancelled:
            assert answers[name] == list(range(num_tokens))
    assert (subject.num_running, subject.num_waiting, subject.num_in_flight) == (0, 0, 0)


def _check_step(step: Step, pipeline: list[Step], caches: dict[int, int]) -> None:
    for admission in step.admissions:
        caches[admission.sequence_index] = admission.num_cached_tokens
    indices = [chunk.sequence_index for chunk in step.chunks]
    assert len(indices) == len(set(indices))
    for chunk in step.chunks:
        assert chunk.position == caches[chunk.sequence_index]
        assert chunk.num_tokens == len(chunk.token_ids) <= PREFILL_CHUNK_TOKENS
        caches[chunk.sequence_index] += chunk.num_tokens - len(chunk.proposed_token_ids)  # none of those proves right
        admitted = {one.sequence_index for one in step.admissions}
        if chunk.sample_index is not None and chunk.sequence_index not in admitted:
            decoding = [
                c
                for other in pipeline
                for c in other.chunks
                if c.sequence_index == chunk.sequence_index and c.sample_index
            ]
            assert all(c.sample_index != chunk.sample_index for c in decoding)


def _take_result(subject: Scheduler, step: Step, answers: dict[str, list[int]]) -> None:
    for request_id, token in subject.complete(result(step)):
        answers[request_id].append(token.index)


def test_short_requests_share_the_room_of_long_ones_and_a_long_one_waits_its_turn():
    subject = Scheduler(
        epoch=Epoch(1),
        num_stages=1,
        num_sequences=8,
        num_blocks=4,
        context_length=256,
        vocab_size=VOCAB_SIZE,
        max_waiting=8,
    )
    for name in "abc":
        subject.submit(request(name, num_prompt=3, max_tokens=4))
    subject.submit(request("long", num_prompt=100, max_tokens=100))
    subject.submit(request("late", num_prompt=3, max_tokens=4))
    step = next_step(subject)
    assert [one.blocks for one in step.admissions] == [(0,), (1,), (2,)]
    assert (subject.num_running, subject.num_waiting) == (3, 2)
    for name in "abc":
        subject.cancel(RequestId(name))
    subject.complete(StepResult(step.epoch, step.step_id, result(step).tokens, ()))
    assert [one.blocks for one in next_step(subject).admissions] == [(0, 1, 2, 3)]


def test_a_long_prompt_comes_in_small_pieces_while_answers_run_and_whole_chunks_when_none_does():
    subject = scheduler(num_stages=1)
    for name in "ab":
        subject.submit(request(name, max_tokens=100))
    for _ in range(5):
        complete_after(subject, next_step(subject), 10.0)
    subject.submit(request("long", num_prompt=900, max_tokens=1))
    sizes = []
    for _ in range(40):
        step = next_step(subject)
        assert [chunk.num_tokens for chunk in step.chunks[:2]] == [1, 1]
        sizes.append(step.num_tokens - 2)
        complete_after(subject, step, 10.0 + 0.5 * sizes[-1])
    assert max(sizes[2:]) == 12  # 1.6 times as long as without
    assert 0 in sizes  # to see what the answers cost alone
    for name in "ab":
        subject.cancel(RequestId(name))
    position = sum(sizes)
    while position < 900:
        [chunk] = next_step(subject).chunks
        assert chunk.position == position
        position += chunk.num_tokens
        assert position in (900, *range(0, 900, PREFILL_CHUNK_TOKENS))
        complete_after(subject, Step(Epoch(1), subject._next_step_id - 1, (chunk,)), 100.0)


@pytest.mark.parametrize("is_exact", [True, False])
def test_prompts_of_slow_stages_come_in_chunks_of_about_a_second(is_exact):
    subject = scheduler(num_stages=1, features=Features(is_exact=is_exact))
    subject.submit(request("warm-up", num_prompt=32, max_tokens=1))
    complete_after(subject, next_step(subject), 32 * 20.0)
    subject.submit(request("long", num_prompt=300, max_tokens=1))
    sizes = []
    while (step := subject.next_step()) is not None:
        sizes.append(step.num_tokens)
        complete_after(subject, step, step.num_tokens * 20.0)
    assert sizes == [64, 64, 64, 64, 44]


def test_where_the_size_of_chunks_changes_numbers_no_other_size_finds_what_was_computed():
    subject = scheduler(num_stages=1, features=Features(is_exact=False))

    def num_cached(name: str, ms_per_token: float, tenant: str = "") -> int:
        subject.submit(asking(request(name, num_prompt=600, max_tokens=1), tenant=tenant))
        step = next_step(subject)
        cached = step.admissions[0].num_cached_tokens
        while True:
            complete_after(subject, step, step.num_tokens * ms_per_token)
            following = subject.next_step()
            if following is None:
                return cached
            step = following

    assert [num_cached("a", 0.1), num_cached("b", 0.1)] == [0, 512]
    num_cached("slow", 20.0, tenant="another")  # from here on chunks are smaller
    assert num_cached("c", 20.0) == 0
    assert num_cached("d", 20.0) == 576


def test_a_prompt_waits_for_no_more_than_its_share_of_another_tenants():
    subject = scheduler(num_stages=1, num_sequences=4)
    subject.submit(asking(request("long", num_prompt=800), tenant="a"))
    subject.submit(asking(request("longer", num_prompt=850), tenant="a"))
    first = next_step(subject)
    subject.submit(asking(request("short", num_prompt=300), tenant="b"))
    steps = [first]
    for _ in range(4):
        subject.complete(result(steps[-1]))
        steps.append(next_step(subject))
    indices = [[chunk.sequence_index for chunk in step.chunks if chunk.num_tokens > 1] for step in steps[:4]]
    long, short = indices[0][0], indices[1][0]
    assert long != short
    assert indices == [[long], [short], [long], [short]]


def test_a_flood_of_one_tenant_does_not_shut_out_another():
    subject = scheduler(num_sequences=1, max_waiting=2)
    for name in "abc":
        subject.submit(request(name))
        subject.next_step()
    assert subject.submit(asking(request("d"), tenant="other")) == "c"
    with pytest.raises(QueueFull):
        subject.submit(request("e"))
    assert subject.num_waiting == 2


def test_a_timeout_is_more_than_nothing():
    with pytest.raises(InvalidRequest, match="timeout must be more than 0 s, not 0"):
        scheduler().submit(asking(request("a"), timeout_s=0.0))


def test_right_guesses_are_taken_up_to_where_the_answer_ends():
    subject = scheduler(num_stages=1, num_sequences=16)
    subject.submit(asking(request("a", max_tokens=9), token_ids=(1, 2, 3, 4, STOP, 6, 1, 2)))
    subject.complete(result(next_step(subject), 3))
    step = next_step(subject)
    [chunk] = step.chunks
    assert (chunk.token_ids, chunk.proposed_token_ids) == ((3, 4, STOP, 6, 1), (4, STOP, 6, 1))
    run = tuple(SampledToken(chunk.sequence_index, token_id) for token_id in (4, STOP, 6, 1, 2))
    for wrong in (run[1:], (*run, run[-1]), (run[1], run[0]), ()):
        with pytest.raises(MalformedStep):
            subject.complete(StepResult(step.epoch, step.step_id, wrong, ()))
    taken = subject.complete(StepResult(step.epoch, step.step_id, run, ()))
    assert taken == [("a", Token(1, 4)), ("a", Token(2, STOP, "stop"))]
    assert (subject.num_running, subject.num_free_blocks) == (0, subject.num_blocks)


def test_no_more_is_guessed_than_the_answer_may_still_hold():
    subject = scheduler(num_stages=1, num_sequences=16)
    subject.submit(asking(request("a", max_tokens=3), token_ids=(7, 7, 7, 7)))
    subject.complete(result(next_step(subject), 7))
    [chunk] = next_step(subject).chunks
    assert chunk.proposed_token_ids == (7,)
