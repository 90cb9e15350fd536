"""The scheduler and simulated stages through thousands of seeded histories."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from exo_lite.domain.errors import QueueFull
from exo_lite.domain.ids import Epoch, ModelId, RequestId
from exo_lite.domain.request import AnswerRequest, GenerateRequest, Sampling
from exo_lite.domain.step import PREFILL_CHUNK_TOKENS, Step
from exo_lite.pipeline.block_pool import BlockPool
from exo_lite.pipeline.scheduler import Features, Scheduler
from tests.unit.pipeline.simulated_pipeline import SimulatedPipeline, expected_answer

NUM_HISTORIES = 10_000
NUM_PARTS = 10
CONTEXT_LENGTH = 6 * 64
STOP = frozenset({7})


@dataclass
class Answer:
    request: GenerateRequest
    token_ids: list[int] = field(default_factory=list)
    end: str | None = None
    """finish_reason, `cancelled`, `failed` or `displaced`."""


class History:
    """One seeded course of arrivals, cancels, failing steps and results, with every promise checked on the way."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.num_stages = self.rng.randint(1, 3)
        self.num_blocks = self.rng.randint(6, 14)
        self.max_waiting = self.rng.randint(0, 4)
        self.num_sequences = self.rng.randint(1, 6)
        self.subject = Scheduler(
            epoch=Epoch(1),
            num_stages=self.num_stages,
            num_sequences=self.num_sequences,
            num_blocks=self.num_blocks,
            context_length=CONTEXT_LENGTH,
            vocab_size=1000,
            max_waiting=self.max_waiting,
            features=Features(*(self.rng.random() < 0.8 for _ in range(3))),
        )
        self.pipeline = SimulatedPipeline(self.num_stages, self.num_blocks)
        self.answers: dict[RequestId, Answer] = {}
        self.owners: dict[int, int] = {}
        """The number of the request at each sequence index, as of the last step sent."""
        self.admitted: set[int] = set()
        self.drawing: list[set[int]] = []
        """The numbers of the requests that each step under way draws tokens for."""
        self.failing_chance = self.rng.choice((0.0, 0.0, 0.1))
        self.preambles = [self.token_ids(self.rng.choice((64, 100, 130, 130, 270))) for _ in range(2)]

    def run(self) -> None:
        actions = (self.arrive, self.send, self.send, self.move, self.move, self.receive, self.cancel)
        weights = (3, 3, 3, 2, 2, 4, 0.3)
        for action in self.rng.choices(actions, weights, k=30):
            action()
        while len(self.pipeline) or self.send():
            if len(self.pipeline):
                self.receive()
        self.check_the_end()

    def token_ids(self, count: int) -> list[int]:
        return self.rng.choices(range(50), k=count)

    def beginning(self) -> list[int]:
        """Nothing, what others begin with too, or a chat so far."""
        chats = [[*answer.request.asked.token_ids, *answer.token_ids] for answer in self.answers.values()]
        return self.rng.choice([[], *self.preambles, *chats[-1:]])

    def arrive(self) -> None:
        prompt = self.beginning() + self.token_ids(self.rng.choice((1, 3, 70)))
        prompt = prompt[: CONTEXT_LENGTH - 20]
        name = RequestId(f"r{len(self.answers)}")
        asked = AnswerRequest(
            token_ids=tuple(prompt),
            max_tokens=self.rng.choice((1, 2, 6, 20)),
            sampling=Sampling(seed=len(self.answers)),  # names the request in its admission
            stop_token_ids=STOP,
            tenant=self.rng.choice("abc"),
        )
        request = GenerateRequest(name, ModelId("m"), Epoch(1), 0, asked)
        try:
            displaced = self.subject.submit(request)
        except QueueFull:
            assert self.subject.num_waiting >= self.max_waiting
            return
        self.answers[name] = Answer(request)
        if displaced is not None:
            assert self.answers[displaced].request.asked.tenant != request.asked.tenant
            self.answers[displaced].end = "displaced"

    def send(self) -> bool:
        step = self.subject.next_step()
        if step is None:
            return False
        self.check_step(step)
        failing = self.rng.randrange(self.num_stages) if self.rng.random() < self.failing_chance else None
        self.pipeline.send(step, failing)
        assert len(self.pipeline) <= self.num_stages
        return True

    def move(self) -> None:
        if len(self.pipeline):
            self.pipeline.advance(self.rng.randrange(len(self.pipeline)))

    def receive(self) -> None:
        if not len(self.pipeline):
            return
        result = self.pipeline.take_result(self.rng.uniform(1.0, 30.0))
        self.drawing.pop(0)
        if result.failure is not None:
            for request_id in self.subject.fail(result.step_id):
                self.end(request_id, "failed")
            return
        step = self.subject.step_under_way(result.step_id)
        for request_id, token in self.subject.complete(result):
            answer = self.answers[request_id]
            assert token.index == len(answer.token_ids)
            answer.token_ids.append(token.token_id)
            if token.finish_reason is not None:
                self.end(request_id, token.finish_reason)
        self.subject.learn(step, result, self.rng.choice((5.0, 80.0)))

    def cancel(self) -> None:
        under_way = [one for one, answer in self.answers.items() if answer.end is None]
        if under_way:
            request_id = self.rng.choice(under_way)
            self.subject.cancel(request_id)
            self.end(request_id, "cancelled")

    def end(self, request_id: RequestId, how: str) -> None:
        assert self.answers[request_id].end is None
        self.answers[request_id].end = how

    def check_step(self, step: Step) -> None:
        assert step.chunks
        indices = [chunk.sequence_index for chunk in step.chunks]
        assert len(set(indices)) == len(indices), "a sequence twice in one step"
        assert sum(chunk.num_tokens for chunk in step.chunks) <= PREFILL_CHUNK_TOKENS + self.num_sequences
        assert sum(chunk.num_draws for chunk in step.chunks) <= self.num_sequences
        for admission in step.admissions:
            self.check_turn(admission.sampling.seed)
            self.owners[admission.sequence_index] = admission.sampling.seed
        drawing = {self.owners[chunk.sequence_index] for chunk in step.chunks if chunk.sample_index is not None}
        assert all(not drawing & others for others in self.drawing), "two tokens of one answer under way"
        self.drawing.append(drawing)

    def check_turn(self, number: int) -> None:
        """Whoever is admitted was the first of its tenant's that waited."""
        request_ids = list(self.answers)
        tenant = self.answers[request_ids[number]].request.asked.tenant
        before = [self.answers[one] for one in request_ids[:number]]
        waiting = [one for one in before if one.end is None and one.request.asked.sampling.seed not in self.admitted]
        assert all(one.request.asked.tenant != tenant for one in waiting), "out of order"
        self.admitted.add(number)

    def check_the_end(self) -> None:
        for answer in self.answers.values():
            request = answer.request
            expected = expected_answer(request.asked.token_ids, request.asked.max_tokens, STOP)
            assert answer.end is not None, f"{request.request_id} never ended"
            if answer.end in ("stop", "length"):
                assert answer.token_ids == expected
            else:
                assert answer.token_ids == expected[: len(answer.token_ids)]
        subject = self.subject
        assert (subject.num_running, subject.num_waiting, subject.num_in_flight) == (0, 0, 0)
        assert subject.num_free_blocks == self.num_blocks, "blocks are lost"


