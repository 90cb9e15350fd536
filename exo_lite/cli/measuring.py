"""How fast a model answers: streams of chunks in, tokens per second out."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass

from exo_lite.cli.client import DaemonClient, Document
from exo_lite.cli.errors import Failed


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of one run: `concurrency` streams, each with a prompt and an answer of so many tokens."""

    prompt_tokens: int
    tokens: int
    concurrency: int

    @property
    def context_length(self) -> int:
        return self.prompt_tokens + self.tokens


@dataclass(frozen=True, slots=True)
class Stream:
    """One answer: when it was asked for and when each of its tokens came, in seconds of one clock."""

    began_s: float
    times_s: tuple[float, ...]

    @property
    def ttft_s(self) -> float:
        return self.times_s[0] - self.began_s


@dataclass(frozen=True, slots=True)
class RunResult:
    """One run's figures, over all of its streams."""

    prompt_tokens: int
    tokens: int
    concurrency: int
    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    ttft_ms: float


def random_prompts(shape: Shape, vocab_size: int, seed: str) -> list[list[int]]:
    """A prompt of random token ids for each stream, all different, the same for the same seed."""
    numbers = random.Random(seed)
    return [[numbers.randrange(vocab_size) for _ in range(shape.prompt_tokens)] for _ in range(shape.concurrency)]


def measure_run(client: DaemonClient, model: str, prompts: Sequence[Sequence[int]], shape: Shape) -> RunResult:
    """Ask all prompts at the same time. The first failure ends all streams and is raised."""
    is_over = threading.Event()

    def one(prompt: Sequence[int]) -> Stream:
        began_s = time.perf_counter()
        with closing(client.chunks("/v1/completions", completion_body(model, prompt, shape.tokens))) as chunks:
            return read_stream(_until(is_over, chunks), began_s, shape.tokens)

    with ThreadPoolExecutor(len(prompts)) as pool:
        try:
            done, _ = wait([pool.submit(one, prompt) for prompt in prompts], return_when=FIRST_EXCEPTION)
            return run_result([stream.result() for stream in done], shape)
        finally:
            is_over.set()  # the pool waits for its threads: those still reading end with their next chunk


def _until(is_over: threading.Event, chunks: Iterable[Document]) -> Iterator[Document]:
    for chunk in chunks:
        if is_over.is_set():
            raise Failed("given up, as another stream failed")
        yield chunk


def completion_body(model: str, prompt: Sequence[int], num_tokens: int) -> Document:
    """Greedy, `num_tokens` long whatever ends, each token reported with its id."""
    return {
        "model": model,
        "prompt": list(prompt),
        "max_tokens": num_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
    }


def read_stream(
    chunks: Iterable[Document], began_s: float, num_tokens: int, clock: Callable[[], float] = time.perf_counter
) -> Stream:
    """Measure when each token of an answer came. Raises Failed for an answer of another length than `num_tokens`."""
    times_s: list[float] = []
    first_size, timings = 0, None
    for chunk in chunks:
        timings = chunk.get("timings") or timings
        choice: Document = next(iter(chunk.get("choices", [])), {})
        size = len(choice.get("token_ids") or ())
        first_size = first_size or size
        times_s += [clock()] * size
    if len(times_s) != num_tokens:
        raise Failed(f"the answer has {len(times_s)} tokens, not the {num_tokens} asked for")
    if first_size > 1 and timings is not None:
        # a token whose text is not certain waits for others: only the daemon saw when it was there
        return _daemons_own(timings, began_s, num_tokens)
    return Stream(began_s, tuple(times_s))


def _daemons_own(timings: Document, began_s: float, num_tokens: int) -> Stream:
    first_s = began_s + timings["prompt_ms"] / 1000
    step_s = timings["predicted_ms"] / 1000 / max(1, num_tokens - 1)
    return Stream(began_s, tuple(first_s + index * step_s for index in range(num_tokens)))


def run_result(streams: Sequence[Stream], shape: Shape) -> RunResult:
    """Sum up the streams: prefill until the last one's first token, decode as `decode_rate`, the median first token.

    All in tokens per second and milliseconds.
    """
    prefill_s = max(stream.times_s[0] for stream in streams) - min(stream.began_s for stream in streams)
    return RunResult(
        prompt_tokens=shape.prompt_tokens,
        tokens=shape.tokens,
        concurrency=shape.concurrency,
        prefill_tokens_per_second=round(shape.prompt_tokens * len(streams) / prefill_s, 3),
        decode_tokens_per_second=round(decode_rate(streams), 3),
        ttft_ms=round(1000 * statistics.median(stream.ttft_s for stream in streams), 3),
    )


def decode_rate(streams: Sequence[Stream]) -> float:
    """Tokens/s of all streams together, over the time when all of them decode.

    Where there is no such time, since streams waited for each other, from the first token of any to the last of all.
    """
    start_s = max(stream.times_s[0] for stream in streams)
    end_s = min(stream.times_s[-1] for stream in streams)
    if start_s >= end_s:
        start_s = min(stream.times_s[0] for stream in streams)
        end_s = max(stream.times_s[-1] for stream in streams)
    num_tokens = sum(start_s < time_s <= end_s for stream in streams for time_s in stream.times_s)
    return num_tokens / (end_s - start_s) if end_s > start_s else 0.0
