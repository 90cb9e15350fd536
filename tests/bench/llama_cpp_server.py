"""llama.cpp's HTTP server, through xllamacpp, in the environment that peers.py makes. Prints its address, then serves.

Ends with its standard input.
"""

from __future__ import annotations

import argparse
import os
import sys

import xllamacpp  # type: ignore[import-not-found]  # only in the environment of its own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--context", type=int, required=True, help="tokens of each slot")
    arguments = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path = arguments.gguf
    params.n_parallel = arguments.slots
    params.n_ctx = arguments.context * arguments.slots
    params.cpuparams.n_threads = arguments.threads
    params.cpuparams_batch.n_threads = arguments.threads
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.verbosity = 0
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # whatever the engine prints
        server = xllamacpp.Server(params)
        answers.write(f"{server.listening_address}\n")
    sys.stdin.read()


if __name__ == "__main__":
    main()
