"""exo_lite's engine beside llama.cpp and transformers on the same model, measured in turn in one run.

    python -m tests.bench.compare [--only NAME ...] [--rounds 5] [--list]

Each row holds two engines in memory and measures them alternately, so that both meet the same noise; it prints each
round, and at the end a markdown table of medians, their ratio, and the least and greatest ratio of a round. --list
shows the rows; --only takes some of them, so that a long run can be done in parts. The models are made on the first
use: 1b needs 10 GB of disk for all rows. About two minutes a row.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.bench.contender import Contender, Task
from tests.bench.engine import EngineCase, start_engine
from tests.bench.models import MODELS_DIR, SMOLLM2
from tests.bench.peers import PeerCase, start_peer
from tests.bench.shapes import shape_names

DECODED_TOKENS = 48

DECODE = Task("decode", DECODED_TOKENS)
DECODE_8 = Task("decode", DECODED_TOKENS, batch=8)
PREFILL_512 = Task("prefill", 512)
BANDWIDTH = Task("bandwidth")

Case = EngineCase | PeerCase


@dataclass(frozen=True, slots=True)
class Side:
    """One engine and what it is measured at."""

    case: Case
    task: Task

    def __str__(self) -> str:
        return f"{self.case}: {self.task}"


@dataclass(frozen=True, slots=True)
class Row:
    """`is_bytes`: decode counts in bytes of weights read per second, to be set against a read bandwidth."""

    name: str
    ours: Side
    theirs: Side
    is_bytes: bool = False

    @property
    def unit(self) -> str:
        return "GB/s" if self.is_bytes else "tokens/s"


def rows(model: str = "1b") -> list[Row]:
    one, two, bfloat16 = EngineCase(model, "int8", 1), EngineCase(model, "int8", 2), EngineCase(model, "none", 2)
    q8_0, small = PeerCase(model, "q8_0", 2), EngineCase(SMOLLM2, "int8", 2)
    return [
        Row("decode-1-thread", Side(one, DECODE), Side(PeerCase(model, "q8_0", 1), DECODE)),
        Row("decode-2-threads", Side(two, DECODE), Side(q8_0, DECODE)),
        Row("bandwidth-1-thread", Side(one, DECODE), Side(one, BANDWIDTH), is_bytes=True),
        Row("bandwidth-2-threads", Side(two, DECODE), Side(two, BANDWIDTH), is_bytes=True),
        Row("prefill", Side(two, PREFILL_512), Side(q8_0, PREFILL_512)),
        Row("prefill-w8a8", Side(EngineCase(model, "w8a8", 2), PREFILL_512), Side(q8_0, PREFILL_512)),
        Row("batch", Side(two, DECODE_8), Side(two, DECODE)),
        Row("smollm2", Side(small, DECODE), Side(PeerCase(SMOLLM2, "q4_1", 2), DECODE)),
        Row("bf16-llama.cpp", Side(bfloat16, DECODE), Side(PeerCase(model, "bf16", 2), DECODE)),
        Row("bf16-transformers", Side(bfloat16, DECODE), Side(PeerCase(model, "bfloat16", 2), DECODE)),
    ]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Both sides' results, a pair per round."""

    row: Row
    pairs: tuple[tuple[float, float], ...]

    @property
    def medians(self) -> tuple[float, float]:
        ours, theirs = zip(*self.pairs, strict=True)
        return statistics.median(ours), statistics.median(theirs)

    @property
    def ratio(self) -> float:
        ours, theirs = self.medians
        return ours / theirs

    @property
    def ratio_range(self) -> tuple[float, float]:
        ratios = [ours / theirs for ours, theirs in self.pairs]
        return min(ratios), max(ratios)


def table(outcomes: Sequence[Outcome]) -> str:
    lines = ["| row | ours | | beside | | ratio | of a round |", "|---|---|---|---|---|---|---|"]
    for outcome in outcomes:
        row, (ours, theirs), (least, most) = outcome.row, outcome.medians, outcome.ratio_range
        figures = f"{row.ours} | {ours:.1f} {row.unit} | {row.theirs} | {theirs:.1f} {row.unit}"
        lines.append(f"| {row.name} | {figures} | {outcome.ratio:.2f} | {least:.2f} to {most:.2f} |")
    return "\n".join(lines)


def measure(row: Row, rounds: int, models_dir: Path) -> Outcome:
    """Start both engines, warm both up, then measure them in turn."""
    with ExitStack() as stack:
        ours = stack.enter_context(start(row.ours.case, models_dir))
        is_one = row.theirs.case == row.ours.case
        theirs = ours if is_one else stack.enter_context(start(row.theirs.case, models_dir))
        for contender in {id(one): one for one in (ours, theirs)}.values():
            print(f"{row.name}: {contender.name}: {contender.loaded.description}", flush=True)
        pairs = [_round(row, ours, theirs) for _ in range(rounds + 1)][1:]
    for number, (one, other) in enumerate(pairs, start=1):
        print(f"{row.name}, round {number}: {one:.1f} beside {other:.1f} {row.unit}", flush=True)
    return Outcome(row, tuple(pairs))


def _round(row: Row, ours: Contender, theirs: Contender) -> tuple[float, float]:
    return _result(row, row.ours.task, ours), _result(row, row.theirs.task, theirs)


def _result(row: Row, task: Task, contender: Contender) -> float:
    """Tokens/s or GB/s."""
    result = contender.measure(task)
    if not row.is_bytes:
        return result
    return (result if task.kind == "bandwidth" else result * contender.loaded.weight_bytes / task.batch) / 1e9


def start(case: Case, models_dir: Path) -> Contender:
    return start_engine(case, models_dir) if isinstance(case, EngineCase) else start_peer(case, models_dir)


def main() -> None:
    names = [row.name for row in rows()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", choices=shape_names(), default="1b", help="instead of 1b; tiny tries the rows out")
    parser.add_argument("--models-dir", type=Path, default=MODELS_DIR, help="default: .cache/bench-models")
    parser.add_argument("--list", action="store_true", help="show the rows and end")
    arguments = parser.parse_args()
    chosen = [row for row in rows(arguments.model) if row.name in arguments.only]
    if arguments.list:
        print(*(f"{row.name}: {row.ours} beside {row.theirs}" for row in chosen), sep="\n")
        return
    outcomes: list[Outcome] = []
    for row in chosen:
        outcomes.append(measure(row, arguments.rounds, arguments.models_dir))
        print(f"\n{table(outcomes)}\n", flush=True)


if __name__ == "__main__":
    main()
