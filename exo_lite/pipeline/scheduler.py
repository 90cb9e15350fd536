"""The scheduler: a state machine with requests and results in, steps out.

With S stages up to S steps are under way, so that no stage waits while there is work. Each step decodes 1/S of the
running sequences and prefills prompt tokens. The prefill budget is a whole chunk when nothing decodes, or when numbers
are not exact and so depend on the size of chunks; otherwise it is limited so that decode steps slow down by at most
MAX_SLOWDOWN. A sequence decodes in one step at a time; the chunks of a prompt follow each other without waiting.
Tenants take turns; requests of one tenant go in order.

The prefix cache finds blocks of the KV cache by the tokens that they hold, once all stages have filled them, so that a
prompt is computed only from where it differs from earlier ones. Where numbers are not exact, only blocks of whole
chunks are reused: the rest is then computed in the same shapes, and so to the same bits, as by an idle driver.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from exo_lite.domain.errors import ContextLengthExceeded, InvalidRequest, QueueFull, StaleEpoch
from exo_lite.domain.ids import Epoch, RequestId
from exo_lite.domain.request import GenerateRequest, Token
from exo_lite.domain.step import (
    KV_BLOCK_TOKENS,
    Admission,
    SampledToken,
    SequenceChunk,
    Step,
    StepResult,
    num_kv_blocks,
)
from exo_lite.domain.worker_report import ServingCounts
from exo_lite.pipeline.block_pool import BlockPool, Key, block_keys, first_key
from exo_lite.pipeline.chunk_size import ChunkSize
from exo_lite.pipeline.drawn_tokens import drawn_by_chunk, scores_by_chunk
from exo_lite.pipeline.fair_share import FairShare
from exo_lite.pipeline.request_queue import RequestQueue
from exo_lite.pipeline.sequence_state import SequenceState
from exo_lite.pipeline.step_costs import StepCosts

DEFAULT_MAX_WAITING = 64


@dataclass(frozen=True, slots=True)
class Features:
    """`is_exact`: a token's numbers are the same bit for bit whatever is computed beside it."""

    prefix_cache: bool = True
    speculation: bool = True
    is_exact: bool = True


Part = tuple[SequenceState, SequenceChunk]
"""A chunk of a step, and its sequence. The same index may stand for another one when the step comes back."""


class StepUnderWay(NamedTuple):
    """The parts of a step: decodes, then prompts."""

    parts: Sequence[Part] = ()
    num_decodes: int = 0

    @property
    def request_ids(self) -> list[RequestId]:
        return [sequence.request.request_id for sequence, _ in self.parts]

    @property
    def num_proposed(self) -> int:
        return sum(len(chunk.proposed_token_ids) for _, chunk in self.parts)

    @property
    def num_prompt_tokens(self) -> int:
        return sum(chunk.num_tokens for _, chunk in self.parts[self.num_decodes :])


