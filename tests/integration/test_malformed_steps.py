"""A real last stage, with the test in place of those around it: whatever it is sent, it refuses and lives on."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from exo_lite.domain.errors import ExoLiteError, MalformedMessage, MalformedStep, NodeLost, StaleEpoch
from exo_lite.domain.ids import Epoch
from exo_lite.domain.pipeline import ConnectOrder, Endpoint
from exo_lite.domain.request import Sampling
from exo_lite.domain.step import Admission, Step, StepMessage, StepResult
from exo_lite.node.joining import CONNECT_TIMEOUT_S
from exo_lite.transport.step_codec import step_to_proto
from exo_lite.transport.v1 import worker_pb2
from tests.integration.real_workers import (
    CONTEXT_LENGTH,
    HIDDEN_SIZE,
    MODEL,
    N_LAYERS,
    NUM_SLOTS,
    RunningWorker,
    config_for,
    make_tiny_llama,
    next_epoch,
    running,
)
from tests.loopback import PEERS
from tests.stages import RawStage, Read, raw_stage, reading
from tests.waiting import until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

DEADLINE_S = 10.0

NUM_TOKENS = 3
SOUND_VALUES = [0.25] * (NUM_TOKENS * HIDDEN_SIZE)


@dataclass
class Tail:
    """A last stage that the test feeds, and whose results it reads."""

    worker: RunningWorker
    epoch: Epoch = field(default=Epoch(0), init=False)
    front: RawStage = field(init=False)
    results: Read[StepResult] = field(init=False)
    _joined: AsyncExitStack = field(default_factory=AsyncExitStack, init=False)

    async def join(self) -> None:
        """As the second of two stages, in an epoch of its own."""
        await self._joined.aclose()
        self.epoch = next_epoch()
        self.front = await self._joined.enter_async_context(raw_stage())
        await self.worker.process.peer().connect(self.order(self.epoch), timeout_s=CONNECT_TIMEOUT_S)
        stream = PEERS.results(self.worker.stream_endpoint, self.epoch)
        self.results = await self._joined.enter_async_context(reading(stream))

    def order(self, epoch: Epoch) -> ConnectOrder:
        return ConnectOrder(MODEL, epoch, 1, 2, Endpoint("front", self.front.address), tail=None, next_name="front")

    async def aclose(self) -> None:
        await self._joined.aclose()

    def send(self, message: worker_pb2.StepMessage) -> None:
        self.front.messages.put(message.SerializeToString())

    async def result_of(self, message: worker_pb2.StepMessage) -> StepResult:
        """Of a step that goes through in one way or the other."""
        self.send(message)
        async with asyncio.timeout(DEADLINE_S):
            while (result := await self.results.next()).step_id != message.step_id:
                continue
            return result

    async def refusal_of(self, message: worker_pb2.StepMessage) -> ExoLiteError:
        """Of a message that ends the stream, as whoever waits for results gets it."""
        self.send(message)
        return await self.end()

    async def end(self) -> ExoLiteError:
        """What ends the results."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    await self.results.next()
                except ExoLiteError as error:
                    return error


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def back(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningWorker]:
    """A worker with the second half of the layers."""
    model = make_tiny_llama(tmp_path_factory.mktemp("models") / MODEL)
    async with running(config_for("back", model.path, N_LAYERS // 2)) as [worker]:
        yield worker


@pytest_asyncio.fixture(loop_scope="module")
async def tail(back: RunningWorker) -> AsyncIterator[Tail]:
    async with aclosing(Tail(back)) as joined:
        await joined.join()
        yield joined


def hidden_states(values: list[float] | None = None) -> worker_pb2.HiddenStates:
    numbers = SOUND_VALUES if values is None else values
    return worker_pb2.HiddenStates(
        dtype=worker_pb2.DTYPE_FLOAT32,
        num_tokens=len(numbers) // HIDDEN_SIZE,
        hidden_size=HIDDEN_SIZE,
        data=struct.pack(f"<{len(numbers)}f", *numbers),
    )


def sound_step(tail: Tail, step_id: int = 1) -> worker_pb2.StepMessage:
    """A prompt of NUM_TOKENS for sequence 0, whose next token is to be drawn."""
    return worker_pb2.StepMessage(
        epoch=tail.epoch,
        step_id=step_id,
        chunks=[worker_pb2.SequenceChunk(sequence_index=0, position=0, num_tokens=NUM_TOKENS, sample_index=0)],
        admissions=[worker_pb2.Admission(sequence_index=0, sampling=_sampling())],
        hidden_states=hidden_states(),
    )


def _sampling() -> worker_pb2.Sampling:
    step = Step(Epoch(1), 0, (), (Admission(0, Sampling(temperature=0.0)),))
    return step_to_proto(StepMessage(step)).admissions[0].sampling


async def check_alive(tail: Tail) -> None:
    """A sound step is computed, in the same epoch."""
    result = await tail.result_of(sound_step(tail, step_id=1000))
    assert result.failure is None
    assert [one.sequence_index for one in result.tokens] == [0]


async def check_joins_anew(tail: Tail) -> None:
    """The same program takes a place in the next epoch, and nothing of the one before is left there."""
    program = tail.worker.program()
    await tail.join()
    await check_alive(tail)
    assert tail.worker.program() == program


def _short(message: worker_pb2.StepMessage) -> None:
    message.hidden_states.data = message.hidden_states.data[:-1]


def _long(message: worker_pb2.StepMessage) -> None:
    message.hidden_states.data += b"\0"


def _more_tokens(message: worker_pb2.StepMessage) -> None:
    message.hidden_states.num_tokens += 1


def _huge(message: worker_pb2.StepMessage) -> None:
    message.hidden_states.num_tokens = message.hidden_states.hidden_size = 2**32 - 1


def _no_type(message: worker_pb2.StepMessage) -> None:
    message.hidden_states.dtype = worker_pb2.DTYPE_UNSPECIFIED


def _another_type(message: worker_pb2.StepMessage) -> None:
    message.hidden_states.dtype = worker_pb2.DTYPE_BFLOAT16


def _unknown_type(message: worker_pb2.StepMessage) -> None:
    message.hidden_states.dtype = worker_pb2.DType.ValueType(99)  # as a newer peer may send it


@pytest.mark.parametrize("damage", [_short, _long, _more_tokens, _huge, _no_type, _another_type, _unknown_type])
async def test_a_tensor_that_is_not_what_it_says_ends_the_streams_on_both_sides(
    tail: Tail, damage: Callable[[worker_pb2.StepMessage], None]
):
    message = sound_step(tail)
    damage(message)
    assert isinstance(await tail.refusal_of(message), MalformedStep)
    assert await asyncio.to_thread(tail.front.is_over.wait, DEADLINE_S)
    await check_joins_anew(tail)


def _position(message: worker_pb2.StepMessage) -> None:
    message.chunks[0].position = CONTEXT_LENGTH - 1


def _far_position(message: worker_pb2.StepMessage) -> None:
    message.chunks[0].position = 2**32 - 1


def _gap(message: worker_pb2.StepMessage) -> None:
    message.chunks[0].position = 5


def _sequence_index(message: worker_pb2.StepMessage) -> None:
    message.chunks[0].sequence_index = NUM_SLOTS


def _admitted_index(message: worker_pb2.StepMessage) -> None:
    message.admissions[0].sequence_index = 2**32 - 1


def _nobodys_index(message: worker_pb2.StepMessage) -> None:
    message.ClearField("admissions")


def _fewer_tokens(message: worker_pb2.StepMessage) -> None:
    message.chunks[0].num_tokens = 1


def _no_tokens(message: worker_pb2.StepMessage) -> None:
    message.chunks[0].num_tokens = 0


def _no_tensor(message: worker_pb2.StepMessage) -> None:
    message.ClearField("hidden_states")


def _narrow(message: worker_pb2.StepMessage) -> None:
    message.hidden_states.num_tokens, message.hidden_states.hidden_size = 2 * NUM_TOKENS, HIDDEN_SIZE // 2


def _sound_in_another_type(message: worker_pb2.StepMessage) -> None:
    data = message.hidden_states.data
    message.hidden_states.dtype, message.hidden_states.data = worker_pb2.DTYPE_BFLOAT16, data[: len(data) // 2]


def _nan(message: worker_pb2.StepMessage) -> None:
    message.hidden_states.CopyFrom(hidden_states([*SOUND_VALUES[:-1], float("nan")]))


def _infinity(message: worker_pb2.StepMessage) -> None:
    message.hidden_states.CopyFrom(hidden_states([float("-inf"), *SOUND_VALUES[1:]]))


def _overflow(message: worker_pb2.StepMessage) -> None:
    message.hidden_states.CopyFrom(hidden_states([3e38] * len(SOUND_VALUES)))


def _token_beyond_vocabulary(message: worker_pb2.StepMessage) -> None:
    message.admissions[0].sampling.logit_bias.add(token_id=10**6, bias=1.0)


@pytest.mark.parametrize(
    "damage",
    [
        _position,
        _far_position,
        _gap,
        _sequence_index,
        _admitted_index,
        _nobodys_index,
        _fewer_tokens,
        _no_tokens,
        _no_tensor,
        _narrow,
        _sound_in_another_type,
        _nan,
        _infinity,
        _token_beyond_vocabulary,
    ],
)
async def test_a_step_that_cannot_be_computed_fails_alone(tail: Tail, damage: Callable[[worker_pb2.StepMessage], None]):
    message = sound_step(tail, step_id=7)
    damage(message)
    result = await tail.result_of(message)
    assert result.tokens == ()
    assert result.failure is not None
    assert isinstance(result.failure.error, MalformedStep), result.failure
    await check_alive(tail)


async def test_values_that_overflow_on_the_way_fail_the_step_or_stay_finite(tail: Tail):
    message = sound_step(tail, step_id=8)
    _overflow(message)
    result = await tail.result_of(message)
    assert result.failure is None or isinstance(result.failure.error, MalformedStep)
    await check_alive(tail)


async def test_steps_before_a_malformed_one_are_computed(tail: Tail):
    malformed = sound_step(tail, step_id=3)
    _short(malformed)
    tail.send(sound_step(tail, step_id=2))
    tail.send(malformed)
    async with asyncio.timeout(DEADLINE_S):
        assert (await tail.results.next()).step_id == 2
    assert isinstance(await tail.end(), MalformedStep)


async def test_a_step_of_another_epoch_is_stale(tail: Tail):
    for difference in (-1, 1, 2**40):
        message = sound_step(tail)
        message.epoch += difference
        refused = await tail.refusal_of(message)
        assert isinstance(refused, StaleEpoch)
        assert str(refused) == f"a step of epoch {message.epoch} came to stage 1 of epoch {tail.epoch}"
        await check_joins_anew(tail)


async def test_bytes_that_are_no_message_end_the_epoch_and_name_who_sent_them(tail: Tail):
    tail.front.messages.put(b"\xff" * 50)
    refused = await tail.end()
    assert isinstance(refused, NodeLost)
    assert f"front ({tail.front.address})" in str(refused)
    await check_joins_anew(tail)


async def test_a_message_beyond_the_limit_ends_the_epoch_and_says_so(tail: Tail):
    message = sound_step(tail)
    message.hidden_states.data = bytes(2**24)
    refused = await tail.refusal_of(message)
    assert f"front ({tail.front.address})" in str(refused)
    assert "disagree on how large a message may be" in str(refused)
    await check_joins_anew(tail)


async def test_the_last_stage_has_no_steps_for_anybody(tail: Tail):
    async with reading(PEERS.steps(tail.worker.stream_endpoint, tail.epoch)) as read:
        with pytest.raises(MalformedMessage, match="stage 1 of 2 does not produce"):
            await read.next()
    await check_alive(tail)


async def test_what_goes_to_one_goes_to_nobody_else(tail: Tail):
    await check_alive(tail)
    for _ in range(20):  # more than there are threads for streams
        async with reading(PEERS.results(tail.worker.stream_endpoint, tail.epoch)) as read:
            with pytest.raises(MalformedMessage, match=f"in epoch {tail.epoch} has a reader already"):
                await read.next()
    await check_alive(tail)


async def test_another_epochs_results_are_nobodys(tail: Tail):
    for epoch in (0, tail.epoch - 1, tail.epoch + 1, 2**64 - 1):
        async with reading(PEERS.results(tail.worker.stream_endpoint, Epoch(epoch))) as read:
            with pytest.raises(StaleEpoch, match=f"back is stage 1 of epoch {tail.epoch}"):
                await read.next()
    await check_alive(tail)


async def test_after_a_new_connect_nothing_of_the_old_epoch_is_left(tail: Tail):
    assert (await tail.result_of(sound_step(tail))).failure is None
    epoch = next_epoch()
    await tail.worker.process.peer().connect(tail.order(epoch), timeout_s=CONNECT_TIMEOUT_S)
    ended = await tail.end()
    assert isinstance(ended, NodeLost)
    assert f"changed to epoch {epoch}" in str(ended)
    assert await asyncio.to_thread(tail.front.is_over.wait, DEADLINE_S)


async def test_whoever_stops_taking_ends_the_epoch_and_is_named(tail: Tail):
    await check_alive(tail)
    tail.results.stream.close()
    assert await asyncio.to_thread(tail.front.is_over.wait, DEADLINE_S)

    def newest_word() -> str | None:
        return tail.worker.error if tail.worker.status.report.joined_epoch == tail.epoch else None

    said = await until(newest_word, "the worker says what broke")
    assert said == "front stopped reading the output of stage 1: the connection between the two broke"
    await check_joins_anew(tail)
