"""The real HTTP side on a real port over a cluster that a test plays by hand."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, NoReturn, cast

from exo_lite.api.app import create_app
from exo_lite.api.server import serve_http
from exo_lite.domain.chat import PromptFormat
from exo_lite.domain.cluster_document import ClusterDocument
from exo_lite.domain.errors import ModelNotFound, NotReady
from exo_lite.domain.ids import Epoch, ModelId, NodeId
from exo_lite.domain.load_options import LoadOptions, LoadRequest
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.placement import Instance, ServedModel
from exo_lite.domain.plan import Assignment, NodeOffer, Plan, Refusal
from exo_lite.domain.request import AnswerRequest, Token
from exo_lite.domain.shard import Shard
from exo_lite.domain.trace import RequestTrace, TraceReport
from exo_lite.node.supervisor import Supervisor
from tests.loopback import CLOCK

MIB = 1024 * 1024
MODEL = "smollm2-135m"
EOS = 0
DEADLINE_S = 10.0

Document = dict[str, Any]


class LetterStream:
    """Token ids are code points."""

    num_chars = 0

    def push(self, token_id: int) -> tuple[str, bool]:
        self.num_chars += 1
        return chr(token_id), False

    def finish(self) -> str:
        return ""


class LetterModel:
    context_length = 2048
    stop_token_ids = frozenset({EOS})

    def encode(self, text: str, *, add_bos: bool = True) -> list[int]:
        return [ord(letter) for letter in text]

    def min_tokens(self, text: str) -> int:
        return len(text)

    def render_chat(self, messages: Sequence[Mapping[str, object]], prompt_format: PromptFormat) -> str:
        return "".join(str(message["content"]) for message in messages)

    def text_stream(self, stops: Sequence[str], *, min_tokens: int = 0, skip_special: bool = True) -> LetterStream:
        return LetterStream()

    def token_bytes(self, token_id: int) -> bytes:
        return chr(token_id).encode()


class ScriptedModel:
    """One call's hold on the model of a cluster."""

    fingerprint = "fp"
    text = LetterModel()

    def __init__(self, cluster: ScriptedCluster) -> None:
        self._cluster = cluster

    async def answer(self, request: AnswerRequest) -> AsyncGenerator[Token, None]:
        cluster = self._cluster
        try:
            for index, letter in enumerate(cluster.answer):
                if index == cluster.hold_at:
                    await asyncio.Event().wait()
                yield Token(index, ord(letter))
            yield Token(len(cluster.answer), EOS, "stop")
        except (asyncio.CancelledError, GeneratorExit):
            cluster.was_cancelled.set()
            raise


