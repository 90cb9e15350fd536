"""Names of models: from what a client writes to an id, or an error with suggestions. Pure."""

from __future__ import annotations

from collections.abc import Collection

from exo_lite.catalog.table import load_table
from exo_lite.domain.errors import InvalidRequest, ModelNotFound
from exo_lite.domain.ids import ModelId

MAX_NAME_CHARS = 96
"""The length of a model's name in an error."""


def find_model_id(name: str, held: Collection[ModelId]) -> ModelId:
    """The id that a name or alias stands for. Raises ModelNotFound for what can be none."""
    try:
        return load_table().id_of(name)
    except InvalidRequest as error:
        raise model_not_found(name, held) from error


def model_not_found(name: str, held: Collection[ModelId]) -> ModelNotFound:
    """Names the way out. `held`: models whose files are on a living node."""
    name = name[:MAX_NAME_CHARS]
    if load_table().find(name) is not None:
        return ModelNotFound(f"no node has the files of {name}: `exo-lite import PATH --as {name}`")
    return ModelNotFound(f"there is no model {name!r}: {load_table().suggestion(name, held)}")
