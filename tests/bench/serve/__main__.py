"""Serving under load: streamed answers of real nodes over the OpenAI API, beside each other and llama.cpp's server.

    python -m tests.bench.serve --case two-nodes|llama.cpp|long-prompt|second-turn|soak|overload [--model 1b]

Prompts, lengths and arrivals come from --seed. Each case starts what it needs on loopback and prints, for each round,
requests, errors, refusals, tokens/s while all clients had work, time to first token and between tokens as clients see
them; at the end the figures that have a bar. Two contenders are measured in turn, after a round that warms both up.

two-nodes    2 nodes x 1 thread against 1 node x 2 threads, --clients that ask one after the other
llama.cpp    both of these against llama.cpp's server, 2 threads and as many slots, --gguf-kind
long-prompt  a prompt of 2,000 tokens among 4 answers: time between their tokens, during : before
second-turn  a chat of 2,000 tokens: time to first token, second turn : first
soak         64 clients for --seconds (default 600), a tenth hang up: errors, KV blocks lost, growth of memory
overload     arrivals at 3 x the capacity of the --seconds (default 60) before them: answers in time, time to refuse
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import get_args

from exo_lite.domain.load_options import Strategy
from tests.bench.models import MODEL_NAMES, MODELS_DIR
from tests.bench.serve.cases import CASES, Options
from tests.bench.serve.servers import Setting

DEFAULT_SECONDS = {"soak": 600.0, "overload": 60.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=CASES, required=True)
    parser.add_argument("--model", choices=MODEL_NAMES, default="1b")
    parser.add_argument("--models-dir", type=Path, default=MODELS_DIR, help="default: .cache/bench-models")
    parser.add_argument("--quant", choices=["none", "int8", "int4"], default="int8")
    parser.add_argument("--gguf-kind", default="q8_0", help="of llama.cpp's file; smollm2-135m has its own, Q4_1")
    parser.add_argument("--context", type=int, default=2560)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--strategy", choices=get_args(Strategy), default="by_work")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=4, help="of each client in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, help="of a soak or an open loop")
    parser.add_argument("--seed", default="0")
    arguments = parser.parse_args()
    setting = Setting(
        arguments.model,
        arguments.models_dir,
        arguments.quant,
        arguments.gguf_kind,
        arguments.context,
        arguments.slots,
        arguments.strategy,
    )
    findings = []
    for name in arguments.case:
        with tempfile.TemporaryDirectory() as folder:
            seconds = arguments.seconds or DEFAULT_SECONDS.get(name, 0.0)
            options = Options(
                setting,
                Path(folder),
                clients=arguments.clients,
                requests=arguments.requests,
                rounds=arguments.rounds,
                seconds=seconds,
                seed=arguments.seed,
            )
            print(f"\n{name}: {arguments.model} {arguments.quant}", flush=True)
            findings += CASES[name](options)
    print("\n| what | found | bar | met |\n|---|---|---|---|", *(one.line() for one in findings), sep="\n")


if __name__ == "__main__":
    main()
