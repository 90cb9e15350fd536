"""What people do with the models folder while daemons run: import and load at once, other names, damage."""

from __future__ import annotations

import json
import time
from pathlib import Path
from random import Random

import numpy as np
import pytest

from exo_lite.store.model_store import ModelStore
from tests.daemons import Daemons, Node, run_cli, wait_until
from tests.damage import damaged_json
from tests.unit.store.tiny_models import SPEC, random_tensors, recipe_for, write_hf_folder

NUM_MANIFESTS = 1000
LIVES_WITHIN_S = 0.1
"""For /health to answer."""


@pytest.fixture
def tiny_gguf(tmp_path: Path) -> Path:
    return recipe_for(SPEC).write(tmp_path / "tiny.gguf")


@pytest.fixture
def empty(tmp_path: Path) -> Daemons:
    """Daemons whose models folder is empty."""
    return Daemons(tmp_path / "cluster", tmp_path / "models")


def test_a_model_can_be_loaded_the_moment_it_is_imported(empty: Daemons, tiny_gguf: Path) -> None:
    """Ten times over, since daemons look at their folder by themselves twice a second."""
    with empty as cluster:
        nodes = cluster.start_all({"a": "64MiB", "b": "64MiB"})
        store = ModelStore(empty.models_dir)
        for number in range(10):
            model_id = f"tiny-{number}"
            store.import_path(tiny_gguf, model_id, lambda num_written, num_bytes: None)
            reply = nodes[number % 2].post(f"/api/v1/models/{model_id}/load", {"context": 8, "slots": 1})
            assert reply.status_code == 202, reply.text
            nodes[number % 2].post(f"/api/v1/models/{model_id}/unload")
            store.remove(model_id)


def test_every_node_counts_for_what_each_has_just_imported(tmp_path: Path, tiny_gguf: Path) -> None:
    """As `exo-lite import X --as a && exo-lite load a` on one of two machines, each with a folder of its own."""
    with Daemons(tmp_path / "cluster", tmp_path / "unused") as cluster:
        folders = {name: tmp_path / f"models-{name}" for name in ("a", "b")}
        for name, folder in folders.items():
            cluster.start(name, memory="64MiB", flags=["--models-dir", str(folder)])
        cluster.wait_joined()
        for folder in folders.values():
            ModelStore(folder).import_path(tiny_gguf, "tiny", lambda num_written, num_bytes: None)
        reply = cluster.nodes["a"].post("/api/v1/models/tiny/load", {"context": 8, "slots": 1})
        assert reply.status_code == 202, reply.text
        model = wait_until(lambda: cluster.nodes["a"].model("tiny"), "it is placed")
        assert sorted(shard["node"] for shard in model["shards"]) == ["a", "b"]


def test_requests_by_every_name_are_answered_by_what_was_imported_under_one(empty: Daemons, tiny_gguf: Path) -> None:
    folder = str(empty.models_dir)
    imported = run_cli("import", str(tiny_gguf), "--as", "llama-3.2-1b-instruct", "--models-dir", folder)
    assert imported.returncode == 0, imported.stderr
    assert imported.stdout.startswith("llama-3.2-1b: 2 layers")
    assert "llama-3.2-1b-instruct is another name of llama-3.2-1b" in imported.stderr
    assert "not the model that llama-3.2-1b stands for (2 num_hidden_layers, not 16" in imported.stderr
    with empty as cluster:
        node = cluster.start("a", memory="64MiB")
        reply = node.post("/api/v1/models/llama-3.2-1b-instruct/load", {"context": 32, "slots": 1})
        assert reply.status_code == 202, reply.text
        for name in ("llama-3.2-1b-instruct", "meta-llama/Llama-3.2-1B-Instruct", "llama-3.2-1b"):
            assert node.chat(name, "ab", max_tokens=2)["usage"]["completion_tokens"] >= 1


@pytest.mark.timeout(180)
def test_a_daemon_lives_with_a_thousand_random_manifests(empty: Daemons, tmp_path: Path) -> None:
    folder = write_hf_folder(tmp_path / "tiny-llama", SPEC, random_tensors(SPEC))
    store = ModelStore(empty.models_dir)
    store.import_path(folder, "sound", lambda num_written, num_bytes: None)
    document = json.loads((empty.models_dir / "sound" / "manifest.json").read_bytes())
    random = Random(12)
    for number in range(NUM_MANIFESTS):
        model_dir = empty.models_dir / f"damaged-{number}"
        model_dir.mkdir()
        changed = damaged_json(document | {"id": model_dir.name}, random)
        (model_dir / "manifest.json").write_bytes(changed)
    with empty as cluster:
        node = cluster.start("a", memory="64MiB")
        wait_until(lambda: node.get("/v1/models/sound").status_code == 200, "the sound model is listed")
        waits_s = [_health_s(node) for _ in range(50)]
        assert np.median(waits_s) < LIVES_WITHIN_S
        node.load("sound", context=8, slots=1)
        told = [event for event in node.state()["events"] if event["kind"] == "model_damaged"]
        assert "more models cannot be used here" in told[-1]["text"]
        assert node.stop() == 0
    log = node.log_path.read_text(encoding="utf-8")
    assert "Traceback" not in log
    assert "failed, and goes on" not in log


def _health_s(node: Node) -> float:
    started_s = time.monotonic()
    assert node.get("/health").status_code == 200
    return time.monotonic() - started_s
