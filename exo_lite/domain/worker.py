"""What a daemon tells a worker at its start, as one line of JSON on its standard input."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from exo_lite.domain.logs import LogFormat
from exo_lite.domain.plan import LoadOptions
from exo_lite.domain.shard import Shard


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """One shard to hold, and where."""

    node_name: str
    host: str
    """Address to bind; the port is the system's choice, and the worker's first line of output."""
    model_dir: str
    shard: Shard
    options: LoadOptions
    hidden_size: int
    weight_bytes: int
    kv_cache_bytes: int
    working_bytes: int
    device: str
    threads: int
    log_format: LogFormat = "text"
    cores_may_sleep: bool = False
    """Between steps."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> WorkerConfig:
        fields = json.loads(line)
        fields["shard"] = Shard(**fields["shard"])
        fields["options"] = LoadOptions(**fields["options"])
        return cls(**fields)
