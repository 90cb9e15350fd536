"""What a quantization costs: perplexity, and how often the likeliest token is the same as in float32.

    python -m tests.bench.quality [--model smollm2-135m] [--quant none int8 int4] [--windows 12] [--threads 2]

The text is that of Python's own help topics (`pydoc_data.topics`, the values in the order of their keys), cut into
windows of 1,024 tokens. Each window goes through the whole model as a prompt does, in chunks; perplexity is over every
token of a window but its first. The float32 pass is the reference. About a minute a pass for smollm2-135m.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import torch
from torch import Tensor

from exo_lite.domain.load_options import LoadRequest
from exo_lite.domain.step import PREFILL_CHUNK_TOKENS, SequenceChunk
from exo_lite.tokenizer.tokenizer_files import load_tokenizer
from tests.bench.loading import WholeModel, load_whole
from tests.bench.models import MODEL_NAMES, MODELS_DIR, SMOLLM2, model_folder

WINDOW_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over the text: the mean negative log-likelihood in nats, and the likeliest token at each position."""

    mean_nll: float
    likeliest: Tensor

    @property
    def perplexity(self) -> float:
        return math.exp(self.mean_nll)

    def agreement(self, reference: Pass) -> float:
        """Share of positions where the likeliest token is the reference's."""
        return float((self.likeliest == reference.likeliest).double().mean())


def windows_of(token_ids: Sequence[int], num_windows: int, size: int = WINDOW_TOKENS) -> list[list[int]]:
    """The first windows of `size` tokens, one behind the other."""
    if len(token_ids) < num_windows * size:
        raise SystemExit(f"the text has {len(token_ids)} tokens: enough for {len(token_ids) // size} windows")
    return [list(token_ids[start : start + size]) for start in range(0, num_windows * size, size)]


def run_pass(model: WholeModel, windows: Sequence[Sequence[int]]) -> Pass:
    losses, likeliest = [], []
    for window in windows:
        for logits, targets in _chunks(model, window):
            likeliest.append(logits.argmax(dim=-1))
            losses.append(torch.nn.functional.cross_entropy(logits[: len(targets)], targets, reduction="none"))
    return Pass(float(torch.cat(losses).double().mean()), torch.cat(likeliest))


def _chunks(model: WholeModel, window: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits of a chunk's positions, and the tokens that follow them; the window's last has none."""
    token_ids = torch.tensor(window)
    for start in range(0, len(window), PREFILL_CHUNK_TOKENS):
        part = token_ids[start : start + PREFILL_CHUNK_TOKENS]
        chunk = SequenceChunk(0, start, len(part))
        hidden_states = model.shard.forward(part, [chunk], model.kv_cache)
        yield model.shard.logits(hidden_states), token_ids[start + 1 : start + 1 + len(part)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODEL_NAMES, default=SMOLLM2)
    parser.add_argument("--models-dir", type=Path, default=MODELS_DIR, help="default: .cache/bench-models")
    parser.add_argument(
        "--quant", nargs="*", choices=["none", "int8", "int4", "w8a8"], default=["none", "int8", "int4"]
    )
    parser.add_argument("--windows", type=int, default=12, help=f"of {WINDOW_TOKENS} tokens")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    folder = model_folder(arguments.model, arguments.models_dir)
    text = "".join(topics[key] for key in sorted(topics))
    windows = windows_of(load_tokenizer(folder).encode(text, add_bos=False), arguments.windows)
    reference = _told("float32", folder, LoadRequest("float32"), windows)
    rows = [_row("float32", reference, reference)]
    for quant in arguments.quant:
        request = LoadRequest(None, quant)
        label = f"{arguments.model}'s own dtype" if quant == "none" else quant
        rows.append(_row(label, _told(label, folder, request, windows), reference))
    print(f"\n{arguments.model}, {arguments.windows} windows of {WINDOW_TOKENS} tokens\n")
    print("| | perplexity | against float32 | likeliest token the same |\n|---|---|---|---|", *rows, sep="\n")


def _told(label: str, folder: Path, request: LoadRequest, windows: Sequence[Sequence[int]]) -> Pass:
    began_s = time.monotonic()
    sized = LoadRequest(request.dtype, request.quant, WINDOW_TOKENS, 1)
    done = run_pass(load_whole(folder, sized), windows)
    print(f"{label}: perplexity {done.perplexity:.3f}, {time.monotonic() - began_s:.0f} s", flush=True)
    return done


def _row(label: str, done: Pass, reference: Pass) -> str:
    change = done.perplexity / reference.perplexity - 1
    return f"| {label} | {done.perplexity:.3f} | {change:+.2%} | {done.agreement(reference):.4f} |"


if __name__ == "__main__":
    main()
