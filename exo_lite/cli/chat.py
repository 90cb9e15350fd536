"""The chat on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import closing

from exo_lite.cli.answer import CHAT, Piece, echo_text, gather, show_statistics, stream
from exo_lite.cli.client import DaemonClient
from exo_lite.cli.errors import Failed
from exo_lite.cli.output import note
from exo_lite.cli.question import Message, Question
from exo_lite.domain.errors import ExoLiteError

HELP = "/clear forgets the conversation, /bye or Ctrl-D ends it, Ctrl-C stops an answer."


def chat(client: DaemonClient, model: str, question: Question) -> None:
    """Ask line by line and answer, with the conversation so far, until /bye or the end of the input."""
    note(f"Chatting with {model}. {HELP}")
    messages = question.first_messages()
    for line in _lines():
        match line.strip():
            case "":
                continue
            case "/bye":
                return
            case "/clear":
                messages = question.first_messages()
                note("The conversation is forgotten.")
            case command if command.startswith("/"):
                note(f"Unknown command {command.split()[0]}. {HELP}")
            case text:
                messages = _turn(client, model, question, [*messages, {"role": "user", "content": text}])


def _turn(client: DaemonClient, model: str, question: Question, messages: list[Message]) -> list[Message]:
    """The conversation with the answer, or without the last question where nothing came of it."""
    began_s = time.perf_counter()
    pieces: list[Piece] = []
    trouble = None
    try:
        with closing(stream(client, CHAT, question.chat_body(model, messages))) as answer_pieces:
            for piece in answer_pieces:
                pieces.append(piece)  # before it is shown: what the user has seen belongs to the conversation
                echo_text(piece.text)
    except (ExoLiteError, Failed) as error:
        trouble = f"Error: {error}"
    except KeyboardInterrupt:
        trouble = "(stopped)"
    answer = gather(pieces, began_s)
    echo_text("\n")
    if trouble:
        note(trouble)
    else:
        show_statistics(answer)
    return [*messages, {"role": "assistant", "content": answer.text}] if answer.text else messages[:-1]


def _lines() -> Iterator[str]:
    """Yield typed lines until the input ends. Ctrl-C drops the line."""
    _load_line_editing()
    while True:
        try:
            yield _ask_line()
        except EOFError:
            note("")
            return
        except KeyboardInterrupt:
            note(f"\n{HELP}")


def _ask_line() -> str:
    if sys.stdout.isatty():
        return input("> ")  # here the line editor has to know the prompt
    note("> ", ends_line=False)
    return input()


def _load_line_editing() -> None:
    try:
        import readline  # noqa: F401  # importing it gives input() a history and cursor keys
    except ImportError:
        return  # a Python built without it still reads lines
