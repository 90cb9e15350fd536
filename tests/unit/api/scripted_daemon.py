"""A daemon in memory: it answers as told, counts what it was asked, and notices who closed what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

from exo_lite.domain.chat import PromptFormat
from exo_lite.domain.cluster_document import ClusterDocument
from exo_lite.domain.errors import ExoLiteError, ModelNotFound
from exo_lite.domain.ids import Epoch, ModelId, NodeId
from exo_lite.domain.load_options import LoadOptions, LoadRequest
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.placement import Instance, ServedModel
from exo_lite.domain.plan import Assignment, Exclusion, NodeOffer, Plan, Refusal
from exo_lite.domain.request import AnswerRequest, FinishReason, Logprobs, Sampling, Token
from exo_lite.domain.shard import Shard
from exo_lite.domain.trace import RequestTrace, TraceReport

MODEL = "demo-model"
EOS = 0
BOS = 1
ALIASES = {"demo": MODEL}


class LetterStream:
    """Token ids are code points; a stop string is met as soon as the text ends with it."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.num_chars = 0

    def push(self, token_id: int) -> tuple[str, bool]:
        self._held += chr(token_id)
        self.num_chars += 1
        for stop in self._stops:
            if stop in self._held:
                return self._held[: self._held.index(stop)], True
        held = max(
            (length for stop in self._stops for length in range(len(stop)) if self._ends(stop, length)), default=0
        )
        certain = self._held[: len(self._held) - held]
        self._held = self._held[len(certain) :]
        return certain, False

    def _ends(self, stop: str, length: int) -> bool:
        return length > 0 and self._held.endswith(stop[:length])

    def finish(self) -> str:
        rest, self._held = self._held, ""
        return rest


class LetterModel:
    """A tokenizer whose ids are code points."""

    context_length = 64
    stop_token_ids = frozenset({EOS})

    def encode(self, text: str, *, add_bos: bool = True) -> list[int]:
        return [BOS] * add_bos + [ord(letter) for letter in text]

    def min_tokens(self, text: str) -> int:
        return len(text)

    def render_chat(self, messages: Sequence[Mapping[str, object]], prompt_format: PromptFormat) -> str:
        """Template variables stand in front; a dot ends a chat that nobody is to go on with."""
        turns = "".join(f"<{message['role']}>{message['content']}" for message in messages)
        given = "".join(f"{name}={value};" for name, value in prompt_format.variables.items())
        if prompt_format.continues_last:
            return given + turns
        return given + turns + ("<assistant>" if prompt_format.add_generation_prompt else ".")

    def text_stream(self, stops: Sequence[str], *, min_tokens: int = 0, skip_special: bool = True) -> LetterStream:
        return LetterStream(stops)

    def token_bytes(self, token_id: int) -> bytes:
        return chr(token_id).encode()


@dataclass(frozen=True)
class ScriptedModel:
    """One call's hold on the model."""

    daemon: ScriptedDaemon
    model: str
    text: LetterModel

    @property
    def fingerprint(self) -> str:
        return f"fp_{self.model}"

    def answer(self, request: AnswerRequest) -> AsyncGenerator[Token, None]:
        return self.daemon.answer_to(self.model, request)


