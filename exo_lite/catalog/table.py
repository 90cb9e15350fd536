"""The shard table: models known by name, with every dimension that planning needs."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from exo_lite.catalog.hf_config import spec_from_config
from exo_lite.domain.ids import ModelId, parse_model_id
from exo_lite.domain.model_spec import ModelSpec

_STRUCTURE = (
    "model_type",
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)


@dataclass(frozen=True, slots=True)
class ShardTableRow:
    """One model. `weights` says where each engine (torch, mlx, tinygrad) finds its own."""

    model_id: ModelId
    aliases: tuple[str, ...]
    """Other names, in lower case."""
    spec: ModelSpec
    weights: Mapping[str, str]
    chat_template: str | None
    """jinja2 source, for files that bring none."""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.model_id, *self.aliases)

    def template_for(self, spec: ModelSpec) -> str | None:
        """The chat template, unless these are another model's files under this one's name."""
        return None if self.differences(spec) else self.chat_template

    def differences(self, spec: ModelSpec) -> list[str]:
        """List where a model's files differ from this row, as in "2 num_hidden_layers, not 32".

        Vocabulary, context and number type are left out: a tuned model may have others.
        """
        pairs = [(name, getattr(spec, name), getattr(self.spec, name)) for name in _STRUCTURE]
        return [f"{found} {name}, not {expected}" for name, found, expected in pairs if found != expected]


@dataclass(frozen=True, slots=True)
class ShardTable:
    rows: tuple[ShardTableRow, ...]

    def find(self, name: str) -> ShardTableRow | None:
        """The row with this id or alias, in any case."""
        wanted = name.strip().lower()
        return next((row for row in self.rows if wanted in row.names), None)

    def id_of(self, name: str) -> ModelId:
        """The one id that a name stands for, where files are kept and where requests go.

        That of the row with this id or alias, else the name itself. Raises InvalidRequest for what can be no id.
        """
        row = self.find(name)
        return row.model_id if row else parse_model_id(name)

    def close_matches(self, name: str, *, at_most: int = 3) -> list[ModelId]:
        """Ids of models with a similar name, the closest first, for `suggestion`."""
        owners = {known: row.model_id for row in self.rows for known in row.names}
        close = get_close_matches(name.strip().lower(), owners, n=len(owners), cutoff=0.6)
        return list(dict.fromkeys(owners[known] for known in close))[:at_most]

    def suggestion(self, name: str, others: Collection[str] = ()) -> str:
        """Suggest what to try for an unknown name: similar names, among `others` and here, or where to look."""
        close = dict.fromkeys([*get_close_matches(name, others), *self.close_matches(name)])
        return f"did you mean {', '.join(close)}?" if close else "`exo-lite models` lists what there is"


@cache
def load_table() -> ShardTable:
    """The table that comes with exo_lite, read once."""
    document = tomllib.loads(_read("shard_table.toml"))
    return ShardTable(
        tuple(
            ShardTableRow(
                model_id=parse_model_id(model["id"]),
                aliases=tuple(model["aliases"]),
                spec=spec_from_config(model["config"]),
                weights=MappingProxyType(model["weights"]),
                chat_template=_read(f"templates/{model['template']}.jinja") if "template" in model else None,
            )
            for model in document["model"]
        )
    )


def _read(name: str) -> str:
    return files("exo_lite.catalog").joinpath(name).read_text(encoding="utf-8")
