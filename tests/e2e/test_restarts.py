"""What somebody loaded comes back after restarts: real daemons, killed and started again."""

from __future__ import annotations

from typing import Any

from tests.daemons import Daemons, wait_until

MODEL = "smollm2-135m"
LOAD: dict[str, Any] = {"quant": "int8", "context": 512, "slots": 2}
MEMORY = {"a": "300MiB", "b": "300MiB"}


def as_asked(model: dict[str, Any]) -> bool:
    return (model["quant"], model["context_length"], model["slots"], model["keep_alive_s"]) == ("int8", 512, 2, None)


def test_a_pinned_model_survives_the_restart_of_one_node_and_of_all_and_unload_forgets_it(own_daemons: Daemons):
    a, _ = own_daemons.start_all(MEMORY)
    assert as_asked(a.load(MODEL, **LOAD))

    own_daemons.nodes["b"].kill()
    b = own_daemons.start("b", memory=MEMORY["b"])
    own_daemons.wait_joined(timeout_s=30.0)
    assert as_asked(b.wait_ready(MODEL))

    for name in MEMORY:
        own_daemons.nodes[name].kill()
    a, b = (own_daemons.start(name, memory=size) for name, size in MEMORY.items())
    assert as_asked(wait_until(lambda: _ready(a), "ready after a restart of all", timeout_s=60.0))
    assert b.chat(MODEL, "Hello", max_tokens=3)["choices"]

    assert a.post(f"/api/v1/models/{MODEL}/unload").status_code < 300
    wait_until(lambda: b.model(MODEL) is None, "unloaded everywhere")
    for name in MEMORY:
        own_daemons.nodes[name].kill()
    a, b = (own_daemons.start(name, memory=size) for name, size in MEMORY.items())
    own_daemons.wait_joined(timeout_s=30.0)
    assert a.model(MODEL) is None


def _ready(node: Any) -> dict[str, Any] | None:
    model: dict[str, Any] | None = node.model(MODEL)
    return model if model and model["state"] == "ready" else None