class Scheduler:
    """All sequences of one epoch of one instance. Not thread-safe; has neither clock nor input and output."""

    def __init__(
        self,
        *,
        epoch: Epoch,
        num_stages: int,
        num_sequences: int,
        context_length: int,
        vocab_size: int,
        num_blocks: int | None = None,
        max_waiting: int = DEFAULT_MAX_WAITING,
        features: Features = Features(),
    ) -> None:
        self._epoch = epoch
        self._num_stages = num_stages
        self._num_sequences = num_sequences
        self._context_length = context_length
        self._vocab_size = vocab_size
        self._features = features
        self._waiting = RequestQueue(max_waiting)
        self._free_indices = list(range(num_sequences))[::-1]
        self._blocks = BlockPool(num_sequences * num_kv_blocks(context_length) if num_blocks is None else num_blocks)
        self._running: dict[RequestId, SequenceState] = {}
        self._under_way: dict[int, StepUnderWay] = {}
        self._prompt_share = FairShare()
        self._costs = StepCosts()
        self._chunk_size = ChunkSize()
        self._num_prompt_tokens = 0
        self._num_cached_tokens = 0
        self._num_proposed_tokens = 0
        self._num_accepted_tokens = 0
        self._next_step_id = 0

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_blocks(self) -> int:
        return self._blocks.num_blocks

    @property
    def num_in_flight(self) -> int:
        return len(self._under_way)

    @property
    def num_free_blocks(self) -> int:
        """The blocks of the KV cache that are reserved for nobody."""
        return self._blocks.num_free

    @property
    def counts(self) -> ServingCounts:
        return ServingCounts(
            num_kept_blocks=self._blocks.num_kept,
            num_prompt_tokens=self._num_prompt_tokens,
            num_cached_tokens=self._num_cached_tokens,
            num_proposed_tokens=self._num_proposed_tokens,
            num_accepted_tokens=self._num_accepted_tokens,
        )

    def submit(self, request: GenerateRequest) -> RequestId | None:
        """Queue a request. Raises StaleEpoch, InvalidRequest, ContextLengthExceeded or QueueFull, changing nothing.

        Returns the waiting request that is refused in its place, where another tenant had more than its share.
        """
        self._check(request)
        displaced = None
        if self._waiting.is_full and not self._has_room(request):
            displaced = self._waiting.displace_for(request.asked.tenant)
            if displaced is None:
                raise QueueFull(
                    f"the queue is full, {self.num_running} requests run and {self.num_waiting} wait: try again later"
                )
        self._waiting.add(request)
        return displaced

    def cancel(self, request_id: RequestId) -> None:
        """Forget a request, whatever its state. Unknown ones are none of our business."""
        self._waiting.remove(request_id)
        sequence = self._running.pop(request_id, None)
        if sequence is not None:
            # Free at once: a step that gives the index to another one comes after all of this one's, on every stage.
            self._free_indices.append(sequence.sequence_index)
            self._blocks.give_back(sequence.blocks)
            self._waiting.refund(sequence.request, sequence.num_unused)

    def next_step(self) -> Step | None:
        """The next step to send down, or None while there is nothing to send or enough is under way."""
        if len(self._under_way) >= self._num_stages:
            return None
        admissions = self._admit()
        decoding, prompts = self._by_phase()
        group_size = -(-len(decoding) // self._num_stages)  # of each step under way: spread evenly over them
        parts = self._decodes(decoding, group_size)
        num_decodes = len(parts)
        if prompts and not (parts and self._costs.should_measure_decodes()):
            parts += self._prompts(prompts, group_size, len(decoding))
        return self._issue(parts, num_decodes, admissions) if parts else None

    def proof_step(self) -> Step:
        """A step without work, which proves every hop."""
        return self._issue([], 0, [])

    def step_under_way(self, step_id: int) -> StepUnderWay:
        """An empty one where there is no such step."""
        return self._under_way.get(step_id, _NO_STEP)

    def complete(self, result: StepResult) -> list[tuple[RequestId, Token]]:
        """The tokens that a result brings to living requests.

        Raises MalformedStep, changing nothing, unless each sequence that was to have one has its tokens.
        """
        step = self.step_under_way(result.step_id)
        chunks = [chunk for _, chunk in step.parts]
        drawn, scores = drawn_by_chunk(result, chunks), scores_by_chunk(result, chunks)
        self._under_way.pop(result.step_id, None)
        tokens: list[tuple[RequestId, Token]] = []
        for (sequence, chunk), sampled, scored in zip(step.parts, drawn, scores, strict=True):
            if self._is_running(sequence):
                sequence.prompt_logprobs.extend(scored)
                for token in self._take(sequence, chunk, sampled, is_alone=step.num_decodes == 0):
                    tokens.append((sequence.request.request_id, token))
        return tokens

    def learn(self, step: StepUnderWay, result: StepResult, duration_ms: float) -> None:
        """Learn the cost of a step that came back. Apart from `complete`, so that the next step need not wait."""
        if result.failure is not None:
            return
        num_proposed, num_prompt_tokens = step.num_proposed, step.num_prompt_tokens
        compute_ms = max((timing.compute_ms for timing in result.timings), default=None)
        if num_prompt_tokens and compute_ms is not None:
            self._chunk_size.learn(num_prompt_tokens, compute_ms)
        if not step.num_decodes:
            return
        if compute_ms is not None:
            self._costs.learn(
                num_decodes=step.num_decodes,
                num_proposed=num_proposed,
                num_prompt_tokens=num_prompt_tokens,
                compute_ms=compute_ms,
            )
        if not num_prompt_tokens and not num_proposed:
            self._costs.learn_cycle(duration_ms)

    def fail(self, step_id: int) -> list[RequestId]:
        """Forget the requests of a step that could not be computed, and name them."""
        step = self._under_way.pop(step_id, _NO_STEP)
        request_ids = [one.request.request_id for one, _ in step.parts if self._is_running(one)]
        for request_id in request_ids:
            self.cancel(request_id)
        return request_ids

    def _check(self, request: GenerateRequest) -> None:
        if request.epoch != self._epoch:
            raise StaleEpoch(
                f"the request is for epoch {request.epoch}, and this pipeline has epoch {self._epoch}: try again"
            )
        if request.request_id in self._running or request.request_id in self._waiting:
            raise InvalidRequest(f"request {request.request_id} is already running: give each request its own id")
        if not request.asked.token_ids or request.asked.max_tokens < 1:
            raise InvalidRequest("a request needs at least one prompt token and max_tokens of at least 1")
        if len(request.answer_token_ids) >= request.asked.max_tokens:
            raise InvalidRequest(f"all {request.asked.max_tokens} tokens of the answer have been drawn already")
        if request.asked.timeout_s is not None and not request.asked.timeout_s > 0:
            raise InvalidRequest(f"timeout must be more than 0 s, not {request.asked.timeout_s:g}", param="timeout")
        self._check_token_ids(request)
        if request.num_tokens > self._context_length:
            raise ContextLengthExceeded.of(
                num_prompt_tokens=len(request.asked.token_ids),
                num_answer_tokens=request.asked.max_tokens,
                context_length=self._context_length,
            )

    def _check_token_ids(self, request: GenerateRequest) -> None:
        """Whatever a stage refuses ends the whole step, and with it the requests of others."""
        biased = (token_id for token_id, _ in request.asked.sampling.logit_bias)
        greatest = max(*request.prefill_token_ids, *biased, *request.asked.sampling.late_token_ids, 0)
        if greatest >= self._vocab_size:
            raise InvalidRequest(f"token id {greatest} is not within 0..{self._vocab_size - 1}")

    def _has_room(self, request: GenerateRequest) -> bool:
        """Say whether a request, after those before it, is admitted with the next step."""
        before = list(self._waiting.requests)
        num_blocks = sum(num_kv_blocks(one.num_tokens) for one in (*before, request))
        return len(self._free_indices) > len(before) and self._blocks.num_free >= num_blocks

    def _is_running(self, sequence: SequenceState) -> bool:
        """Say whether a sequence still runs: a cancelled one does not, even if its index or name is in use again."""
        return self._running.get(sequence.request.request_id) is sequence

    def _admit(self) -> list[Admission]:
        """KV blocks for all that a request may come to: no answer runs out of them in the middle."""
        admissions: list[Admission] = []
        chunk_tokens = self._chunk_size.tokens
        while self._free_indices and (request := self._waiting.first()) is not None:
            keys = self._reusable_keys(request, chunk_tokens)
            cached = self._reusable(self._blocks.find(keys), chunk_tokens)
            blocks = self._blocks.take(num_kv_blocks(request.num_tokens), cached)
            if blocks is None:
                break  # in turn: a long request is not overtaken for ever by short ones
            self._waiting.take(request)
            key = keys[len(cached) - 1] if cached else first_key(self._owner(request, chunk_tokens))
            num_cached_tokens = len(cached) * KV_BLOCK_TOKENS
            sequence_index = self._free_indices.pop()
            sequence = SequenceState(request, sequence_index, blocks, num_cached_tokens, key, chunk_tokens=chunk_tokens)
            self._running[request.request_id] = sequence
            admissions.append(sequence.admission())
            self._num_prompt_tokens += len(sequence.prefill_token_ids)
            self._num_cached_tokens += num_cached_tokens
        return admissions

    def _owner(self, request: GenerateRequest, chunk_tokens: int) -> str:
        """Say who finds the blocks of a prompt again: where the size of chunks changes numbers, only the same size."""
        return request.asked.tenant if self._features.is_exact else f"{chunk_tokens} {request.asked.tenant}"

    def _reusable_keys(self, request: GenerateRequest, chunk_tokens: int) -> list[Key]:
        """Return the keys of a prompt's blocks without its last token: that one is always computed, to draw the next.

        None where the whole prompt is to be scored, for which it has to be computed.
        """
        if not self._features.prefix_cache or request.scores_prompt:
            return []
        return block_keys(request.prefill_token_ids[:-1], self._owner(request, chunk_tokens))

    def _reusable(self, found: list[int], chunk_tokens: int) -> list[int]:
        """Return the found blocks up to where the rest of the prompt may begin."""
        blocks_per_chunk = 1 if self._features.is_exact else max(1, chunk_tokens // KV_BLOCK_TOKENS)
        return found[: len(found) // blocks_per_chunk * blocks_per_chunk]

    def _take(
        self, sequence: SequenceState, chunk: SequenceChunk, sampled: Sequence[SampledToken], *, is_alone: bool
    ) -> list[Token]:
        """Take a chunk that every stage has computed, and return what it brings to a request that still runs.

        `is_alone`: without decodes beside it.
        """
        tokens = sequence.take(chunk, sampled)
        if len(sampled) > 1:
            self._num_accepted_tokens += len(sampled) - 1
        sequence.is_in_whole_chunks &= is_alone and chunk.num_tokens == sequence.chunk_tokens
        if self._features.prefix_cache and (self._features.is_exact or sequence.is_in_whole_chunks):
            num_wrong = chunk.num_draws - len(sampled)
            for block, key in sequence.newly_full_blocks(chunk.position + chunk.num_tokens - num_wrong):
                self._blocks.fill(block, key)
        if tokens and tokens[-1].finish_reason is not None:
            self.cancel(sequence.request.request_id)
        return tokens

    def _by_phase(self) -> tuple[list[SequenceState], list[SequenceState]]:
        """Return the sequences that decode, and those with prompt left."""
        decoding: list[SequenceState] = []
        prompts: list[SequenceState] = []
        for sequence in self._running.values():
            (decoding if sequence.is_decoding else prompts).append(sequence)
        return decoding, prompts

    def _decodes(self, decoding: list[SequenceState], most: int) -> list[Part]:
        group = [sequence for sequence in decoding if sequence.next_token is not None][:most]
        if not group:
            return []
        # no step draws from more rows than there may be sequences: so much room for logits was promised
        guesses = self._features.speculation and self._features.is_exact  # else an answer would hang on what is guessed
        num_guesses = (self._num_sequences - len(self._running)) // len(group) if guesses else 0
        cost = partial(self._costs.proposal_cost, len(decoding), self._num_stages)
        parts: list[Part] = []
        for sequence in group:
            proposed = sequence.proposals(num_guesses, cost) if num_guesses else ()
            self._num_proposed_tokens += len(proposed)
            parts.append((sequence, sequence.decode_chunk(proposed)))
            self._move_to_back(sequence)
        return parts

    def _prompts(self, prompts: list[SequenceState], group_size: int, num_decoding: int) -> list[Part]:
        """Whole chunks, several short prompts in one step; where answers run, what they can bear of the next ones."""
        is_cut = group_size > 0 and self._features.is_exact  # else numbers would hang on where
        limit = room = self._chunk_size.tokens
        if is_cut:
            room = min(limit, self._costs.prompt_budget(group_size, len(prompts) / num_decoding))
        parts: list[Part] = []
        while prompts and room > 0:
            sequence = self._next_prompt(prompts)
            num_tokens = sequence.num_in_chunk(limit)
            if num_tokens > room and not is_cut:
                break
            num_tokens = min(num_tokens, room)
            room -= num_tokens
            prompts.remove(sequence)
            parts.append((sequence, sequence.prompt_chunk(num_tokens)))
            self._prompt_share.charge(sequence.request.asked.tenant, num_tokens)
        return parts

    def _next_prompt(self, prompts: Iterable[SequenceState]) -> SequenceState:
        """Tenants in turn, the requests of each in the order of their admission."""
        firsts: dict[str, SequenceState] = {}
        for sequence in prompts:
            firsts.setdefault(sequence.request.asked.tenant, sequence)
        return firsts[self._prompt_share.first(firsts)]

    def _move_to_back(self, sequence: SequenceState) -> None:
        """Whoever was served comes last in the next choice, so that groups stay even."""
        request_id = sequence.request.request_id
        self._running[request_id] = self._running.pop(request_id)

    def _issue(self, parts: list[Part], num_decodes: int, admissions: list[Admission]) -> Step:
        step = Step(self._epoch, self._next_step_id, tuple([chunk for _, chunk in parts]), tuple(admissions))
        self._under_way[step.step_id] = StepUnderWay(parts, num_decodes)
        self._next_step_id += 1
        return step


_NO_STEP = StepUnderWay()
