"""A worker's configuration, which its daemon writes as one line of JSON to its standard input."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from exo_lite.domain.credentials import Credentials
from exo_lite.domain.engine import DEFAULT_ENGINE
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.logs import LogFormat
from exo_lite.domain.shard import Shard

DEFAULT_HANG_TIMEOUT_S = 4.0
"""How long a process may be silent before it is taken for hung or unreachable."""
MIN_HANG_TIMEOUT_S = 2.0
MAX_STEP_S = 300.0
"""How long one step may be computed before the worker is taken for hung, although its other threads answer."""


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """One shard to hold, and where."""

    node_name: str
    host: str
    """Address to bind, or all; which ports it got is the worker's first line of output."""
    model_dir: str
    shard: Shard
    options: LoadOptions
    hidden_size: int
    weight_bytes: int
    kv_cache_bytes: int
    working_bytes: int
    device: str
    threads: int
    engine: str = DEFAULT_ENGINE
    log_format: LogFormat = "text"
    first_port: int = 0
    """The first port that it may bind; 0 for any free ones."""
    last_port: int = 0
    cores_may_sleep: bool = False
    """Between steps."""
    hang_timeout_s: float = DEFAULT_HANG_TIMEOUT_S
    credentials: Credentials = field(default_factory=Credentials)
    """Its node's: a pipe carries them, and no file."""

    @property
    def max_step_s(self) -> float:
        """Seconds for one step: a debugger's pause, for which `hang_timeout_s` is raised, is part of a step."""
        return max(MAX_STEP_S, self.hang_timeout_s)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> WorkerConfig:
        fields = json.loads(line)
        fields["shard"] = Shard(**fields["shard"])
        fields["options"] = LoadOptions(**fields["options"])
        fields["credentials"] = Credentials(**fields["credentials"])
        return cls(**fields)
