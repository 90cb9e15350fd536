"""pieces.json: the hashes of a stored model's pieces, kept beside its manifest once somebody has asked for them.

Names, byte ranges, types and shapes are read from the weights' own headers each time: only hashes take long to find.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from exo_lite.checkpoint.json_files import read_json_object
from exo_lite.checkpoint.piece_hashes import find_pieces, hash_pieces
from exo_lite.checkpoint.pieces import Piece
from exo_lite.domain.errors import InvalidModel
from exo_lite.store.stored_model import StoredModel

log = logging.getLogger(__name__)

PIECES_FILE = "pieces.json"
PIECES_FORMAT = 1
MAX_PIECES_BYTES = 16 << 20


def pieces_of(model: StoredModel) -> tuple[Piece, ...]:
    """Return the model's pieces with their hashes, in the order of loading. Raises InvalidModel.

    The first call reads all of the weights, about a GiB per second; later ones take the hashes from the file. A file
    that is damaged, or of other weights, is made anew.
    """
    if (model.path / PIECES_FILE).is_file():
        try:
            return _kept_pieces(model)
        except InvalidModel as error:
            log.warning("the hashes of a model's pieces are made anew", extra={"cause": str(error)})
    pieces = hash_pieces(model.path, model.spec)
    _keep(model, pieces)
    return pieces


def _kept_pieces(model: StoredModel) -> tuple[Piece, ...]:
    document = read_json_object(model.path / PIECES_FILE, max_bytes=MAX_PIECES_BYTES)
    if (document.get("format"), document.get("fingerprint")) != (PIECES_FORMAT, model.fingerprint):
        raise InvalidModel(f"{PIECES_FILE} is of another format or of other weights")
    hashes, tensor_hashes = _texts(document, "pieces"), _texts(document, "tensors")
    pieces = find_pieces(model.path, model.spec, lambda entry: str(tensor_hashes.get(entry.name)))
    if {piece.name: piece.sha256 for piece in pieces} != hashes:
        raise InvalidModel(f"{PIECES_FILE}: its hashes do not fit each other")
    return pieces


def _texts(document: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = document.get(key)
    if not isinstance(value, Mapping):
        raise InvalidModel(f"{PIECES_FILE}: {key} must be an object")
    return value


def _keep(model: StoredModel, pieces: tuple[Piece, ...]) -> None:
    """Write the file whole or not at all; a disk without room only costs the next call its time."""
    document = {
        "format": PIECES_FORMAT,
        "fingerprint": model.fingerprint,
        "pieces": {piece.name: piece.sha256 for piece in pieces},
        "tensors": {one.entry.name: one.sha256 for piece in pieces for one in piece.tensors},
    }
    try:
        with tempfile.TemporaryDirectory(dir=model.path, prefix=".") as folder:
            fresh = Path(folder) / PIECES_FILE
            fresh.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
            os.replace(fresh, model.path / PIECES_FILE)  # noqa: PTH105 - the same as Path.replace
    except OSError as error:
        log.warning("the hashes of a model's pieces are not kept for the next time", extra={"cause": str(error)})
