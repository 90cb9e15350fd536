"""`run`: one answer, or a chat."""

from __future__ import annotations

import sys
from dataclasses import replace

import click

from exo_lite.cli.config_file import Verb
from exo_lite.cli.errors import WrongUsage
from exo_lite.cli.load_flags import keep_alive_option, load_options
from exo_lite.cli.options import (
    DaemonAddress,
    Decorator,
    daemon_options,
    grouped,
    json_option,
)
from exo_lite.cli.question import Question
from exo_lite.domain.load_options import LoadRequest

question_options: Decorator = grouped(
    "question",
    {
        "system": click.option("--system", metavar="TEXT", help="System message."),
        "raw": click.option("--raw", is_flag=True, help="Continue the prompt as it is, without a chat template."),
        "max_tokens": click.option(
            "--max-tokens",
            type=click.IntRange(min=1),
            help="Maximum number of tokens of the answer.  [default: what fits; 256 with --raw]",
        ),
        "temperature": click.option(
            "--temperature", type=click.FloatRange(0, 2), help="0 always takes the likeliest token."
        ),
        "top_p": click.option(
            "--top-p",
            type=click.FloatRange(0, 1),
            help="Draw from the likeliest tokens that together have this probability.",
        ),
        "top_k": click.option("--top-k", type=click.IntRange(min=0), help="Draw from the k likeliest tokens; 0: all."),
        "min_p": click.option(
            "--min-p",
            type=click.FloatRange(0, 1),
            help="Leave out tokens less likely than this fraction of the likeliest.",
        ),
        "repetition_penalty": click.option(
            "--repetition-penalty",
            type=click.FloatRange(0.01, 100),
            help="Above 1: tokens of the prompt and the answer so far become less likely.",
        ),
        "presence_penalty": click.option(
            "--presence-penalty",
            type=click.FloatRange(-2, 2),
            help="Above 0: tokens that the answer has become less likely.",
        ),
        "frequency_penalty": click.option(
            "--frequency-penalty",
            type=click.FloatRange(-2, 2),
            help="Above 0: the more often the answer has a token, the less likely.",
        ),
        "seed": click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="The same seed gives the same answer."),
        "stop": click.option(
            "--stop", metavar="TEXT", multiple=True, help="Text before which the answer ends. Repeatable."
        ),
    },
    Question,
)


@click.command(cls=Verb)
@click.argument("model")
@click.argument("prompt", required=False)
@question_options
@load_options
@keep_alive_option("How long it stays after its last request, such as 5m; -1: for ever.  [default: the node's]")
@json_option
@daemon_options
def run(
    model: str,
    prompt: str | None,
    *,
    question: Question,
    request: LoadRequest,
    keep_alive_s: float | None,
    as_json: bool,
    daemon: DaemonAddress,
) -> None:
    """Ask MODEL, loading it if need be, and stream its answer.

    The prompt comes from PROMPT or from standard input; on a terminal and without one, a chat begins.
    """
    from exo_lite.cli.client import DaemonClient
    from exo_lite.cli.load_progress import make_ready

    is_chat = prompt is None and sys.stdin.isatty()
    text = "" if is_chat else _prompt(prompt)
    if is_chat and (as_json or question.raw):
        raise WrongUsage("--json and --raw need a prompt: give it after the model or on standard input")
    question = replace(question, keep_alive_s=keep_alive_s)
    with DaemonClient(daemon) as client:
        model_id = str(make_ready(client, model, replace(request, is_on_demand=True))["id"])
        if is_chat:
            from exo_lite.cli.chat import chat

            chat(client, model_id, question)
        else:
            from exo_lite.cli.answer import answer_once

            answer_once(client, model_id, question, text, as_json=as_json)


def _prompt(argument: str | None) -> str:
    try:
        text = sys.stdin.read() if argument is None else argument
    except UnicodeDecodeError as error:
        raise WrongUsage(f"the prompt on standard input is not text: {error}") from error
    if not text.strip():
        raise WrongUsage("the prompt is empty: give one after the model or on standard input")
    return text
