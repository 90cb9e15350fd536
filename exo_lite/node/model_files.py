"""This node's models folder: sound models are announced to everybody, damaged ones to its own user."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from exo_lite.domain.ids import ModelId
from exo_lite.node.event_log import EventLog
from exo_lite.store.model_store import ModelStore
from exo_lite.store.stored_model import DamagedModel

MAX_TOLD = 8
"""The number of damaged models that are named at once; the others are counted."""


class ModelFiles:
    """Tells of each damaged model once, until it is another one or damaged otherwise."""

    def __init__(self, store: ModelStore, events: EventLog) -> None:
        self._store = store
        self._events = events
        self._told: dict[ModelId, str] = {}

    async def look(self) -> dict[ModelId, str]:
        """The fingerprint of each sound model. Raises StorageError where the folder cannot be read."""
        survey = await asyncio.to_thread(self._store.survey)
        self._tell(survey.damaged)
        return {model.model_id: model.fingerprint for model in survey.models}

    def _tell(self, damaged: Sequence[DamagedModel]) -> None:
        new = [one for one in damaged if self._told.get(one.model_id) != one.reason]
        self._told = {one.model_id: one.reason for one in damaged}
        for one in new[:MAX_TOLD]:
            self._events.add("model_damaged", f"{one.model_id} cannot be used here: {one.reason}", one.fix)
        if len(new) > MAX_TOLD:
            text = f"{len(new) - MAX_TOLD} more models cannot be used here"
            self._events.add("model_damaged", text, "`exo-lite models` names each with its cause")
