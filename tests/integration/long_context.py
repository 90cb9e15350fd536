"""Fill a context to its end and decode there: python -m tests.integration.long_context FOLDER QUANT CONTEXT.

Prints the bytes that planning promised and those that the process took beyond an empty one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from exo_lite.catalog.hf_config import spec_from_config
from exo_lite.domain.ids import ModelId
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.model_spec import Quantization
from exo_lite.domain.shard import Shard
from exo_lite.domain.step import PREFILL_CHUNK_TOKENS, SequenceChunk
from exo_lite.engine.torch_c.open_shard import open_shard
from tests.planned import shard_bytes


def peak_bytes() -> int:
    """Of this process's resident memory so far."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def warm_up() -> None:
    """Whatever torch sets up at its first products is not the model's."""
    torch.nn.functional.linear(torch.randn(64, 64, dtype=torch.bfloat16), torch.randn(64, 64, dtype=torch.bfloat16))
    torch._int_mm(torch.ones((32, 64), dtype=torch.int8), torch.ones((64, 64), dtype=torch.int8))


def run(folder: Path, quant: Quantization, context_length: int) -> dict[str, int]:
    spec = spec_from_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    shard = Shard(ModelId("long"), 0, spec.n_layers - 1, spec.n_layers)
    options = LoadOptions("bfloat16", quant, context_length, num_slots=1)
    planned = shard_bytes(spec, shard, options)
    warm_up()
    before = peak_bytes()
    model = open_shard(folder, spec, shard, options, device="cpu", on_progress=lambda _: None)
    cache = model.new_cache(options.num_slots, options.context_length, options.num_sequences)
    token_ids = torch.randint(0, spec.vocab_size, (context_length,), generator=torch.Generator().manual_seed(0))
    for start in range(0, context_length - 2, PREFILL_CHUNK_TOKENS):
        part = token_ids[start : min(start + PREFILL_CHUNK_TOKENS, context_length - 2)]
        hidden = model.forward(part, [SequenceChunk(0, start, len(part))], cache)
    for position in (context_length - 2, context_length - 1):
        hidden = model.forward(token_ids[position:][:1], [SequenceChunk(0, position, 1)], cache)
    model.logits(hidden)
    return {"planned": planned.memory_bytes, "taken": peak_bytes() - before, "length": cache.length(0)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))  # type: ignore[arg-type]  # argv
