"""Stages that keep tokens where real ones keep keys and values, and a tail that draws from what its cache holds.

A wrong, stale or missing cell on any stage shows: every stage's view of a sequence must be the same, and the tail's
next token depends on all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from exo_lite.domain.step import (
    KV_BLOCK_TOKENS,
    SampledToken,
    SequenceChunk,
    StageTiming,
    Step,
    StepFailure,
    StepResult,
)

UNWRITTEN = -1
PERIOD = 5
"""Answers mostly repeat what stands so many tokens before, as copied text does."""


def next_token(context: Sequence[int]) -> int:
    """A model: mostly a copy, now and then something that depends on every token before."""
    mixed = hash(tuple(context))
    return mixed // 4 % 50 if mixed % 4 == 0 or len(context) < PERIOD else context[-PERIOD]


def expected_answer(prompt: Sequence[int], max_tokens: int, stop_token_ids: frozenset[int]) -> list[int]:
    context = list(prompt)
    while len(context) < len(prompt) + max_tokens:
        context.append(next_token(context))
        if context[-1] in stop_token_ids:
            break
    return context[len(prompt) :]


class SimulatedStage:
    """Applies admissions and chunks in order, as Stage and KVCache do, and refuses what they refuse."""

    def __init__(self, num_blocks: int) -> None:
        self._cells = [UNWRITTEN] * (num_blocks * KV_BLOCK_TOKENS)
        self._blocks: dict[int, tuple[int, ...]] = {}
        self._lengths: dict[int, int] = {}

    def admit(self, step: Step) -> None:
        for admission in step.admissions:
            self._blocks[admission.sequence_index] = admission.blocks
            self._lengths[admission.sequence_index] = admission.num_cached_tokens

    def compute(self, step: Step) -> list[list[int]] | None:
        """What each chunk's sequence holds with it; None, with nothing written, where a chunk leaves a gap."""
        if any(chunk.position > self._lengths[chunk.sequence_index] for chunk in step.chunks):
            return None
        return [self._write(chunk) for chunk in step.chunks]

    def _write(self, chunk: SequenceChunk) -> list[int]:
        end = chunk.position + chunk.num_tokens
        blocks = self._blocks[chunk.sequence_index]
        assert end <= len(blocks) * KV_BLOCK_TOKENS
        assert chunk.num_tokens == len(chunk.token_ids)
        for position, token_id in enumerate(chunk.token_ids, chunk.position):
            self._cells[blocks[position // KV_BLOCK_TOKENS] * KV_BLOCK_TOKENS + position % KV_BLOCK_TOKENS] = token_id
        self._lengths[chunk.sequence_index] = end
        held: list[int] = []
        for block in blocks[: -(-end // KV_BLOCK_TOKENS)]:
            held += self._cells[block * KV_BLOCK_TOKENS : (block + 1) * KV_BLOCK_TOKENS]
        return held[:end]


@dataclass
class _Travelling:
    step: Step
    stage: int = 0
    """The next one."""
    failing_stage: int | None = None
    views: list[list[int]] = field(default_factory=list)
    has_failed: bool = False


class SimulatedPipeline:
    """Steps move one stage at a time, in order; results wait at the end until they are taken."""

    def __init__(self, num_stages: int, num_blocks: int) -> None:
        self._stages = [SimulatedStage(num_blocks) for _ in range(num_stages)]
        self._travelling: list[_Travelling] = []

    def __len__(self) -> int:
        return len(self._travelling)

    def send(self, step: Step, failing_stage: int | None = None) -> None:
        """With `failing_stage`, that stage does not compute the step, and those after it pass it on."""
        self._travelling.append(_Travelling(step, failing_stage=failing_stage))

    def advance(self, index: int) -> None:
        """Bring the step at `index` of those under way one stage on, unless the one before it is in its way."""
        one = self._travelling[index]
        limit = self._travelling[index - 1].stage if index else len(self._stages) + 1
        if one.stage < min(limit, len(self._stages)):
            self._pass_stage(one)
            one.stage += 1

    def take_result(self, compute_ms: float) -> StepResult:
        """Of the oldest step, brought to the end first."""
        while self._travelling[0].stage < len(self._stages):
            self.advance(0)
        one = self._travelling.pop(0)
        timings = (StageTiming(0.0, compute_ms),) * len(self._stages)
        if one.has_failed:
            return StepResult(one.step.epoch, one.step.step_id, (), timings, StepFailure("malformed_step", "simulated"))
        sampled = [
            token for chunk, view in zip(one.step.chunks, one.views, strict=True) for token in _drawn(chunk, view)
        ]
        return StepResult(one.step.epoch, one.step.step_id, tuple(sampled), timings)

    def _pass_stage(self, one: _Travelling) -> None:
        stage = self._stages[one.stage]
        stage.admit(one.step)
        if one.has_failed or one.failing_stage == one.stage:
            one.has_failed = True
            return
        views = stage.compute(one.step)
        if views is None:
            one.has_failed = True
            return
        assert one.stage == 0 or views == one.views, "stages hold different things"
        assert all(UNWRITTEN not in view for view in views)
        one.views = views


def _drawn(chunk: SequenceChunk, view: list[int]) -> list[SampledToken]:
    drawn: list[SampledToken] = []
    for row in range(len(view) - chunk.num_draws, len(view)):
        drawn.append(SampledToken(chunk.sequence_index, next_token(view[: row + 1])))
        if row + 1 < len(view) and view[row + 1] != drawn[-1].token_id:
            break
    return drawn
