"""A model's folder of safetensors files: finds tensors by name, and opens only the files that hold them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from exo_lite.checkpoint.safetensors_file import STORED_DTYPES, TensorEntry, read_header
from exo_lite.checkpoint.tensor_checks import check_shape, missing_text
from exo_lite.checkpoint.tensor_names import Shape
from exo_lite.checkpoint.weight_index import INDEX_FILE, SINGLE_FILE, read_weight_map
from exo_lite.domain.errors import InvalidModel, UnsupportedModel


class Checkpoint:
    """The tensors of a folder. Raises InvalidModel that names folder and file."""

    def __init__(self, model_dir: Path) -> None:
        self._model_dir = model_dir
        self._headers: dict[str, Mapping[str, TensorEntry]] = {}
        self._files = self._find_files()

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._files)

    def entry(self, name: str, shape: Shape) -> TensorEntry:
        """The tensor of this name, of this shape and a type that can be read.

        Raises InvalidModel, UnsupportedModel for another type.
        """
        file_name = self._files.get(name)
        if file_name is None:
            raise InvalidModel(f"{self._model_dir}: {missing_text(name, shape)}")
        entry = self._header(file_name).get(name)
        if entry is None:
            raise InvalidModel(f"{self._model_dir / file_name}: no tensor {name}, which {INDEX_FILE} says it holds")
        _check(entry, shape)
        return entry

    def _find_files(self) -> dict[str, str]:
        if (self._model_dir / SINGLE_FILE).is_file():
            return dict.fromkeys(self._header(SINGLE_FILE), SINGLE_FILE)
        if not (self._model_dir / INDEX_FILE).is_file():
            raise InvalidModel(f"{self._model_dir}: neither {SINGLE_FILE} nor {INDEX_FILE} is there")
        try:
            return read_weight_map(self._model_dir)
        except InvalidModel as error:
            raise InvalidModel(f"{self._model_dir}: {error}") from error

    def _header(self, file_name: str) -> Mapping[str, TensorEntry]:
        if file_name not in self._headers:
            path = self._model_dir / file_name
            try:
                self._headers[file_name] = read_header(path, where=str(path))
            except OSError as error:
                raise InvalidModel(f"{path}: cannot be read ({error})") from error
        return self._headers[file_name]


def _check(entry: TensorEntry, shape: Shape) -> None:
    check_shape(entry.name, entry.shape, shape, where=str(entry.path))
    if entry.dtype not in STORED_DTYPES:
        raise UnsupportedModel(
            f"{entry.path}: tensor {entry.name} is of type {entry.dtype}; only {', '.join(STORED_DTYPES)} can be read"
        )
