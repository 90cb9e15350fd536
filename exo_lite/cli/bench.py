"""`bench`: how fast a model answers on this cluster."""

from __future__ import annotations

import secrets
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click

from exo_lite.cli.config_file import Verb
from exo_lite.cli.errors import WrongUsage
from exo_lite.cli.load_flags import load_options
from exo_lite.cli.options import DaemonAddress, Decorator, daemon_options, grouped, json_option
from exo_lite.cli.output import note, print_json, table
from exo_lite.domain.load_options import DEFAULT_CONTEXT_LENGTH, DEFAULT_NUM_SLOTS, MAX_NUM_SLOTS, LoadRequest

if TYPE_CHECKING:
    from exo_lite.cli.client import DaemonClient, Document
    from exo_lite.cli.measuring import RunResult, Shape

MAX_CONCURRENCY = 64
WARM_UP_PROMPT_TOKENS = 16


def _shape(prompt_tokens: int, tokens: int, concurrency: int) -> Shape:
    from exo_lite.cli.measuring import Shape

    return Shape(prompt_tokens, tokens, concurrency)


shape_options: Decorator = grouped(
    "shape",
    {
        "prompt_tokens": click.option(
            "--prompt-tokens",
            type=click.IntRange(min=1),
            default=128,
            show_default=True,
            help="Length of each prompt: random token ids.",
        ),
        "tokens": click.option(
            "--tokens",
            type=click.IntRange(min=2),
            default=64,
            show_default=True,
            help="Length of each answer: end tokens are ignored.",
        ),
        "concurrency": click.option(
            "--concurrency",
            type=click.IntRange(1, min(MAX_CONCURRENCY, MAX_NUM_SLOTS)),
            default=1,
            show_default=True,
            help="Streams that run at the same time.",
        ),
    },
    _shape,
)


@click.command(cls=Verb)
@click.argument("model")
@shape_options
@click.option("--repeat", type=click.IntRange(min=1), default=3, show_default=True, help="Runs to measure.")
@click.option(
    "--seed", type=click.IntRange(0, 2**64 - 1), help="The same seed gives the same prompts.  [default: random]"
)
@load_options
@json_option
@daemon_options
def bench(
    model: str,
    *,
    shape: Shape,
    repeat: int,
    seed: int | None,
    request: LoadRequest,
    as_json: bool,
    daemon: DaemonAddress,
) -> None:
    """Measure how fast MODEL answers, loading it if need be.

    Prefill is prompt tokens per second until the first token; with several streams, all prompts until the last one's
    first token. Decode is tokens per second after the first; with several streams, their sum while all decode. Both as
    a client sees them. A short run before the measured ones warms up.
    """
    from exo_lite.cli.client import DaemonClient
    from exo_lite.cli.load_progress import make_ready

    if request.context_length is not None and request.context_length < shape.context_length:
        raise WrongUsage(
            f"--context {request.context_length} is less than prompt and answer, {shape.context_length} tokens"
        )
    with DaemonClient(daemon) as client:
        roomy = _roomy(request, shape)
        loaded = make_ready(client, model, roomy, will_do=lambda found: _is_as_asked(found, roomy))
        runs = []
        for number, result in enumerate(_runs(client, loaded, shape, repeat, seed), start=1):
            runs.append(result)
            note(f"run {number} of {repeat}: {result.decode_tokens_per_second:.1f} tokens/s")
    if as_json:
        print_json(_document(loaded, runs))
    else:
        click.echo(_text(loaded, runs))


def _roomy(request: LoadRequest, shape: Shape) -> LoadRequest:
    """The load request with context and slots for the run where it leaves them open and the defaults are too small."""
    context_length = shape.context_length if shape.context_length > DEFAULT_CONTEXT_LENGTH else None
    num_slots = shape.concurrency if shape.concurrency > DEFAULT_NUM_SLOTS else None
    return replace(
        request, context_length=request.context_length or context_length, num_slots=request.num_slots or num_slots
    )


def _is_as_asked(loaded: Document, request: LoadRequest) -> bool:
    """Say whether a loaded model is what the flags ask for; an option that they leave open may be anything."""
    return (
        request.dtype in (None, loaded["dtype"])
        and request.quant in (None, loaded["quant"])
        and loaded["context_length"] >= (request.context_length or 0)
        and loaded["slots"] >= (request.num_slots or 0)
    )


def _runs(client: DaemonClient, loaded: Document, shape: Shape, repeat: int, seed: int | None) -> Iterator[RunResult]:
    """Raises WrongUsage where the model has no room for them."""
    from exo_lite.cli.measuring import measure_run, random_prompts

    if shape.context_length > loaded["context_length"]:
        room = f"{loaded['id']} is loaded with a context of {loaded['context_length']} tokens"
        raise WrongUsage(f"{room}, but prompt and answer take {shape.context_length}: load it with a greater --context")
    if shape.concurrency > loaded["slots"]:
        note(
            f"{loaded['id']} is loaded with --slots {loaded['slots']}: some streams wait for others; load it with more"
        )
    seed = secrets.randbits(32) if seed is None else seed
    warm_up = replace(shape, prompt_tokens=min(WARM_UP_PROMPT_TOKENS, shape.prompt_tokens), tokens=2)
    for name, one in [("warm-up", warm_up), *((str(number), shape) for number in range(repeat))]:
        prompts = random_prompts(one, loaded["vocab_size"], f"{seed} {name}")
        result = measure_run(client, loaded["id"], prompts, one)
        if one is shape:
            yield result


def _nodes(loaded: Document) -> list[str]:
    """Names of the nodes that hold the model, in layer order."""
    return [shard["node"] for shard in loaded["shards"]]


def _document(loaded: Document, runs: Sequence[RunResult]) -> Document:
    return {
        "model": loaded["id"],
        "quant": loaded["quant"],
        "dtype": loaded["dtype"],
        "nodes": _nodes(loaded),
        "runs": [asdict(run) for run in runs],
    }


def _text(loaded: Document, runs: Sequence[RunResult]) -> str:
    shape = runs[0]
    headline = f"{loaded['id']}, {loaded['dtype']}, quant {loaded['quant']}, on {', '.join(_nodes(loaded))}"
    asked = f"{shape.prompt_tokens} prompt tokens, {shape.tokens} generated, {shape.concurrency} at a time"
    headings = ["RUN", "PREFILL TOKENS/S", "DECODE TOKENS/S", "FIRST TOKEN MS"]
    rows = [[str(number), *_figures([run])] for number, run in enumerate(runs, start=1)]
    if len(runs) > 1:
        rows.append(["median", *_figures(runs)])
    return "\n".join([headline, asked, "", table(headings, rows, right=headings[1:])])


def _figures(runs: Sequence[RunResult]) -> list[str]:
    """The median of each figure."""
    columns = zip(
        *((run.prefill_tokens_per_second, run.decode_tokens_per_second, run.ttft_ms) for run in runs), strict=True
    )
    return [f"{statistics.median(column):.1f}" for column in columns]