@dataclass
class ScriptedDaemon:
    """`answer` is what every generation samples, the end-of-sequence token after it."""

    answer: str = "Hello"
    answers: list[str] = field(default_factory=list)
    """Instead of it, one for each generation, in order."""
    num_cached_tokens: int = 0
    """Of each prompt."""
    error: ExoLiteError | None = None
    """Raised by answers after `error_after` tokens, and by load and plan."""
    error_after: int = 0
    not_ready: str | None = None
    pause: asyncio.Event | None = None
    """If set, answers wait for it before the token at `pause_at`."""
    pause_at: int = 0
    outcome: Plan | Refusal | None = None
    document: dict[str, object] = field(default_factory=lambda: dict(STATE))
    asked: list[AnswerRequest] = field(default_factory=list)
    loads: list[tuple[str, LoadRequest]] = field(default_factory=list)
    offers: Sequence[NodeOffer] | None = None
    traced: tuple[RequestTrace, ...] = ()
    unloaded: list[str] = field(default_factory=list)
    keep_alives_s: list[float | None] = field(default_factory=list)
    loading: asyncio.Event | None = None
    """If set, requests wait for it as for a model that is being loaded."""
    load_error: ExoLiteError | None = None
    """Raised once the loading is over."""
    num_held: int = 0
    """Requests that keep the model from leaving."""
    num_open: int = 0
    started: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    """The model of each generation, as it begins."""
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Queue[bool] = field(default_factory=asyncio.Queue)
    """True: something may have changed; False: the daemon drains."""

    def state(self) -> ClusterDocument:
        return cast(ClusterDocument, self.document)

    async def changes(self) -> AsyncGenerator[None, None]:
        while await self.changed.get():
            yield

    def not_ready_reason(self) -> str | None:
        return self.not_ready

    async def load(self, model: str, request: LoadRequest) -> Instance:
        if self.error:
            raise self.error
        self.loads.append((model, request))
        return Instance(ModelId(model), "f00d", SPEC, Epoch(7), LoadOptions("float32"), (), "loading")

    async def traces(self, model: str) -> TraceReport:
        if model != MODEL:
            raise ModelNotFound(f"{model} is not loaded")
        plan = sample_plan()
        instance = Instance(plan.model_id, "f00d", SPEC, Epoch(7), LoadOptions("float32"), plan.assignments, "ready")
        return TraceReport(instance, self.traced)

    async def unload(self, model: str) -> None:
        if model != MODEL:
            raise ModelNotFound(f"{model} is not loaded")
        self.unloaded.append(model)

    async def plan(self, model: str, request: LoadRequest, offers: Sequence[NodeOffer] | None) -> Plan | Refusal:
        if self.error:
            raise self.error
        self.loads.append((model, request))
        self.offers = offers
        return self.outcome or sample_plan()

    async def models(self) -> Sequence[ServedModel]:
        return [ServedModel(MODEL, 1_700_000_000, "ready", 64), ServedModel("org/other", 1_700_000_001, "on_disk")]

    async def model(self, name: str) -> ServedModel:
        for model in await self.models():
            if model.id == ALIASES.get(name, name):
                return model
        raise ModelNotFound(f"there is no model {name!r}")

    @asynccontextmanager
    async def serve(self, model: str, keep_alive_s: float | None = None) -> AsyncGenerator[ScriptedModel]:
        if model != MODEL:
            raise ModelNotFound(f"{model} is not loaded")
        self.keep_alives_s.append(keep_alive_s)
        if self.loading is not None:
            await self.loading.wait()
        if self.load_error is not None:
            raise self.load_error
        self.num_held += 1
        try:
            yield ScriptedModel(self, model, LetterModel())
        finally:
            self.num_held -= 1

    async def answer_to(self, model: str, request: AnswerRequest) -> AsyncGenerator[Token, None]:
        self.asked.append(request)
        token_ids, max_tokens, sampling = request.token_ids, request.max_tokens, request.sampling
        self.num_open += 1
        self.started.put_nowait(model)
        try:
            sampled = [ord(letter) for letter in (self.answers.pop(0) if self.answers else self.answer)] + [EOS]
            for index, token_id in enumerate(sampled[:max_tokens]):
                await self._before(index)
                is_end = token_id in request.stop_token_ids
                is_last = index == min(max_tokens, len(sampled)) - 1
                reason: FinishReason | None = "stop" if is_end else "length" if is_last else None
                cached = 0 if index else self.num_cached_tokens
                scored = () if index else self._prompt_logprobs(sampling, token_ids)
                yield Token(index, token_id, reason, self._logprobs(sampling, index, token_id), cached, scored)
        finally:
            self.num_open -= 1
            self.closed.set()

    def _prompt_logprobs(self, sampling: Sampling, token_ids: Sequence[int]) -> tuple[Logprobs, ...]:
        """Each token of the prompt is the likeliest in its place."""
        if not sampling.prompt_logprobs or sampling.logprobs is None:
            return ()
        return tuple(Logprobs(-0.5, ((one, -0.5), (ord("*"), -3.0))[: sampling.logprobs]) for one in token_ids[1:])

    def _logprobs(self, sampling: Sampling, index: int, token_id: int) -> Logprobs | None:
        """The sampled token is the second likeliest, behind a `*`; then come the letters after it."""
        if sampling.logprobs is None:
            return None
        likely = [(ord("*"), -0.25), (token_id, -1.5 - index), *((token_id + place, -9.0) for place in range(1, 20))]
        return Logprobs(-1.5 - index, tuple(likely[: sampling.logprobs]))

    async def _before(self, index: int) -> None:
        if self.pause is not None and index == self.pause_at:
            await self.pause.wait()
        if self.error is not None and index == self.error_after:
            raise self.error


SPEC = ModelSpec("llama", 30, 576, 1536, 9, 3, 64, 49152, 2048)
OPTIONS = LoadOptions("bfloat16", "int8", 2048, 4)


def sample_plan() -> Plan:
    shards = (Shard(ModelId(MODEL), 0, 19, 30), Shard(ModelId(MODEL), 20, 29, 30))
    assignments = tuple(
        Assignment(NodeId(name), name, shard, weight_bytes=100, kv_cache_bytes=20, working_bytes=3)
        for name, shard in zip(("a", "b"), shards, strict=True)
    )
    return Plan(ModelId(MODEL), 30, OPTIONS, assignments, (Exclusion(NodeId("c"), "c", "offers nothing"),))


def sample_refusal() -> Refusal:
    return Refusal(ModelId(MODEL), 30, OPTIONS, "needs 10, a offers 4: short by 6", 10, 4)


STATE: dict[str, object] = {
    "node": {"id": "n1", "name": "node-a"},
    "cluster": "default",
    "epoch": 3,
    "leader": "n1",
    "nodes": [
        {
            "id": name,
            "name": f"node-{name}",
            "self": name == "n1",
            "state": state,
            "memory": {"limit_bytes": 1000, "weights_bytes": 300, "kv_cache_bytes": 100, "free_bytes": 600},
        }
        for name, state in (("n1", "alive"), ("n2", "alive"), ("n3", "dead"))
    ],
    "models": [
        {
            "id": MODEL,
            "n_layers": 30,
            "state": "ready",
            "requests": {"running": 2, "waiting": 1},
            "kv_blocks": {"total": 32, "free": 9},
            "prefix_cache": {"enabled": True, "prompt_tokens": 900, "cached_tokens": 640, "kept_blocks": 7},
            "speculation": {"enabled": True, "proposed_tokens": 50, "accepted_tokens": 30},
            "shards": [{"node_id": "n1", "node": "node-n1", "start_layer": 0, "end_layer": 29}],
        }
    ],
    "events": [],
}
