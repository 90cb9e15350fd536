"""One answer: streamed to stdout, gathered, measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

import click

from exo_lite.cli.client import DaemonClient, Document
from exo_lite.cli.output import note, print_json
from exo_lite.cli.question import Question

CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Piece:
    """The text and tokens of one chunk of a streamed answer, and when it came."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str | None
    usage: Document | None
    at_s: float


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer with the times that the client measured; `decode_s` runs from the first token to the last."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    ttft_s: float
    decode_s: float

    @property
    def tokens_per_second(self) -> float:
        """The rate after the first token, whose time is the prompt's. A single token counts with that time."""
        if self.completion_tokens > 1 and self.decode_s > 0:
            return (self.completion_tokens - 1) / self.decode_s
        return self.completion_tokens / self.ttft_s if self.ttft_s > 0 else 0.0


def answer_once(client: DaemonClient, model: str, question: Question, prompt: str, *, as_json: bool) -> None:
    """Answer one prompt on stdout, as text while it comes or as one JSON object at the end."""
    began_s = time.perf_counter()
    if question.raw:
        pieces = stream(client, "/v1/completions", question.completion_body(model, prompt))
    else:
        messages = [*question.first_messages(), {"role": "user", "content": prompt}]
        pieces = stream(client, CHAT, question.chat_body(model, messages))
    answer = gather(pieces if as_json else echoed(pieces), began_s)
    if as_json:
        print_json(answer_document(answer, model))
    elif not answer.text.endswith("\n"):
        echo_text("\n")
    show_statistics(answer)


def stream(client: DaemonClient, path: str, body: Document) -> Generator[Piece]:
    """The pieces of an answer as they come. Closing it ends the request."""
    with closing(client.chunks(path, body)) as chunks:
        yield from read_pieces(chunks)


def echoed(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The same pieces, each on stdout as it passes."""
    for piece in pieces:
        if piece.text:
            echo_text(piece.text)
        yield piece


def echo_text(text: str) -> None:
    click.echo(text, nl=False)


def read_pieces(chunks: Iterable[Document], clock: Callable[[], float] = time.perf_counter) -> Iterator[Piece]:
    """Chunks of either endpoint: a chat's `delta`, a completion's `text`, and the last one with the usage alone."""
    for chunk in chunks:
        choice: Document = next(iter(chunk.get("choices", [])), {})
        text = choice.get("text") or choice.get("delta", {}).get("content") or ""
        token_ids = tuple(choice.get("token_ids") or ())
        yield Piece(text, token_ids, choice.get("finish_reason"), chunk.get("usage"), clock())


def gather(pieces: Iterable[Piece], began_s: float) -> Answer:
    """The answer that the pieces make, asked for at `began_s`."""
    pieces = list(pieces)
    times = [piece.at_s for piece in pieces if piece.token_ids or piece.text] or [began_s]
    token_ids = tuple(token_id for piece in pieces for token_id in piece.token_ids)
    usage = next((piece.usage for piece in pieces if piece.usage), {})
    return Answer(
        text="".join(piece.text for piece in pieces),
        token_ids=token_ids,
        finish_reason=next((piece.finish_reason for piece in pieces if piece.finish_reason), None),
        prompt_tokens=usage.get("prompt_tokens", 0),
        completion_tokens=usage.get("completion_tokens", len(token_ids)),
        ttft_s=times[0] - began_s,
        decode_s=times[-1] - times[0],
    )


def answer_document(answer: Answer, model: str) -> Document:
    return {
        "text": answer.text,
        "model": model,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "ttft_ms": round(1000 * answer.ttft_s, 3),
        "tokens_per_second": round(answer.tokens_per_second, 3),
        "token_ids": list(answer.token_ids),
    }


def show_statistics(answer: Answer) -> None:
    note(
        f"{answer.prompt_tokens} prompt tokens, {answer.completion_tokens} generated; "
        f"first token after {1000 * answer.ttft_s:.0f} ms, {answer.tokens_per_second:.1f} tokens/s"
    )
