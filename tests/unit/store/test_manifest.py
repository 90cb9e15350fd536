from __future__ import annotations

import json
from pathlib import Path

import pytest

from exo_lite.domain.errors import InvalidModel
from exo_lite.store.manifest import MANIFEST_FILE, FileEntry, Manifest, fingerprint_of, read_manifest

ENTRIES = (FileEntry("b", 2, "22"), FileEntry("a", 1, "11"))
MANIFEST = Manifest("model", "source.gguf", 3, ENTRIES)


def test_a_manifest_reads_back(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_FILE).write_bytes(MANIFEST.to_json())
    assert read_manifest(tmp_path) == MANIFEST


def test_the_fingerprint_depends_on_names_and_contents_but_not_on_their_order() -> None:
    assert fingerprint_of(ENTRIES) == fingerprint_of(ENTRIES[::-1])
    assert fingerprint_of(ENTRIES) != fingerprint_of((FileEntry("b", 2, "22"), FileEntry("a", 1, "12")))
    assert fingerprint_of(ENTRIES) != fingerprint_of((FileEntry("c", 2, "22"), FileEntry("a", 1, "11")))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 2),
        ("id", None),
        ("source", 3),
        ("weight_bytes", -1),
        ("weight_bytes", True),
        ("fingerprint", "other"),
        ("files", {}),
        ("files", [3]),
        ("files", [{"name": "../a", "size_bytes": 1, "sha256": "11"}]),
        ("files", [{"name": "a", "size_bytes": "1", "sha256": "11"}]),
        ("files", [{"name": "a" * 300, "size_bytes": 1, "sha256": "11"}]),
        ("files", [{"name": "ä" * 128, "size_bytes": 1, "sha256": "11"}]),
        ("files", [{"name": "", "size_bytes": 1, "sha256": "11"}]),
        ("files", [{"name": ".", "size_bytes": 1, "sha256": "11"}]),
        ("files", [{"name": "..", "size_bytes": 1, "sha256": "11"}]),
        ("files", [{"name": "a\0b", "size_bytes": 1, "sha256": "11"}]),
        ("files", [{"name": "a\nb", "size_bytes": 1, "sha256": "11"}]),
        ("files", [{"name": "\ud800", "size_bytes": 1, "sha256": "11"}]),
        ("files", [{"name": "a", "size_bytes": 2**64, "sha256": "11"}]),
        ("files", [{"name": "a", "size_bytes": 1, "sha256": "11"}] * 10_001),
        ("weight_bytes", 2**64),
        ("source", "\ud800"),
        ("id", "../model"),
        ("id", "Model"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused(tmp_path: Path, key: str, value: object) -> None:
    document = {**json.loads(MANIFEST.to_json()), key: value}
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(InvalidModel, match=r"manifest\.json"):
        read_manifest(tmp_path)