@pytest.mark.parametrize("part", range(NUM_PARTS))
def test_seeded_histories_keep_every_promise(part: int):
    """Each request ends, with the very tokens that it has alone; nothing is computed over stale or foreign cells."""
    for seed in range(part, NUM_HISTORIES, NUM_PARTS):
        try:
            History(seed).run()
        except AssertionError as error:
            raise AssertionError(f"history {seed}: {error}") from error


def test_histories_are_worth_their_time(monkeypatch: pytest.MonkeyPatch):
    """What they are to show does occur in them."""
    ends = Counter[str]()
    forget = BlockPool._forget

    def count_and_forget(pool: BlockPool, block: int) -> None:
        ends["evicted"] += 1
        forget(pool, block)

    monkeypatch.setattr(BlockPool, "_forget", count_and_forget)
    for seed in range(300):
        history = History(seed)
        history.run()
        ends.update(str(answer.end) for answer in history.answers.values())
        ends["accepted"] += history.subject.counts.num_accepted_tokens
        ends["wrong"] += history.subject.counts.num_proposed_tokens - history.subject.counts.num_accepted_tokens
        ends["cached"] += history.subject.counts.num_cached_tokens
    shown = ("stop", "length", "cancelled", "failed", "displaced", "cached", "evicted", "accepted", "wrong")
    assert all(ends[how] >= 5 for how in shown), ends
