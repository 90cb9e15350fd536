"""The journal alone: tokens and ends of attempts in, what becomes of them out."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_lite.domain.errors import (
    ContextLengthExceeded,
    DaemonBusy,
    DeadlineExceeded,
    ExoLiteError,
    InvalidRequest,
    MalformedStep,
    NodeLost,
    NotReady,
    OutOfMemory,
    QueueFull,
    StaleEpoch,
    StepHangs,
)
from exo_lite.domain.ids import Epoch, ModelId, RequestId
from exo_lite.domain.request import AnswerRequest, GenerateRequest, Sampling, Token
from exo_lite.node.journal import Drop, Emit, Fail, Journal, Resubmit

ASKED = AnswerRequest((1, 2, 3), 6, Sampling(seed=4))


def journal(max_attempts: int = 1) -> Journal:
    return Journal(RequestId("r"), ModelId("m"), ASKED, max_attempts=max_attempts)


def test_an_attempt_is_what_was_asked_for_one_placement():
    begun = journal().begin(Epoch(7))
    assert begun == GenerateRequest(RequestId("r"), ModelId("m"), Epoch(7), 0, ASKED)


def test_tokens_are_emitted_in_order():
    subject = journal()
    subject.begin(Epoch(1))
    tokens = [Token(index, 10 + index) for index in range(3)]
    assert [subject.token(0, token) for token in tokens] == [Emit(token) for token in tokens]


@pytest.mark.parametrize("index", [0, 2, 5])
def test_a_token_out_of_order_is_dropped(index: int):
    subject = journal()
    subject.begin(Epoch(1))
    subject.token(0, Token(0, 10))
    assert subject.token(0, Token(index, 11)) == Drop()
    assert subject.token(0, Token(1, 12)) == Emit(Token(1, 12))


@pytest.mark.parametrize("error", [NodeLost("b is lost"), StaleEpoch("old"), NotReady("no pipeline"), OutOfMemory("b")])
def test_the_only_attempt_ends_the_answer_with_its_error(error: ExoLiteError):
    subject = journal()
    subject.begin(Epoch(1))
    assert subject.ended(0, error) == Fail(error)
    assert subject.token(0, Token(0, 1)) == Drop()
    assert subject.ended(0, error) == Drop()


RECOVERABLE = [NodeLost("b"), StaleEpoch("old"), NotReady("no pipeline"), OutOfMemory("b"), StepHangs("b")]
FATAL = [
    InvalidRequest("no"),
    ContextLengthExceeded("long"),
    QueueFull("wait"),
    DaemonBusy("wait"),
    DeadlineExceeded("late"),
    MalformedStep("odd"),
    ExoLiteError("bug"),
]


@pytest.mark.parametrize("error", RECOVERABLE, ids=lambda error: error.code)
def test_what_another_placement_may_do_better_is_tried_again_as_often_as_allowed(error: ExoLiteError):
    subject = journal(max_attempts=2)
    subject.begin(Epoch(1))
    subject.token(0, Token(0, 10))
    assert subject.ended(0, error) == Resubmit()
    assert subject.token(0, Token(1, 11)) == Drop()
    resumed = subject.begin(Epoch(2))
    assert resumed == GenerateRequest(RequestId("r"), ModelId("m"), Epoch(2), 1, ASKED, (10,))
    assert subject.token(0, Token(1, 11)) == Drop()
    assert subject.token(1, Token(1, 12)) == Emit(Token(1, 12))
    assert subject.ended(0, error) == Drop()
    assert subject.ended(1, error) == Fail(error)


@pytest.mark.parametrize("error", FATAL, ids=lambda error: error.code)
def test_what_would_fail_anywhere_ends_the_answer(error: ExoLiteError):
    subject = journal(max_attempts=9)
    subject.begin(Epoch(1))
    assert subject.ended(0, error) == Fail(error)


def test_an_attempt_that_ends_without_a_word_counts_as_lost():
    subject = journal(max_attempts=2)
    subject.begin(Epoch(1))
    assert subject.ended(0, None) == Resubmit()
    subject.begin(Epoch(2))
    outcome = subject.ended(1, None)
    assert isinstance(outcome, Fail)
    assert isinstance(outcome.error, NodeLost)


def test_nothing_comes_after_the_last_token():
    subject = journal(max_attempts=2)
    subject.begin(Epoch(1))
    last = Token(0, 10, "stop")
    assert subject.token(0, last) == Emit(last)
    assert subject.ended(0, NodeLost("b")) == Drop()
    assert subject.token(0, Token(1, 11)) == Drop()


@dataclass
class Answering:
    """Attempts that send the same true answer, each from where it began; the older ones may still be talking."""

    subject: Journal
    requests: list[GenerateRequest] = field(default_factory=list)
    num_sent: list[int] = field(default_factory=list)
    emitted: list[Token] = field(default_factory=list)
    errors: list[ExoLiteError] = field(default_factory=list)

    def begin(self) -> None:
        begun = self.subject.begin(Epoch(1 + len(self.requests)))
        assert begun.answer_token_ids == tuple(token.token_id for token in self.emitted)
        assert begun.attempt == len(self.requests)
        self.requests.append(begun)
        self.num_sent.append(len(begun.answer_token_ids))

    def send(self, attempt: int) -> None:
        index = self.num_sent[attempt]
        self.num_sent[attempt] += 1
        token = Token(index, 100 + index, "length" if index == ASKED.max_tokens - 1 else None)
        outcome = self.subject.token(attempt, token)
        if isinstance(outcome, Emit):
            assert attempt == len(self.requests) - 1, "an attempt that is over was heard"
            self.emitted.append(outcome.token)

    def end(self, attempt: int, error: ExoLiteError | None) -> None:
        outcome = self.subject.ended(attempt, error)
        if isinstance(outcome, Fail):
            self.errors.append(outcome.error)
        elif isinstance(outcome, Resubmit):
            self.begin()

    @property
    def is_complete(self) -> bool:
        return len(self.emitted) == ASKED.max_tokens


MOVES = st.lists(st.tuples(st.sampled_from(["send", "send", "send", "lose", "fail"]), st.integers(0, 4)), max_size=60)


@given(MOVES, st.integers(1, 4))
def test_whatever_happens_the_answer_is_told_once_in_order_and_ends_once(
    moves: list[tuple[str, int]], max_attempts: int
):
    answering = Answering(journal(max_attempts))
    answering.begin()
    for move, number in moves:
        attempt = number % len(answering.requests)
        if move == "send" and answering.num_sent[attempt] < ASKED.max_tokens:
            answering.send(attempt)
        elif move != "send":
            answering.end(attempt, NodeLost("b") if move == "lose" else InvalidRequest("no"))
    assert [token.index for token in answering.emitted] == list(range(len(answering.emitted)))
    assert [token.token_id for token in answering.emitted] == [100 + token.index for token in answering.emitted]
    assert len(answering.requests) <= max_attempts
    assert len(answering.errors) + answering.is_complete <= 1
