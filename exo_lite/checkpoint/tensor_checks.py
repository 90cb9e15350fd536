"""Checks that a checkpoint has exactly the tensors that its config promises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from exo_lite.checkpoint.tensor_names import LM_HEAD_TENSOR, Shape, all_tensors, is_ignored
from exo_lite.domain.errors import InvalidModel, UnsupportedModel
from exo_lite.domain.model_spec import ModelSpec

MAX_NAME_CHARS = 200
"""How much of a tensor's name an error quotes."""


def check_tensors(
    shapes: Mapping[str, Shape], spec: ModelSpec, *, where: str, missing_files: Sequence[str] = ()
) -> None:
    """Raise InvalidModel for a missing or misshapen tensor, UnsupportedModel for one that nothing here computes.

    `missing_files` should be there: a tensor that is missing may be in one of them.
    """
    if spec.n_layers > len(shapes):
        _refuse_missing_files(missing_files)
        raise InvalidModel(f"{where}: {len(shapes)} tensors cannot be the {spec.n_layers} layers that the config names")
    expected = all_tensors(spec)
    for name, shape in expected.items():
        if name not in shapes:
            _refuse_missing_files(missing_files)
            raise InvalidModel(f"{where}: {missing_text(name, shape)}")
        check_shape(name, shapes[name], shape, where=where)
    unexpected = sorted(name for name in shapes.keys() - expected.keys() if not _follows(name, spec))
    if unexpected:
        raise UnsupportedModel(
            f"{where}: {len(unexpected)} tensors have no part in a {spec.model_type} model as configured, "
            f"the first is {unexpected[0][:MAX_NAME_CHARS]}: this version does not run this kind of model"
        )


def check_shape(name: str, found: Shape, expected: Shape, *, where: str) -> None:
    """Raise InvalidModel where a tensor has another shape than the config gives it."""
    if found != expected:
        raise InvalidModel(f"{where}: tensor {name} has the shape {list(found)}, the config asks for {list(expected)}")


def missing_text(name: str, shape: Shape) -> str:
    """Say that a tensor is not there."""
    return f"tensor {name} is missing; expected one of shape {list(shape)}"


def _refuse_missing_files(missing_files: Sequence[str]) -> None:
    if missing_files:
        raise InvalidModel(f"{missing_files[0]} is missing: fetch it as well")


def _follows(name: str, spec: ModelSpec) -> bool:
    """Say whether a tensor follows from others: a tied model may carry a copy of its embedding as its output head."""
    return is_ignored(name) or (name == LM_HEAD_TENSOR and spec.tie_word_embeddings)
