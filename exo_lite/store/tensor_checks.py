"""Whether a checkpoint has the tensors that its config promises, no fewer and no others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from exo_lite.domain.errors import InvalidModel, UnsupportedModel
from exo_lite.domain.ids import ModelId
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.shard import Shard
from exo_lite.engine.torch_c.tensor_names import EMBEDDING, HEAD, Shape, expected_tensors

_IGNORED = ("rotary_emb.inv_freq",)  # follows from the config
MAX_NAME_CHARS = 200
"""Of a tensor's name, in an error."""
EMBEDDING_TENSOR = f"{EMBEDDING}.weight"
HEAD_TENSOR = f"{HEAD}.weight"


def all_tensors(spec: ModelSpec) -> dict[str, Shape]:
    """Every tensor of a whole model, in the order of its layers."""
    return expected_tensors(spec, Shard(ModelId("all"), 0, spec.n_layers - 1, spec.n_layers))


def check_tensors(
    shapes: Mapping[str, Shape], spec: ModelSpec, *, where: str, missing_files: Sequence[str] = ()
) -> None:
    """Raises InvalidModel for a missing or misshapen tensor, UnsupportedModel for one that nothing here computes.

    `missing_files` should be there: a tensor that is missing may be in one of them.
    """
    if spec.n_layers > len(shapes):
        _refuse_missing_files(missing_files)
        raise InvalidModel(f"{where}: {len(shapes)} tensors cannot be the {spec.n_layers} layers that the config names")
    expected = all_tensors(spec)
    for name, shape in expected.items():
        if name not in shapes:
            _refuse_missing_files(missing_files)
            raise InvalidModel(f"{where}: tensor {name} is missing; expected one of shape {list(shape)}")
        if shapes[name] != shape:
            raise InvalidModel(
                f"{where}: tensor {name} has the shape {list(shapes[name])}, the config asks for {list(shape)}"
            )
    unexpected = sorted(name for name in shapes.keys() - expected.keys() if not _is_ignored(name, spec))
    if unexpected:
        raise UnsupportedModel(
            f"{where}: {len(unexpected)} tensors have no part in a {spec.model_type} model as configured, "
            f"the first is {unexpected[0][:MAX_NAME_CHARS]}: this version does not run this kind of model"
        )


def _refuse_missing_files(missing_files: Sequence[str]) -> None:
    if missing_files:
        raise InvalidModel(f"{missing_files[0]} is missing: fetch it as well")


def _is_ignored(name: str, spec: ModelSpec) -> bool:
    """A tied model may carry a copy of its embedding as its head."""
    return name.endswith(_IGNORED) or (name == HEAD_TENSOR and spec.tie_word_embeddings)
