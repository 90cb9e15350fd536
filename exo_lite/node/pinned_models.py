"""The models that somebody loaded, kept on disk: they come back after a restart of this node, or of all."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Lock

from exo_lite.domain.errors import MalformedMessage
from exo_lite.domain.placement import Placement
from exo_lite.node.cluster import Cluster
from exo_lite.node.event_log import EventLog
from exo_lite.transport.placement_file import placement_from_json, placement_to_json

log = logging.getLogger(__name__)

RETRY_AFTER_S = 30.0
MAX_FILE_BYTES = 4 * 1024 * 1024
RESTORED = "its nodes started again"


class PinnedModels:
    """The file of one node. What requests brought in is not in it: the next request brings it in again.

    Every node keeps one, for any of them may be the first to be back. Which one is the newest, their clocks say.
    """

    def __init__(self, cluster: Cluster, folder: Path, cluster_name: str, events: EventLog) -> None:
        self._cluster = cluster
        self._path = folder / f"pinned.{cluster_name.encode().hex()[:64]}.json"
        self._events = events
        self._written = Placement.empty()
        self._writing = Lock()

    def read(self) -> Placement:
        """Return the models pinned before the restart, if any. A damaged file is reported and set aside."""
        try:
            if self._path.stat().st_size > MAX_FILE_BYTES:
                raise MalformedMessage("it is too large")
            placement = placement_from_json(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return Placement.empty()
        except (OSError, UnicodeDecodeError, MalformedMessage) as error:
            self._tell(f"models loaded before the restart do not come back: {self._path} cannot be read: {error}")
            with suppress(OSError):
                self._path.replace(self._path.with_suffix(".damaged"))
            return Placement.empty()
        self._written = pinned_in(placement)
        return self._written

    async def keep(self) -> None:
        """Write the file whenever the pinned models change, until cancelled."""
        try:
            async for _ in self._cluster.states():
                await self._write_in_the_end()
        finally:
            self._write()

    async def _write_in_the_end(self) -> None:
        while True:
            if await asyncio.to_thread(self._write):
                return
            await asyncio.sleep(RETRY_AFTER_S)

    def _write(self) -> bool:
        """Write the file; True if it is now as it should be. From any thread."""
        with self._writing:
            return self._write_news()

    def _write_news(self) -> bool:
        pinned = pinned_in(self._cluster.state.written)
        if pinned.is_empty or pinned == self._written:
            return True
        try:
            self._replace(placement_to_json(pinned))
        except OSError as error:
            self._tell(f"the loaded models will not come back after a restart: {self._path} cannot be written: {error}")
            return False
        self._written = pinned
        return True

    def _replace(self, text: str) -> None:
        fresh = self._path.with_suffix(".new")
        with fresh.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)

    def _tell(self, text: str) -> None:
        if not any(event.text == text for event in self._events):
            self._events.add("pinned_models_lost", text, "check the disk and the permissions of the data folder")


def pinned_in(placement: Placement) -> Placement:
    """Return what is to come back: the pinned models where they were, failed ones too, without their states."""
    pinned = (one for one in placement.instances if one.is_pinned)
    instances = tuple(replace(one, state="loading", reason=RESTORED, cause=None) for one in pinned)
    return replace(placement, instances=instances, siblings=(), is_restored=True)
