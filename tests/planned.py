"""Plans and bytes of the engine that there is, for tests of what surrounds it."""

from __future__ import annotations

from collections.abc import Sequence

from exo_lite.domain.footprint import ShardBytes
from exo_lite.domain.ids import ModelId
from exo_lite.domain.links import ALL_WORK, KnownLinks
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.plan import NodeOffer, Plan, Refusal
from exo_lite.domain.shard import Shard
from exo_lite.engine.table import footprints
from exo_lite.engine.torch_c.footprint import footprint
from exo_lite.planning import plan as planning


def plan(
    model_id: ModelId, spec: ModelSpec, options: LoadOptions, offers: Sequence[NodeOffer], links: KnownLinks = ALL_WORK
) -> Plan | Refusal:
    return planning.plan(model_id, spec.n_layers, options, offers, footprints(spec, options), links)


def shard_bytes(spec: ModelSpec, shard: Shard, options: LoadOptions) -> ShardBytes:
    return footprint(spec, options).of(shard)