class ScriptedCluster:
    """A daemon whose document and answers a test sets from its own thread; it serves itself on loopback."""

    def __init__(self, *, api_key: str | None = None) -> None:
        self.answer = "Hello from three machines."
        self.hold_at: int | None = None
        """The token before which an answer waits for ever."""
        self.traced: tuple[RequestTrace, ...] = ()
        self.was_cancelled = threading.Event()
        self._api_key = api_key
        self._document: Document = state_document([node_document("a", is_self=True)])
        self._port = 0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def show(self, document: Document) -> None:
        """Make this the cluster's state."""
        self._document = document
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._changed.set)

    # The server, from the test's thread

    def start(self) -> None:
        """Serve on the port of the last time, or a free one."""
        sock = socket.create_server(("127.0.0.1", self._port))
        self._port = sock.getsockname()[1]
        is_up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(sock, is_up)))
        self._thread.start()
        is_up.wait(DEADLINE_S)

    def stop(self) -> None:
        """Drop every connection, as a daemon that ends."""
        if self._thread is None or self._loop is None:
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(DEADLINE_S)
        self._thread = self._loop = None

    async def _serve(self, sock: socket.socket, is_up: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop, self._changed = asyncio.Event(), asyncio.Event()
        app = create_app(self, api_key=self._api_key, allowed_hosts=[])
        serving = asyncio.create_task(serve_http(app, sock, Supervisor(CLOCK), drain_timeout_s=1))
        is_up.set()
        await self._stop.wait()
        self._changed.set()
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving

    # DaemonApi

    def state(self) -> ClusterDocument:
        return cast(ClusterDocument, self._document)

    async def changes(self) -> AsyncGenerator[None, None]:
        while not self._stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._changed.wait()
            self._changed.clear()
            yield

    def not_ready_reason(self) -> str | None:
        return None

    async def load(self, model: str, request: LoadRequest) -> Instance:
        _not_played(model)

    async def unload(self, model: str) -> None:
        _not_played(model)

    async def traces(self, model: str) -> TraceReport:
        spec = ModelSpec("llama", 30, 64, 128, 4, 2, 16, 100, 2048)
        instance = Instance(
            model_id=ModelId(model),
            fingerprint="",
            spec=spec,
            epoch=Epoch(4),
            options=LoadOptions("bfloat16"),
            assignments=tuple(_assignment(model, shard) for shard in self._document["models"][0]["shards"]),
            state="ready",
        )
        return TraceReport(instance, self.traced)

    async def plan(self, model: str, request: LoadRequest, offers: Sequence[NodeOffer] | None) -> Plan | Refusal:
        _not_played(model)

    async def models(self) -> Sequence[ServedModel]:
        return [ServedModel(model["id"], 0, model["state"]) for model in self._document["models"]]

    async def model(self, name: str) -> ServedModel:
        _not_played(name)

    @asynccontextmanager
    async def serve(self, model: str, keep_alive_s: float | None = None) -> AsyncGenerator[ScriptedModel]:
        if all(one["state"] != "ready" for one in self._document["models"]):
            raise NotReady(f"{model} is loading")
        yield ScriptedModel(self)


def _not_played(model: str) -> NoReturn:
    raise ModelNotFound(f"{model} is not part of this play")


def _assignment(model: str, shard: Document) -> Assignment:
    place = Shard(ModelId(model), shard["start_layer"], shard["end_layer"], 30)
    return Assignment(NodeId(shard["node_id"]), shard["node"], place, 1, 1, 1)


def node_document(letter: str, *, is_self: bool = False, state: str = "alive", **changed: object) -> Document:
    """A node named node-LETTER, as the state document has it."""
    size = {"a": 4096, "b": 6144, "c": 2048}.get(letter, 4096) * MIB
    document: Document = {
        "id": f"id-{letter}",
        "name": f"node-{letter}",
        "address": f"192.168.1.{ord(letter) % 100}:52414",
        "self": is_self,
        "state": state,
        "version": "0.1.0",
        "device": {"kind": "cpu", "name": "AMD Ryzen 7 5800X", "threads": 8},
        "rtt_ms": None if is_self else 0.42,
        "heartbeat_age_s": 0.0 if is_self else 0.3,
        "memory": {
            "limit_bytes": size,
            "weights_bytes": 0,
            "kv_cache_bytes": 0,
            "working_bytes": 0,
            "free_bytes": size,
        },
    }
    return {**document, **changed}


def used_memory(node: Document, *, weights_mib: int, kv_mib: int, working_mib: int = 64) -> Document:
    """The same node with that much of its memory taken."""
    limit_bytes = node["memory"]["limit_bytes"]
    free_bytes = limit_bytes - (weights_mib + kv_mib + working_mib) * MIB
    used = {"weights_bytes": weights_mib * MIB, "kv_cache_bytes": kv_mib * MIB, "working_bytes": working_mib * MIB}
    return {**node, "memory": {"limit_bytes": limit_bytes, **used, "free_bytes": free_bytes}}


def model_document(state: str, shards: Sequence[Document], **changed: object) -> Document:
    document: Document = {
        "id": MODEL,
        "n_layers": 30,
        "state": state,
        "reason": None,
        "epoch": 4,
        "dtype": "bfloat16",
        "quant": "int8",
        "context_length": 2048,
        "tokens_per_second": 0.0,
        "requests": {"running": 0, "waiting": 0},
        "shards": list(shards),
    }
    return {**document, **changed}


def shard_document(
    letter: str, start_layer: int, end_layer: int, state: str = "ready", progress: float = 1.0
) -> Document:
    return {
        "node_id": f"id-{letter}",
        "node": f"node-{letter}",
        "start_layer": start_layer,
        "end_layer": end_layer,
        "state": state,
        "progress": progress,
        "weight_bytes": (end_layer - start_layer + 1) * 13 * MIB,
        "compute_ms": 3.14 if state == "ready" else None,
        "hop_ms": 0.8 if state == "ready" else None,
    }


def event_document(time: float, kind: str, text: str, fix: str | None = None) -> Document:
    return {"time": time, "kind": kind, "text": text, "fix": fix}


def state_document(
    nodes: Sequence[Document], models: Sequence[Document] = (), events: Sequence[Document] = ()
) -> Document:
    return {
        "node": {"id": "id-a", "name": "node-a"},
        "cluster": "default",
        "epoch": 4,
        "leader": "id-a",
        "nodes": list(nodes),
        "models": list(models),
        "events": list(events),
    }
