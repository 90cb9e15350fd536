"""The daemon as the HTTP side needs it, and nothing more."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from exo_lite.domain.chat import PromptFormat
from exo_lite.domain.cluster_document import ClusterDocument
from exo_lite.domain.load_options import LoadRequest
from exo_lite.domain.placement import Instance, ServedModel
from exo_lite.domain.plan import NodeOffer, Plan, Refusal
from exo_lite.domain.request import AnswerRequest, Token
from exo_lite.domain.trace import TraceReport


class TextStream(Protocol):
    """Turns the tokens of one answer into text, holding back what may be half a character or half a stop string."""

    @property
    def num_chars(self) -> int:
        """Characters that the tokens so far have become, those included that may belong to a stop string."""
        ...

    def push(self, token_id: int) -> tuple[str, bool]:
        """The text that is now certain, and whether a stop string was met (the text ends before it)."""
        ...

    def finish(self) -> str:
        """Return the text held back, once no token follows."""
        ...


class TextModel(Protocol):
    """Tokenizer and chat template of one served model. Its methods may be called from any thread."""

    @property
    def context_length(self) -> int:
        """Tokens that one sequence may have as the model is loaded, prompt and answer together."""
        ...

    @property
    def stop_token_ids(self) -> frozenset[int]: ...

    def encode(self, text: str, *, add_bos: bool = True) -> list[int]: ...

    def min_tokens(self, text: str) -> int:
        """`encode` gives no fewer than these, and this takes next to no time; 0 where nothing can be said."""
        ...

    def render_chat(self, messages: Sequence[Mapping[str, object]], prompt_format: PromptFormat) -> str:
        """The prompt up to where the assistant speaks, begin-of-sequence text included. Raises InvalidRequest."""
        ...

    def text_stream(self, stops: Sequence[str], *, min_tokens: int = 0, skip_special: bool = True) -> TextStream:
        """Stop strings count from where the first `min_tokens` tokens end."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """Return the UTF-8 that a token adds to a text, perhaps part of a character. A special token's is its name."""
        ...


class HeldModel(Protocol):
    """One model for one call: it is ready, and is not evicted before the call ends."""

    @property
    def text(self) -> TextModel: ...

    @property
    def fingerprint(self) -> str:
        """The same for two answers only if weights, types and placement are the same."""
        ...

    def answer(self, request: AnswerRequest) -> AsyncGenerator[Token, None]:
        """The answer's tokens in order; closing the generator cancels on every node. Several may run side by side."""
        ...


class DaemonApi(Protocol):
    """The daemon, as seen from HTTP. Methods raise ExoLiteError; `api.failures` gives each its status."""

    def state(self) -> ClusterDocument:
        """The document of GET /api/v1/state: JSON types only, no NaN."""
        ...

    def changes(self) -> AsyncGenerator[None, None]:
        """Yields whenever the document changed (coalesced) and at least once a second; ends when the daemon drains."""
        ...

    def not_ready_reason(self) -> str | None:
        """None while a model has every layer covered and a fresh proof."""
        ...

    async def load(self, model: str, request: LoadRequest) -> Instance: ...

    async def unload(self, model: str) -> None: ...

    async def traces(self, model: str) -> TraceReport:
        """An empty one, with the reason, if its driver cannot tell. Raises ModelNotFound, or NotReady if not loaded."""
        ...

    async def plan(self, model: str, request: LoadRequest, offers: Sequence[NodeOffer] | None) -> Plan | Refusal:
        """Plan a model; on the living nodes if `offers` is None."""
        ...

    async def models(self) -> Sequence[ServedModel]:
        """List the models that a request can name: those on the disk of a living node, and those that are loaded."""
        ...

    async def model(self, name: str) -> ServedModel:
        """Find a model by id or alias. Raises ModelNotFound where a request for it would."""
        ...

    def serve(self, model: str, keep_alive_s: float | None = None) -> AbstractAsyncContextManager[HeldModel]:
        """Hold a model for one call, and load it first if need be.

        `keep_alive_s` is how long it stays when it is idle. Entering raises ModelNotFound, ModelDoesNotFit, or NotReady
        when it takes too long.
        """
        ...
