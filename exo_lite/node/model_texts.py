"""The text sides of the models that are placed, each read once from this node's own files."""

from __future__ import annotations

import asyncio

from exo_lite.catalog.table import load_table
from exo_lite.domain.errors import ModelNotFound
from exo_lite.domain.ids import ModelId
from exo_lite.domain.placement import Instance
from exo_lite.node.cluster import Cluster
from exo_lite.node.served_text import ServedText
from exo_lite.store.model_store import ModelStore
from exo_lite.store.stored_model import StoredModel


class ModelTexts:
    def __init__(self, cluster: Cluster, store: ModelStore) -> None:
        self._cluster = cluster
        self._store = store
        self._texts: dict[tuple[ModelId, str, int], ServedText] = {}

    async def text(self, instance: Instance) -> ServedText:
        """Raises ModelNotFound where this node has no files of the model, and what reading them raises."""
        key = (instance.model_id, instance.fingerprint, instance.options.context_length)
        text = self._texts.get(key)
        if text is None:
            text = await asyncio.to_thread(self._read, instance)
            placed = {one.model_id for one in self._cluster.state.instances}
            self._texts = {known: one for known, one in self._texts.items() if known[0] in placed} | {key: text}
        return text

    def _read(self, instance: Instance) -> ServedText:
        row = load_table().find(instance.model_id)
        return ServedText(
            self._stored(instance.model_id).path,
            instance.options.context_length,
            default_template=row.template_for(instance.spec) if row else None,
        )

    def _stored(self, model_id: ModelId) -> StoredModel:
        """Raises ModelNotFound without the store's words on where it looked: those are for this machine's user."""
        try:
            return self._store.get(model_id)
        except ModelNotFound as error:
            name = self._cluster.state.self_status.identity.name
            raise ModelNotFound(
                f"{name} does not have the tokenizer of {model_id}: import the model there "
                f"(`exo-lite import PATH --as {model_id}`), or send the request to a node that has it"
            ) from error
