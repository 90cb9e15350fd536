"""Every model there is a name for: the shard table's, and those on this machine's disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from exo_lite.catalog.table import ShardTableRow, load_table
from exo_lite.domain.errors import ModelNotFound
from exo_lite.domain.ids import ModelId, parse_model_id
from exo_lite.domain.model_spec import DTYPE_BYTES, ModelSpec
from exo_lite.store.model_store import ModelStore
from exo_lite.store.stored_model import StoredModel
from exo_lite.store.survey import Survey


@dataclass(frozen=True, slots=True)
class KnownModel:
    """`path` is its folder where it is on this machine; `sources` says by engine where else its weights are."""

    model_id: ModelId
    spec: ModelSpec
    weight_bytes: int
    aliases: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    path: Path | None = None
    differences: tuple[str, ...] = ()
    """The fields in which the files here differ from the shard table's model of this id."""


def known_models(survey: Survey) -> list[KnownModel]:
    """The shard table in its order, then what is on disk beside it."""
    stored = {model.model_id: model for model in survey.models}
    rows = load_table().rows
    others = [model for model_id, model in stored.items() if load_table().find(model_id) is None]
    return [_known(row, stored.get(row.model_id)) for row in rows] + [_on_disk(model) for model in others]


def known_model(name: str, models_dir: Path) -> KnownModel:
    """Find a model by id or alias. Raises ModelNotFound, InvalidRequest, and InvalidModel for a damaged folder."""
    row = load_table().find(name)
    store = ModelStore(models_dir)
    if row is not None:
        return _known(row, store.find(row.model_id))
    model_id = parse_model_id(name)
    if (models_dir / model_id).is_dir():
        return _on_disk(store.get(model_id))
    raise ModelNotFound(f"there is no model {name!r}: {load_table().suggestion(name)}")


def _known(row: ShardTableRow, stored: StoredModel | None) -> KnownModel:
    if stored is None:
        num_bytes = row.spec.num_parameters * DTYPE_BYTES[row.spec.dtype]
        return KnownModel(row.model_id, row.spec, num_bytes, row.aliases, row.weights)
    differences = tuple(row.differences(stored.spec))
    return KnownModel(
        row.model_id, stored.spec, stored.weight_bytes, row.aliases, row.weights, stored.path, differences
    )


def _on_disk(stored: StoredModel) -> KnownModel:
    return KnownModel(stored.model_id, stored.spec, stored.weight_bytes, path=stored.path)


def model_document(model: KnownModel) -> dict[str, Any]:
    return {
        "id": model.model_id,
        "aliases": list(model.aliases),
        "n_layers": model.spec.n_layers,
        "num_parameters": model.spec.num_parameters,
        "weight_bytes": model.weight_bytes,
        "local": model.path is not None,
        "path": str(model.path) if model.path else None,
        "sources": dict(model.sources),
        "differences": list(model.differences),
    }


def full_document(model: KnownModel) -> dict[str, Any]:
    """The same with every dimension, by Hugging Face's names."""
    return model_document(model) | asdict(model.spec) | {"context_length": model.spec.context_length}
