"""A new load option touches two files, and is everywhere: proven with one, in a copy of the program."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

DECLARATION = "exo_lite/domain/load_options.py"
DECLARED = [
    (
        "    @property\n    def num_sequences",
        '    colour: Literal["red", "blue"] = field(default="red", metadata={"help": "Paint."})\n',
    ),
    ("    keep_alive_s: float | None = None\n", '    colour: Literal["red", "blue"] | None = None\n'),
]
MESSAGE = "proto/exo_lite/transport/v1/cluster.proto"
SENT = [("  optional bool speculation = 7;\n", "  optional string colour = 99;\n")]

JOURNEY = """
import json

import click

from exo_lite.api.load_bodies import LoadBody
from exo_lite.cli.load_flags import load_body, load_options
from exo_lite.domain.errors import MalformedMessage
from exo_lite.domain.ids import Epoch, ModelId, NodeId
from exo_lite.domain.load_options import LoadRequest, options_to_json
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.placement import Instance, Placement
from exo_lite.domain.plan import Assignment
from exo_lite.domain.shard import Shard
from exo_lite.domain.worker import WorkerConfig
from exo_lite.transport.cluster_codec import load_request_from_proto, load_request_to_proto
from exo_lite.transport.placement_file import placement_from_json, placement_to_json
from exo_lite.transport.v1 import node_pb2

spec = ModelSpec("llama", 2, 8, 16, 2, 1, 4, 32, 64)


@click.command()
@load_options
def parse(request):
    return load_body(request)


def sent(request):
    content = load_request_to_proto(ModelId("m"), request).SerializeToString()
    return load_request_from_proto(node_pb2.PlaceRequest.FromString(content))[1]


def stored(options):
    shard = Shard(ModelId("m"), 0, 1, 2)
    parts = (Assignment(NodeId("a"), "a", shard, 1, 2, 3),)
    instance = Instance(ModelId("m"), "f", spec, Epoch(1), options, parts, "ready")
    text = placement_to_json(Placement(NodeId("a"), Epoch(1), 0, (instance,)))
    return placement_from_json(text).instances[0].options, json.loads(text)["instances"][0]["options"]


def configured(options):
    config = WorkerConfig("a", "127.0.0.1", "/m", Shard(ModelId("m"), 0, 1, 2), options, 8, 1, 2, 3, "cpu", 1)
    return WorkerConfig.from_json(config.to_json()).options


def journey(*flags):
    body = parse.main(list(flags), standalone_mode=False)
    request = sent(LoadBody.model_validate(body).load_request())
    options, in_file = stored(request.resolve(spec))
    document = options_to_json(options)
    return [body.get("colour"), request.colour, in_file["colour"], document["colour"], configured(options).colour]


def refused():
    try:
        sent(LoadRequest(colour="green"))
    except MalformedMessage as error:
        return str(error)


print(json.dumps({"asked": journey("--colour", "blue"), "open": journey(), "refused": refused()}))
"""


def insert(path: Path, lines: list[tuple[str, str]]) -> None:
    """Put each new line before or, for a message, after the place that is there."""
    text = path.read_text(encoding="utf-8")
    for place, line in lines:
        assert text.count(place) == 1, place
        text = text.replace(place, place + line if path.suffix == ".proto" else line + place)
    path.write_text(text, encoding="utf-8")


def run(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_new_option_is_declared_in_two_files_and_arrives_everywhere(tmp_path: Path) -> None:
    for name in ("exo_lite", "proto"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    insert(tmp_path / DECLARATION, DECLARED)
    insert(tmp_path / MESSAGE, SENT)
    run(tmp_path, "proto/generate.py")
    arrived = json.loads(run(tmp_path, "-c", JOURNEY))
    assert arrived["asked"] == ["blue"] * 5
    assert arrived["open"] == [None, None, "red", "red", "red"]
    assert "'green' is none of red, blue" in arrived["refused"]
    shown = " ".join(run(tmp_path, "-m", "exo_lite", "load", "--help").split())
    assert "--colour [red|blue] Paint. [default: red]" in shown
