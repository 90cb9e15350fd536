"""ExoLiteError ↔ gRPC status: message as the details, the rest as trailing metadata."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import accumulate
from typing import Any, Protocol

import grpc
from grpc import StatusCode

from exo_lite.domain import errors
from exo_lite.domain.errors import ConnectionRefused, ExoLiteError, NodeLost, error_class

log = logging.getLogger(__name__)

CODE_KEY = "exo-lite-code"
PARAM_KEY = "exo-lite-param"
RETRY_AFTER_KEY = "exo-lite-retry-after"
FAILED_STAGES_KEY = "exo-lite-failed-stages"

_STATUS_CODES: dict[type[ExoLiteError], StatusCode] = {
    errors.InvalidRequest: StatusCode.INVALID_ARGUMENT,
    errors.MalformedMessage: StatusCode.INVALID_ARGUMENT,
    errors.InvalidModel: StatusCode.FAILED_PRECONDITION,
    errors.InvalidShard: StatusCode.INVALID_ARGUMENT,
    errors.ModelNotFound: StatusCode.NOT_FOUND,
    errors.ModelDoesNotFit: StatusCode.RESOURCE_EXHAUSTED,
    errors.QueueFull: StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: StatusCode.DEADLINE_EXCEEDED,
    errors.NotReady: StatusCode.UNAVAILABLE,
    errors.NodeLost: StatusCode.UNAVAILABLE,
    errors.StaleEpoch: StatusCode.FAILED_PRECONDITION,
    errors.HandshakeRefused: StatusCode.FAILED_PRECONDITION,
    errors.DuplicateNode: StatusCode.ALREADY_EXISTS,
    errors.NotAMember: StatusCode.PERMISSION_DENIED,
    errors.Unauthorized: StatusCode.UNAUTHENTICATED,
}
_MAX_DETAILS_BYTES = 6000  # with the metadata less than the 8 KiB of headers that gRPC takes for certain


def status_code(error: ExoLiteError) -> StatusCode:
    """Return the status of the nearest class in the error tree; INTERNAL if none is named."""
    return next((_STATUS_CODES[cls] for cls in type(error).__mro__ if cls in _STATUS_CODES), StatusCode.INTERNAL)


@asynccontextmanager
async def errors_as_status(context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
    """End the call with the status of an ExoLiteError raised inside."""
    try:
        yield
    except ExoLiteError as error:
        await context.abort(status_code(error), _details(str(error)), trailing_metadata=_metadata(error))


@contextmanager
def errors_as_blocking_status(context: grpc.ServicerContext) -> Iterator[None]:
    """The same on a server that is not asyncio's."""
    try:
        yield
    except ExoLiteError as error:
        context.set_trailing_metadata(_metadata(error))
        context.abort(status_code(error), _details(str(error)))


def _metadata(error: ExoLiteError) -> tuple[tuple[str, str], ...]:
    metadata = [(CODE_KEY, error.code)]
    if error.param is not None:
        metadata.append((PARAM_KEY, error.param))
    if error.retry_after_s is not None:
        metadata.append((RETRY_AFTER_KEY, str(error.retry_after_s)))
    if isinstance(error, NodeLost) and error.failed_stages is not None:
        metadata.append((FAILED_STAGES_KEY, ",".join(map(str, error.failed_stages))))
    return tuple(metadata)


def _details(message: str) -> str:
    """Return as much of a message as a header holds, without the lone surrogates of odd file names."""
    sound = message.encode(errors="replace").decode()
    num_fitting = sum(end <= _MAX_DETAILS_BYTES for end in accumulate(map(_header_bytes, sound)))
    return sound if num_fitting == len(sound) else f"{sound[:num_fitting]} …"


def _header_bytes(char: str) -> int:
    """Every byte but printable ASCII is escaped with three."""
    return sum(1 if 32 <= byte < 127 and byte != ord("%") else 3 for byte in char.encode())


@contextmanager
def errors_from_status(peer: str) -> Iterator[None]:
    """Raise what the other side raised, or NodeLost naming `peer` where it did not answer.

    gRPC raises CancelledError too where the other side cancelled or the channel was closed; nobody cancelled the task.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise NodeLost(f"{peer} cancelled the call, or the connection to it was closed") from error
    except grpc.aio.AioRpcError as error:
        raise error_from_status(error, peer=peer) from error


class EndedCall(Protocol):
    """A failed call, as an error of gRPC's asyncio side or a call of its blocking side."""

    def code(self) -> StatusCode: ...

    def details(self) -> str | None: ...

    def trailing_metadata(self) -> Iterable[tuple[str, Any]] | None: ...


def error_from_status(error: EndedCall, *, peer: str) -> ExoLiteError:
    """Return the error that the other side raised, or else ConnectionRefused or NodeLost naming `peer`."""
    metadata = {key: str(value) for key, value in error.trailing_metadata() or ()}
    if CODE_KEY in metadata:
        raised = error_class(metadata[CODE_KEY])(error.details() or "")
        raised.param = metadata.get(PARAM_KEY)
        retry_after = metadata.get(RETRY_AFTER_KEY, "")
        raised.retry_after_s = int(retry_after) if retry_after.isascii() and retry_after.isdigit() else None
        if isinstance(raised, NodeLost):
            raised.failed_stages = _failed_stages(metadata.get(FAILED_STAGES_KEY, ""))
        return raised
    unanswered = _unanswered(error, peer)
    unanswered.is_unanswered = error.code() in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED)
    log.debug("a call failed", extra={"peer": peer, "status": error.code().name, "details": error.details()})
    return unanswered


def _failed_stages(text: str) -> tuple[int, int] | None:
    stages = [int(stage) for stage in text.split(",") if stage.isascii() and stage.isdigit()]
    return (stages[0], stages[1]) if len(stages) == 2 else None


def _unanswered(error: EndedCall, peer: str) -> NodeLost:
    """Describe an unanswered call in our words: gRPC's are for the log."""
    details = (error.details() or "").lower()
    if error.code() is StatusCode.UNAVAILABLE and "refused" in details:
        return ConnectionRefused(f"{peer} refuses connections: its process is gone")
    return NodeLost(f"{peer} {_what_happened(error.code(), details)}")


def _what_happened(code: StatusCode, details: str) -> str:
    if code is StatusCode.DEADLINE_EXCEEDED:
        return "did not answer in time"
    if code is StatusCode.UNIMPLEMENTED:
        return "does not know the call: it runs another version of exo-lite"
    if code is StatusCode.RESOURCE_EXHAUSTED:
        return "and this node disagree on how large a message may be"
    if any(word in details for word in ("ping timeout", "keepalive", "timed out", "timeout occurred")):
        return "stopped answering: it hangs, or the network to it is cut"
    if any(word in details for word in ("unreachable", "no route")):
        return "cannot be reached: there is no network route to it"
    if any(word in details for word in ("reset", "closed", "broken pipe", "goaway", "eof")):
        return "closed the connection: its process has ended, or the network broke it off"
    if code is StatusCode.CANCELLED:
        return "cancelled the call"
    if code in (StatusCode.UNKNOWN, StatusCode.INTERNAL):
        return "failed while it answered: its log says more"
    return "did not answer: it is gone, or the network to it is"
