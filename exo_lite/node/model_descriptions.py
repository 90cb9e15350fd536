"""Descriptions of models, from this node's own files or from another node that has them."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from exo_lite.catalog.table import load_table
from exo_lite.domain.errors import ExoLiteError, InvalidModel, InvalidRequest, ModelNotFound, StorageError
from exo_lite.domain.ids import ModelId
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.placement import ModelDescription
from exo_lite.node.cluster import Cluster
from exo_lite.node.model_names import model_not_found
from exo_lite.node.model_search import ModelSearch
from exo_lite.node.peers import Peers
from exo_lite.store.manifest import MANIFEST_FILE
from exo_lite.store.model_store import ModelStore

DESCRIBE_TIMEOUT_S = 5.0


class ModelDescriptions:
    def __init__(self, cluster: Cluster, peers: Peers, store: ModelStore, search: ModelSearch) -> None:
        self._cluster = cluster
        self._peers = peers
        self._store = store
        self._search = search

    async def own(self, model_id: ModelId) -> ModelDescription:
        """Describe a model in this node's own store. Raises ModelNotFound or InvalidModel."""
        return await asyncio.to_thread(self._read, model_id)

    async def on_describe_model(self, model_id: ModelId) -> ModelDescription:
        """Describe a model after looking at the models folder again: the caller wants to know now."""
        await self._search.look_here()
        return await self.own(model_id)

    async def look(self, model_id: ModelId) -> None:
        """Have the nodes look that are not known to have a model."""
        await self._search.look(model_id)

    async def find(self, model_id: ModelId) -> ModelDescription | None:
        """Describe a model from this node's store, or from the first living node that has it."""
        with suppress(InvalidRequest, ModelNotFound, InvalidModel, StorageError):  # another node's may be sound
            return await self.own(model_id)
        if model_id not in self._cluster.state.held_models:
            await self._search.look(model_id)
        for member in self._cluster.state.members.values():
            if member.state == "dead" or model_id not in member.status.models:
                continue
            with suppress(ExoLiteError):  # another one may answer
                async with self._peers.node(member.address) as client:
                    return await client.describe_model(model_id, timeout_s=DESCRIBE_TIMEOUT_S)
        return None

    async def get(self, model_id: ModelId) -> ModelDescription:
        """Raises ModelNotFound where no living node has the model, InvalidModel where this one's is damaged."""
        description = await self.find(model_id)
        if description is not None:
            return description
        with suppress(ModelNotFound):
            return await self.own(model_id)
        raise model_not_found(model_id, self._cluster.state.held_models)

    async def everywhere(self, model_id: ModelId) -> ModelDescription:
        """The same, once every node has looked for these very files: a plan may count on them. Raises as `get`."""
        description = await self.get(model_id)
        await self._search.look(model_id, description.fingerprint)
        return description

    async def spec(self, model_id: ModelId) -> ModelSpec:
        """Return the spec from the shard table or the model's own files. Raises as `get`."""
        row = load_table().find(model_id)
        return row.spec if row else (await self.get(model_id)).spec

    def _read(self, model_id: ModelId) -> ModelDescription:
        stored = self._store.get(model_id)
        try:
            created = int((stored.path / MANIFEST_FILE).stat().st_mtime)
        except OSError as error:
            raise ModelNotFound(f"{model_id} is being removed from this node") from error
        return ModelDescription(model_id, stored.fingerprint, stored.spec, created)
