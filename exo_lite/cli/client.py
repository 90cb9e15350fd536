"""The daemon's HTTP interface, as the verbs call it."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx2

from exo_lite.cli.errors import Failed, NoDaemon
from exo_lite.cli.options import DaemonAddress
from exo_lite.domain.errors import ExoLiteError, error_class

Document = dict[str, Any]

CONNECT_TIMEOUT_S = 5.0
SILENCE_TIMEOUT_S = 60.0
"""Longest wait for the next byte. A daemon that is alive fills the silences of its streams every few seconds."""


class DaemonClient:
    """Asks one daemon. Raises ExoLiteError as the daemon names it, NoDaemon, and Failed for what is neither."""

    def __init__(self, daemon: DaemonAddress) -> None:
        self._address = str(daemon)
        headers = {"Authorization": f"Bearer {daemon.api_key}"} if daemon.api_key else {}
        self._http = httpx2.Client(
            base_url=f"http://{self._address}",
            headers=headers,
            timeout=httpx2.Timeout(SILENCE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            trust_env=False,  # a proxy is for the world outside, not for the machines of a cluster
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def state(self) -> Document:
        return self._call("GET", "/api/v1/state")

    def plan(self, body: Document) -> Document:
        return self._call("POST", "/api/v1/plan", body)

    def load(self, model: str, body: Document) -> Document:
        """Ask for a model; the answer names its id, state and epoch."""
        return self._call("POST", f"/api/v1/models/{quote(model, safe='')}/load", body)

    def unload(self, model: str) -> Document:
        return self._call("POST", f"/api/v1/models/{quote(model, safe='')}/unload")

    def states(self) -> Generator[Document]:
        """The cluster's state at once, and again after each change."""
        state: Document = {}
        for event in self._events("GET", "/api/v1/events"):
            news = self._document(event.data)
            state = news if event.event == "state" else state | news
            yield state

    def chunks(self, path: str, body: Document) -> Generator[Document]:
        """The chunks of a streamed answer. Raises what the stream reports, and Failed where it breaks off."""
        for event in self._events("POST", path, body):
            if event.data == "[DONE]":
                return
            chunk = self._document(event.data)
            if "error" in chunk:
                raise self._error(chunk, "in mid-answer")
            yield chunk
        raise Failed(f"the daemon at {self._address} ended in the middle of an answer")

    def _call(self, method: str, path: str, body: Document | None = None) -> Document:
        with self._translated():
            response = self._http.request(method, path, json=body)
            self._check(response)
            return self._document(response.text)

    def _events(self, method: str, path: str, body: Document | None = None) -> Generator[httpx2.ServerSentEvent]:
        with self._translated(), self._http.sse(path, method=method, json=body) as source:
            self._check(source.response)
            yield from source

    def _check(self, response: httpx2.Response) -> None:
        if response.is_success:
            return
        response.read()
        raise self._error(self._document(response.text), f"with status {response.status_code}")

    def _document(self, text: str) -> Document:
        try:
            document = json.loads(text) if text else {}
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise Failed(f"{self._address} did not answer like an exo-lite daemon: {text[:200]!r}")
        return document

    def _error(self, document: Document, when: str) -> ExoLiteError | Failed:
        error = document.get("error")
        if not isinstance(error, dict):
            return Failed(f"{self._address} failed {when} and did not say why; is it an exo-lite daemon?")
        return error_class(str(error.get("code")))(str(error.get("message")))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise NoDaemon(self._address, str(error) or "no connection") from error
        except httpx2.TimeoutException as error:
            raise Failed(f"the daemon at {self._address} has been silent for {SILENCE_TIMEOUT_S:.0f} s") from error
        except httpx2.HTTPError as error:
            raise Failed(f"the connection to the daemon at {self._address} broke: {error}") from error
