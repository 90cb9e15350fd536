"""The models on this machine's disk: a folder each, complete or not there at all."""

from __future__ import annotations

import builtins
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from exo_lite.catalog.table import load_table
from exo_lite.domain.errors import InvalidModel, InvalidRequest, ModelNotFound, StorageError
from exo_lite.domain.ids import ModelId, parse_model_id
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.store.manifest import MANIFEST_FILE, FileEntry, Manifest
from exo_lite.store.opening import open_source
from exo_lite.store.source import ModelSource, SourceFile, content_file
from exo_lite.store.staging import publish, staging_folder, sweep
from exo_lite.store.stored_model import StoredModel, read_model
from exo_lite.store.survey import Survey, Surveyor
from exo_lite.tokenizer.model_tokenizer import ModelTokenizer
from exo_lite.tokenizer.template_files import check_chat_template
from exo_lite.tokenizer.tokenizer_files import load_tokenizer

OnProgress = Callable[[int, int], None]
"""Called with the bytes written so far and those in all."""
OnNote = Callable[[str], None]
"""Called with what its user should know about a model that is taken in."""

_TRIAL_TEXT = "Hello, world! 1 2\n ä €"
_NAME_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


def free_disk_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


class ModelStore:
    """Finds, takes in and removes models. Safe for several processes at once."""

    def __init__(self, models_dir: Path, *, free_bytes: Callable[[Path], int] = free_disk_bytes) -> None:
        self.models_dir = models_dir
        self._free_bytes = free_bytes
        self._surveyor = Surveyor(models_dir)

    def survey(self) -> Survey:
        """Sound and damaged models; folders that are none are passed over. Cheap where nothing has changed.

        Raises StorageError where the folder cannot be read.
        """
        return self._surveyor.look()

    def list(self) -> builtins.list[StoredModel]:
        """Every sound model, by id. Raises StorageError."""
        return [*self.survey().models]

    def find(self, model_id: str) -> StoredModel | None:
        """The model, None where it is not here or not sound."""
        try:
            return self.get(model_id)
        except (InvalidRequest, ModelNotFound, InvalidModel):
            return None

    def get(self, model_id: str) -> StoredModel:
        """Raises ModelNotFound, InvalidRequest for an impossible id, InvalidModel for a damaged model, StorageError."""
        folder = self._folder(model_id)
        if not folder.is_dir():
            raise ModelNotFound(
                f"{model_id} is not in {self.models_dir}: `exo-lite import PATH --as {model_id}` brings it there"
            )
        try:
            return read_model(folder)
        except InvalidModel as error:
            raise InvalidModel(
                f"{model_id} in {self.models_dir} is damaged ({error}): `exo-lite rm {model_id}`, then import it again"
            ) from error

    def import_path(
        self, source: Path, name: str, on_progress: OnProgress, on_note: OnNote = lambda text: None
    ) -> StoredModel:
        """Take in a model in any form that `open_source` knows; visible once it is complete, else nothing stays.

        It is kept where requests for `name` go: under the id of the shard table's row where this is an alias.
        Raises InvalidRequest, InvalidModel, UnsupportedModel, StorageError.
        """
        model_id = load_table().id_of(name)
        folder = self._folder(model_id)
        with _storage_errors(f"import of {source.name}"):
            self._refuse_existing(folder)
            model = open_source(source)
            for note in (*_name_notes(name, model_id, model.spec), *model.notes):
                on_note(note)
            self.models_dir.mkdir(parents=True, exist_ok=True)
            sweep(self.models_dir)
            self._check_space(model, model_id)
            with staging_folder(self.models_dir, model_id) as staged:
                _write_model(staged, model, model_id, on_progress)
                self._publish(staged, folder)
        return self.get(model_id)

    def remove(self, name: str) -> ModelId:
        """The id of what was removed. Raises ModelNotFound, StorageError. A damaged model can be removed too."""
        model_id = self._id_to_remove(name)
        folder = self._folder(model_id)
        if not folder.is_dir():
            raise ModelNotFound(f"{model_id} is not in {self.models_dir}: nothing to remove")
        with _storage_errors(f"removal of {model_id}"), staging_folder(self.models_dir, model_id) as staged:
            folder.rename(staged / folder.name)
        return model_id

    def _id_to_remove(self, name: str) -> ModelId:
        """A folder that is named like an alias can be removed under its own name: nothing else reaches it."""
        with suppress(InvalidRequest):
            if self._folder(name).is_dir():
                return ModelId(name)
        return load_table().id_of(name)

    def _folder(self, model_id: str) -> Path:
        return self.models_dir / parse_model_id(model_id)

    def _refuse_existing(self, folder: Path) -> None:
        if folder.exists():
            raise InvalidRequest(
                f"{folder.name} is in {self.models_dir} already: remove it (`exo-lite rm {folder.name}`) "
                "or choose another id (`--as ID`)",
                param="model",
            )

    def _check_space(self, model: ModelSource, model_id: str) -> None:
        free_bytes = self._free_bytes(self.models_dir)
        if model.size_bytes > free_bytes:
            raise StorageError(
                f"{model_id} needs {model.size_bytes} bytes in {self.models_dir}, where {free_bytes} are free: "
                f"free {model.size_bytes - free_bytes} more, or choose another folder with --models-dir"
            )

    def _publish(self, staged: Path, folder: Path) -> None:
        try:
            publish(staged, folder)
        except OSError as error:
            if error.errno in _NAME_TAKEN:  # another import of the same id was faster
                self._refuse_existing(folder)
            raise


