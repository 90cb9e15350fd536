"""Every error that exo_lite raises on purpose.

    ExoLiteError
    ├── InvalidRequest               the caller asked for something that cannot be
    │   └── ContextLengthExceeded
    ├── ModelNotFound
    ├── InvalidModel                 its files contradict themselves or are damaged
    │   └── UnsupportedModel         sound files of a kind that this version does not run
    ├── StorageError                 the models folder is full, read-only or out of reach
    ├── InvalidShard
    ├── ModelDoesNotFit              no contiguous split over the living nodes holds it
    ├── NotReady                     forming, loading or not loaded: worth another try
    │   └── DaemonBusy               more connections or requests at once than it can hold
    ├── QueueFull
    ├── DeadlineExceeded             an answer took longer than its request allows
    ├── Unauthorized
    ├── NodeLost                     a node, worker or hop is gone; names it
    │   ├── ConnectionRefused        nothing listens at its address any more
    │   ├── LinkBroken               two nodes that live cannot reach each other
    │   ├── WorkerFailed             a worker ended that should not have
    │   │   ├── WorkerCannotStart    before it had done anything
    │   │   └── OutOfMemory          the kernel ended it to have its memory
    │   ├── WorkerHangs              a worker lives and does not answer
    │   │   └── StepHangs            a worker answers, but its step does not end
    │   ├── PortSilent               its port takes no connections, as behind a firewall
    │   └── NoRoute                  no way leads to its address, or its name has none
    ├── StaleEpoch                   an order or a step of a placement that is over
    ├── MalformedMessage             a peer sent what no sound peer sends
    │   └── MalformedStep            a tensor of the wrong type, shape, size or value
    ├── HandshakeRefused
    │   ├── WrongCluster
    │   ├── IncompatibleVersion
    │   ├── OwnAddress               the node at this address is the caller itself
    │   ├── DuplicateNode
    │   └── NotReachable             the peer's own address does not answer
    │       └── LargePacketsLost     what is small gets through, what is large does not
    ├── NotAMember                   a heartbeat without a handshake before it
    └── StartupError                 this daemon cannot start
        ├── PortInUse
        └── DataFolderInUse

`code` is the machine-readable name that reaches HTTP and gRPC callers.
"""

from __future__ import annotations

from typing import ClassVar


class ExoLiteError(Exception):
    """Base of the tree above. The message names the cause, the values and the way out."""

    code: ClassVar[str] = "internal_error"
    is_permanent: ClassVar[bool] = True
    """True if the same call would fail again: advice to clients."""
    is_recoverable: ClassVar[bool] = False
    """True if an answer that it cut off can go on elsewhere: what computed it is gone, and the request is sound."""

    param: str | None = None
    """The request parameter at fault, if it is one."""
    retry_after_s: int | None = None
    """The seconds after which another try may succeed, if known."""


class InvalidRequest(ExoLiteError):
    code = "invalid_request"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"

    @classmethod
    def of(
        cls,
        *,
        num_prompt_tokens: int,
        num_answer_tokens: int,
        context_length: int,
        param: str = "prompt",
        is_at_least: bool = False,
    ) -> ContextLengthExceeded:
        """Use the words by which clients know this error, to shorten their prompts: not all read the code."""
        counted = ", by the fewest tokens that it can have" if is_at_least else ""
        return cls(
            f"This model's maximum context length is {context_length} tokens. However, you requested "
            f"{num_prompt_tokens + num_answer_tokens} tokens ({num_prompt_tokens} in the {param}, "
            f"{num_answer_tokens} in the completion), which exceeds the context window. The prompt is "
            f"too long{counted}: shorten it, or load the model with a greater --context",
            param=param,
        )


class ModelNotFound(ExoLiteError):
    code = "model_not_found"


class InvalidModel(ExoLiteError):
    code = "invalid_model"


class UnsupportedModel(InvalidModel):
    code = "unsupported_model"


class StorageError(ExoLiteError):
    code = "storage_error"


class InvalidShard(ExoLiteError):
    code = "invalid_shard"


class ModelDoesNotFit(ExoLiteError):
    code = "model_does_not_fit"


class NotReady(ExoLiteError):
    code = "not_ready"
    is_permanent = False
    is_recoverable = True


class DaemonBusy(NotReady):
    code = "daemon_busy"
    is_recoverable = False


class QueueFull(ExoLiteError):
    code = "queue_full"
    is_permanent = False


class DeadlineExceeded(ExoLiteError):
    code = "deadline_exceeded"


class Unauthorized(ExoLiteError):
    code = "unauthorized"


class NodeLost(ExoLiteError):
    code = "node_lost"
    is_permanent = False
    is_recoverable = True

    is_unanswered: bool = False
    """The other side itself said nothing: its process, or the way to it, is gone."""
    failed_stages: tuple[int, int] | None = None
    """The two stages between which a stream broke off."""


class ConnectionRefused(NodeLost):
    code = "connection_refused"


class LinkBroken(NodeLost):
    code = "link_broken"


class PortSilent(NodeLost):
    code = "port_silent"


class NoRoute(NodeLost):
    code = "no_route"


class WorkerFailed(NodeLost):
    code = "worker_failed"


class WorkerCannotStart(WorkerFailed):
    code = "worker_cannot_start"


class OutOfMemory(WorkerFailed):
    code = "out_of_memory"


class WorkerHangs(NodeLost):
    code = "worker_hangs"


class StepHangs(WorkerHangs):
    code = "step_hangs"


class StaleEpoch(ExoLiteError):
    code = "stale_epoch"
    is_permanent = False
    is_recoverable = True


class MalformedMessage(ExoLiteError):
    code = "malformed_message"


class MalformedStep(MalformedMessage):
    code = "malformed_step"


class HandshakeRefused(ExoLiteError):
    code = "handshake_refused"


class WrongCluster(HandshakeRefused):
    code = "wrong_cluster"


class IncompatibleVersion(HandshakeRefused):
    code = "incompatible_version"


class OwnAddress(HandshakeRefused):
    code = "own_address"


class DuplicateNode(HandshakeRefused):
    code = "duplicate_node"


class NotReachable(HandshakeRefused):
    code = "not_reachable"
    is_permanent = False


class LargePacketsLost(NotReachable):
    code = "large_packets_lost"


class NotAMember(ExoLiteError):
    code = "not_a_member"
    is_permanent = False


class StartupError(ExoLiteError):
    code = "startup_error"


class PortInUse(StartupError):
    code = "port_in_use"


class DataFolderInUse(StartupError):
    code = "data_folder_in_use"


def error_class(code: str) -> type[ExoLiteError]:
    """The class with this code; ExoLiteError itself for a code of a newer version."""
    pending: list[type[ExoLiteError]] = [ExoLiteError]
    while pending:
        candidate = pending.pop()
        if candidate.code == code:
            return candidate
        pending.extend(candidate.__subclasses__())
    return ExoLiteError
