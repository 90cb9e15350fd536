"""Answers at the node where they were asked for: once in order, through as many attempts as are allowed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import pytest

from exo_lite.domain.errors import ExoLiteError, InvalidRequest, NodeLost, NotReady
from exo_lite.domain.ids import ModelId
from exo_lite.domain.placement import Instance
from exo_lite.domain.request import MAX_PROMPT_LOGPROBS, AnswerRequest, GenerateRequest, Sampling, Token
from exo_lite.node.answers import Answers
from exo_lite.node.attempts import Attempts
from exo_lite.node.cluster import Cluster
from exo_lite.node.drivers import Drivers
from tests.unit.node.cluster_states import MODEL, SPEC, both_ready
from tests.unit.node.peers_in_memory import Generate, PeersInMemory, peers_with

NUM_TOKENS = 6
ASKED = AnswerRequest((1, 2), NUM_TOKENS, Sampling(seed=3))


def answers_of(
    generate: Generate, *, max_attempts: int = 1, before: Callable[[], Awaitable[None]] | None = None
) -> tuple[Answers, PeersInMemory]:
    seen = Cluster(both_ready())
    memory, peers = peers_with(generate)

    async def ready(model_id: ModelId) -> Instance:
        if before is not None:
            await before()
        found = seen.state.instance_of(model_id)
        assert found is not None
        return found

    return Answers(Attempts(seen, peers, Drivers(seen, peers)), ready, max_attempts=max_attempts), memory


async def told(answers: Answers, asked: AnswerRequest = ASKED) -> list[int]:
    async with aclosing(answers.answer(MODEL, asked)) as tokens:
        return [token.token_id async for token in tokens]


def true_tokens(request: GenerateRequest, end: int = NUM_TOKENS) -> list[Token]:
    """What a driver draws for a request, up to a token: what the index says alone."""
    first = len(request.answer_token_ids)
    return [Token(index, 10 + index, "length" if index == NUM_TOKENS - 1 else None) for index in range(first, end)]


async def whole(request: GenerateRequest) -> AsyncGenerator[Token, None]:
    for token in true_tokens(request):
        yield token


def broken(error: ExoLiteError | None, *, after: int = 2) -> Generate:
    """Two tokens further, and then the error or the end."""

    async def generate(request: GenerateRequest) -> AsyncGenerator[Token, None]:
        for token in true_tokens(request)[:after]:
            yield token
        if error is not None:
            raise error

    return generate


async def test_an_answer_is_told_in_order() -> None:
    answers, memory = answers_of(whole)
    assert await told(answers) == [10, 11, 12, 13, 14, 15]
    [request] = memory.asked
    assert (request.asked, request.attempt, request.answer_token_ids) == (ASKED, 0, ())


async def test_with_one_attempt_a_loss_ends_the_answer() -> None:
    answers, memory = answers_of(broken(NodeLost("node-b is lost")))
    tokens = answers.answer(MODEL, ASKED)
    assert [(await anext(tokens)).token_id for _ in range(2)] == [10, 11]
    with pytest.raises(NodeLost, match="node-b is lost"):
        await anext(tokens)
    assert len(memory.asked) == 1


async def test_an_answer_that_ends_without_its_last_token_has_failed() -> None:
    with pytest.raises(NodeLost, match="ended without a reason"):
        await told(answers_of(broken(None))[0])


@pytest.mark.parametrize("error", [NodeLost("node-b is lost"), None])
async def test_with_more_attempts_it_goes_on_where_it_was(error: ExoLiteError | None) -> None:
    answers, memory = answers_of(broken(error), max_attempts=3)
    assert await told(answers) == [10, 11, 12, 13, 14, 15]
    assert [request.attempt for request in memory.asked] == [0, 1, 2]
    assert [request.answer_token_ids for request in memory.asked] == [(), (10, 11), (10, 11, 12, 13)]
    assert len({request.request_id for request in memory.asked}) == 1


async def test_the_last_attempt_s_error_is_told() -> None:
    with pytest.raises(NodeLost, match="node-b is lost"):
        await told(answers_of(broken(NodeLost("node-b is lost"), after=1), max_attempts=3)[0])


async def test_an_error_that_another_attempt_would_meet_too_is_told_at_once() -> None:
    answers, memory = answers_of(broken(InvalidRequest("no")), max_attempts=3)
    with pytest.raises(InvalidRequest, match="no"):
        await told(answers)
    assert len(memory.asked) == 1


async def test_a_model_that_does_not_come_back_ends_the_answer() -> None:
    num_asked = 0

    async def before() -> None:
        nonlocal num_asked
        num_asked += 1
        if num_asked > 1:
            raise NotReady("tiny is failed")

    with pytest.raises(NotReady, match="tiny is failed"):
        await told(answers_of(broken(NodeLost("node-b is lost")), max_attempts=3, before=before)[0])


async def test_whoever_stops_reading_ends_the_attempt() -> None:
    ended: list[bool] = []

    async def generate(request: GenerateRequest) -> AsyncGenerator[Token, None]:
        try:
            for token in true_tokens(request):
                yield token
        finally:
            ended.append(True)

    async with aclosing(answers_of(generate)[0].answer(MODEL, ASKED)) as tokens:
        await anext(tokens)
    assert ended == [True]


async def test_more_scores_of_a_prompt_than_one_message_holds_are_refused() -> None:
    sampling = Sampling(logprobs=20, prompt_logprobs=True)
    asked = AnswerRequest((1,) * (MAX_PROMPT_LOGPROBS // 21 + 1), 1, sampling)
    with pytest.raises(InvalidRequest, match="log probabilities, more than") as refused:
        await told(answers_of(whole)[0], asked)
    assert refused.value.param == "logprobs"


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        (AnswerRequest((1, SPEC.vocab_size), 1, Sampling()), "prompt"),
        (AnswerRequest((1,), 1, Sampling(logit_bias=((SPEC.vocab_size, 1.0),))), "logit_bias"),
    ],
)
async def test_tokens_that_the_model_does_not_have_are_refused_before_any_hop(asked: AnswerRequest, param: str) -> None:
    answers, memory = answers_of(whole)
    with pytest.raises(InvalidRequest, match="is not within") as refused:
        await told(answers, asked)
    assert (refused.value.param, memory.asked) == (param, [])


async def test_ends_that_lie_beyond_the_vocabulary_are_left_out() -> None:
    answers, memory = answers_of(whole)
    await told(answers, AnswerRequest((1,), NUM_TOKENS, Sampling(min_tokens=1, late_token_ids=(2, SPEC.vocab_size))))
    assert memory.asked[0].asked.sampling.late_token_ids == (2,)
