"""A real last stage, with the test in place of those before it: whatever it is sent, it refuses and goes on."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import pytest
import pytest_asyncio

from exo_lite.domain.errors import ExoLiteError, MalformedMessage, MalformedStep, NodeLost, NotReady, StaleEpoch
from exo_lite.domain.ids import Epoch
from exo_lite.domain.node import ShardStatus
from exo_lite.domain.pipeline import ConnectOrder, Hop
from exo_lite.domain.request import GenerateRequest, Sampling, Token
from exo_lite.domain.step import Admission, Step, StepMessage, StepResult
from exo_lite.domain.trace import RequestTrace
from exo_lite.transport.channels import bind, create_server, open_channel
from exo_lite.transport.errors import errors_from_status
from exo_lite.transport.step_codec import step_to_proto
from exo_lite.transport.v1 import worker_pb2
from exo_lite.transport.v1.worker_pb2_grpc import WorkerStub
from exo_lite.transport.worker_server import serve_worker
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

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

DEADLINE_S = 10.0
Pipe = grpc.aio.StreamUnaryCall[worker_pb2.StepMessage, worker_pb2.StreamEnd]

NUM_TOKENS = 3
SOUND_VALUES = [0.25] * (NUM_TOKENS * HIDDEN_SIZE)


@dataclass
class ScriptedHead:
    """Writes down the results that reach it."""

    results: asyncio.Queue[StepResult] = field(default_factory=asyncio.Queue)

    def status(self) -> ShardStatus:
        raise NotReady("nobody asks")

    async def on_connect(self, order: ConnectOrder) -> None:
        raise NotReady("nobody connects")

    def traces(self) -> tuple[RequestTrace, ...]:
        raise NotReady("nobody looks")

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Token, None]:
        raise NotReady("nobody prompts")

    async def on_steps(self, messages: AsyncIterator[StepMessage]) -> None:
        raise NotReady("nobody is before the head")

    async def on_results(self, results: AsyncIterator[StepResult]) -> None:
        async for result in results:
            self.results.put_nowait(result)


@dataclass
class Tail:
    """A joined last stage that the test feeds."""

    worker: RunningWorker
    head: ScriptedHead
    epoch: Epoch

    async def result_of(self, message: worker_pb2.StepMessage) -> StepResult:
        """Of a step that goes through in one way or the other."""
        async with self.pipe([message]), asyncio.timeout(DEADLINE_S):
            while (result := await self.head.results.get()).step_id != message.step_id:
                continue
            return result

    async def refusal_of(self, message: worker_pb2.StepMessage) -> ExoLiteError:
        """Of a message that ends its stream."""
        with pytest.raises(ExoLiteError) as refused, errors_from_status("tail"):
            async with self.pipe([message]) as call, asyncio.timeout(DEADLINE_S):
                await call
        return refused.value

    @asynccontextmanager
    async def pipe(self, messages: list[worker_pb2.StepMessage]) -> AsyncIterator[Pipe]:
        """An open stream with these messages in it."""
        async with open_channel(self.worker.hop.address, max_message_bytes=2**26) as channel:
            call: Pipe = WorkerStub(channel).Pipe()
            for message in messages:
                await call.write(message)
            yield call
            call.cancel()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def back(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningWorker]:
    """A worker with the second half of the layers."""
    model = make_tiny_llama(tmp_path_factory.mktemp("models") / MODEL)
    async with running(config_for("back", model.path, N_LAYERS // 2)) as [worker]:
        yield worker


@pytest_asyncio.fixture(loop_scope="module")
async def tail(back: RunningWorker) -> AsyncIterator[Tail]:
    """It as the second stage of two, in an epoch of its own, with the test as the first."""
    head, server = ScriptedHead(), create_server()
    serve_worker(server, head)
    address = f"127.0.0.1:{bind(server, '127.0.0.1', 0)}"
    await server.start()
    epoch = next_epoch()
    await back.process.connect(ConnectOrder(MODEL, epoch, 1, 2, next=None, head=Hop("front", address)))
    try:
        yield Tail(back, head, epoch)
    finally:
        await server.stop(grace=None)


def hidden_states(values: list[float] | None = None) -> worker_pb2.HiddenStates:
    numbers = SOUND_VALUES if values is None else values
    return worker_pb2.HiddenStates(
        dtype=worker_pb2.DTYPE_FLOAT32,
        num_tokens=len(numbers) // HIDDEN_SIZE,
        hidden_size=HIDDEN_SIZE,
        data=struct.pack(f"<{len(numbers)}f", *numbers),
    )


def sound_step(tail: Tail, step_id: int = 1) -> worker_pb2.StepMessage:
    """A prompt of NUM_TOKENS for slot 0, whose next token is to be drawn."""
    return worker_pb2.StepMessage(
        epoch=tail.epoch,
        step_id=step_id,
        chunks=[worker_pb2.SequenceChunk(slot=0, position=0, num_tokens=NUM_TOKENS, sample_index=0)],
        admissions=[worker_pb2.Admission(slot=0, sampling=_sampling())],
        hidden_states=hidden_states(),
    )


def _sampling() -> worker_pb2.Sampling:
    step = Step(Epoch(1), 0, (), (Admission(0, Sampling(temperature=0.0)),))
    return step_to_proto(StepMessage(step)).admissions[0].sampling


async def check_alive(tail: Tail) -> None:
    """A sound step is computed, in the same epoch."""
    result = await tail.result_of(sound_step(tail, step_id=1000))
    assert result.failure is None
    assert [one.slot for one in result.tokens] == [0]
    assert tail.worker.program().is_running()


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
async def test_a_tensor_that_is_not_what_it_says_ends_its_stream(
    tail: Tail, damage: Callable[[worker_pb2.StepMessage], None]
):
    message = sound_step(tail)
    damage(message)
    assert isinstance(await tail.refusal_of(message), MalformedStep)
    await check_alive(tail)


def _position(message: worker_pb2.StepMessage) -> None:
    message.chunks[0].position = CONTEXT_LENGTH - 1


def _far_position(message: worker_pb2.StepMessage) -> None:
    message.chunks[0].position = 2**32 - 1


def _gap(message: worker_pb2.StepMessage) -> None:
    message.chunks[0].position = 5


def _slot(message: worker_pb2.StepMessage) -> None:
    message.chunks[0].slot = NUM_SLOTS


def _admitted_slot(message: worker_pb2.StepMessage) -> None:
    message.admissions[0].slot = 2**32 - 1


def _nobodys_slot(message: worker_pb2.StepMessage) -> None:
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
        _slot,
        _admitted_slot,
        _nobodys_slot,
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
    async with tail.pipe([sound_step(tail, step_id=2), malformed]) as call:
        with pytest.raises(MalformedStep), errors_from_status("tail"):
            await call
    async with asyncio.timeout(DEADLINE_S):
        assert (await tail.head.results.get()).step_id == 2
    await check_alive(tail)


async def test_a_step_of_another_epoch_is_stale(tail: Tail):
    for epoch in (0, tail.epoch - 1, tail.epoch + 1, 2**64 - 1):
        message = sound_step(tail)
        message.epoch = epoch
        assert isinstance(await tail.refusal_of(message), StaleEpoch)
    await check_alive(tail)


async def test_bytes_that_are_no_message_end_their_call_only(tail: Tail):
    async with open_channel(tail.worker.hop.address) as channel:
        call: grpc.aio.StreamUnaryCall[bytes, bytes] = channel.stream_unary("/exo_lite.transport.v1.Worker/Pipe")()
        await call.write(b"\xff" * 50)
        with pytest.raises(grpc.aio.AioRpcError):
            await call
    await check_alive(tail)


async def test_a_message_beyond_the_limit_ends_its_call_only(tail: Tail):
    message = sound_step(tail)
    message.hidden_states.data = bytes(2**24)
    refused = await tail.refusal_of(message)
    assert "RESOURCE_EXHAUSTED" in str(refused)
    await check_alive(tail)


async def test_results_do_not_belong_at_the_last_stage(tail: Tail):
    async with open_channel(tail.worker.hop.address) as channel:
        call = WorkerStub(channel).Results()
        await call.write(worker_pb2.StepResult(epoch=tail.epoch, step_id=1))
        with pytest.raises(MalformedMessage, match="stage 1 is not the head"), errors_from_status("tail"):
            await call
    await check_alive(tail)


async def test_after_a_new_connect_nothing_of_the_old_epoch_is_left(tail: Tail, back: RunningWorker):
    assert (await tail.result_of(sound_step(tail))).failure is None
    order = ConnectOrder(MODEL, next_epoch(), 1, 2, next=None, head=Hop("nobody", "127.0.0.1:9"))
    async with tail.pipe([sound_step(tail, step_id=2)]) as call:
        async with asyncio.timeout(DEADLINE_S):
            await tail.head.results.get()
        await back.process.connect(order)
        with pytest.raises(NodeLost, match=f"changed to epoch {order.epoch}"), errors_from_status("tail"):
            await call