@contextmanager
def _storage_errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{what} failed: {error}; check the disk's space and permissions") from error


def _name_notes(name: str, model_id: ModelId, spec: ModelSpec) -> Iterator[str]:
    if name != model_id:
        yield f"{name} is another name of {model_id}: kept as {model_id}, for requests by either name"
    row = load_table().find(model_id)
    if row is not None and (differences := row.differences(spec)):
        yield (
            f"this is not the model that {model_id} stands for ({', '.join(differences)}), and yet requests for "
            f"{', '.join(row.names)} are now answered by it: choose another id (`--as ID`) if that is not meant"
        )


def _write_model(folder: Path, model: ModelSource, model_id: str, on_progress: OnProgress) -> None:
    num_written = 0

    def count(num_bytes: int) -> None:
        nonlocal num_written
        num_written += num_bytes
        on_progress(num_written, model.size_bytes)

    entries = tuple(_write_file(folder, file, count) for file in model.files)
    tokenizer = load_tokenizer(folder)  # what cannot be used is refused now, not at the first prompt
    _check_vocabulary(tokenizer, model.spec)
    tokenizer.decode(tokenizer.encode(_TRIAL_TEXT))
    check_chat_template(folder, tokenizer.special)
    manifest = Manifest(model_id, model.name, model.weight_bytes, entries)
    _write_file(folder, content_file(MANIFEST_FILE, manifest.to_json()), lambda num_bytes: None)


def _check_vocabulary(tokenizer: ModelTokenizer, spec: ModelSpec) -> None:
    """Tokens beyond the embedding, which padding often is, are refused when a prompt has one; BOS would always be."""
    bos_token_id = tokenizer.special.bos_token_id
    if bos_token_id is not None and bos_token_id >= spec.vocab_size:
        raise InvalidModel(
            f"the tokenizer's first token has id {bos_token_id}, beyond the model's {spec.vocab_size} tokens: "
            "these tokenizer files are another model's"
        )


def _write_file(folder: Path, file: SourceFile, on_written: Callable[[int], None]) -> FileEntry:
    digest = hashlib.sha256()
    with (folder / file.name).open("xb") as target:
        for chunk in file.chunks():
            target.write(chunk)
            digest.update(chunk)
            on_written(len(chunk))
        size_bytes = target.tell()
        target.flush()
        os.fsync(target.fileno())
    if size_bytes != file.size_bytes:
        raise InvalidModel(
            f"{file.name} came to {size_bytes} bytes, not {file.size_bytes}: it changed while it was read, try again"
        )
    return FileEntry(file.name, size_bytes, digest.hexdigest())
