"""The models that a request would get: on disk somewhere in the cluster, or placed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator

from exo_lite.domain.ids import ModelId
from exo_lite.domain.load_options import LoadRequest
from exo_lite.domain.placement import ModelDescription, ServedModel
from exo_lite.node.cluster import Cluster

Describe = Callable[[ModelId], Awaitable[ModelDescription | None]]

DESCRIBED_WITHIN_S = 2.0
"""The time after which a list leaves open what other nodes have not told of their models."""


class ModelList:
    """Describes each model once: equal fingerprints mean equal files."""

    def __init__(self, cluster: Cluster, describe: Describe) -> None:
        self._cluster = cluster
        self._describe = describe
        self._descriptions: dict[tuple[ModelId, str], ModelDescription] = {}

    async def all(self) -> list[ServedModel]:
        """Every model, by id."""
        return await self._served(sorted(dict(self._fingerprints())))

    async def find(self, model_id: ModelId) -> ServedModel | None:
        if model_id not in dict(self._fingerprints()):
            return None
        [model] = await self._served([model_id])
        return model

    async def _served(self, model_ids: Collection[ModelId]) -> list[ServedModel]:
        await self._learn(model_ids)
        fingerprints = dict(self._fingerprints())
        return [self._model(one, fingerprints[one]) for one in model_ids if one in fingerprints]

    def _model(self, model_id: ModelId, fingerprint: str) -> ServedModel:
        instance = self._cluster.state.instance_of(model_id)
        known = self._descriptions.get((model_id, fingerprint))
        created = known.created if known else 0
        if instance is not None:
            return ServedModel(model_id, created, instance.state, instance.options.context_length)
        context_length = LoadRequest().resolve(known.spec).context_length if known else None
        return ServedModel(model_id, created, "on_disk", context_length)

    async def _learn(self, model_ids: Collection[ModelId]) -> None:
        current = dict(self._fingerprints())
        self._descriptions = {key: one for key, one in self._descriptions.items() if key in current.items()}
        asked = {(model_id, current[model_id]) for model_id in model_ids}
        await asyncio.gather(*(self._learn_one(*key) for key in asked - self._descriptions.keys()))

    async def _learn_one(self, model_id: ModelId, fingerprint: str) -> None:
        try:
            async with asyncio.timeout(DESCRIBED_WITHIN_S):
                description = await self._describe(model_id)
        except TimeoutError:
            return
        if description is not None:
            self._descriptions[model_id, fingerprint] = description

    def _fingerprints(self) -> Iterator[tuple[ModelId, str]]:
        """Yield models with fingerprints, those last that count: of placed models, then of this node's own."""
        state = self._cluster.state
        for status in reversed(state.living.values()):
            yield from status.models.items()
        for instance in state.instances:
            yield instance.model_id, instance.fingerprint
