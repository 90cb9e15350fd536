"""The measurements that have a bar: each starts its servers, loads them, and says what it found."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from exo_lite.domain.load_options import SEQUENCES_PER_SLOT
from exo_lite.pipeline.scheduler import DEFAULT_MAX_WAITING
from tests.bench.serve.answers import (
    HEADINGS,
    Answer,
    gaps_within,
    goodput,
    percentile,
    steady_rate,
    summary,
)
from tests.bench.serve.clients import Clients, Progress, clients_of
from tests.bench.serve.resident import resident_bytes
from tests.bench.serve.servers import Server, Setting, llama_cpp_server, our_server
from tests.bench.serve.workload import Ask, Lengths, arrival_times, make_asks, make_prompt
from tests.daemons import MIB, wait_until
from tests.waiting import until

T = TypeVar("T")

LONG_PROMPT_TOKENS = 2000
NUM_ANSWERING = 4
"""While the long prompt comes."""
TOKENS_BEFORE = 48
"""Of each answer, before the long prompt comes."""
START_TIMEOUT_S = 300.0
CHAT_ANSWER_TOKENS = 16
NEXT_TURN_TOKENS = 32
SOAK_CLIENTS = 64
SOAK_LENGTHS = Lengths(prompt=(8, 512), answer=(4, 128))
LEAVING_SHARE = 0.1
BASELINE_S = 60.0
"""Of a soak, after which memory is not to grow."""
OVERLOAD = 3.0
PATIENCE = 4.0
"""Of a client, in median answers at capacity: a full waiting line alone takes twice as long as an answer."""


@dataclass(frozen=True, slots=True)
class Options:
    """How long to measure. `requests`: of each client in each round; `seconds`: of an open loop or a soak."""

    setting: Setting
    folder: Path
    clients: int
    requests: int
    rounds: int
    seconds: float
    seed: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A figure beside its bar."""

    what: str
    value: float
    bar: float
    at_least: bool
    unit: str = "x"

    @property
    def is_met(self) -> bool:
        return self.value >= self.bar if self.at_least else self.value <= self.bar

    def line(self) -> str:
        sign = ">=" if self.at_least else "<="
        return (
            f"| {self.what} | {self.value:.3g} {self.unit} | {sign} {self.bar:g} | {'yes' if self.is_met else 'NO'} |"
        )


Case = Callable[[Options], list[Finding]]


def with_clients(server: Server, work: Callable[[Clients], Coroutine[Any, Any, T]]) -> T:
    async def run() -> T:
        async with clients_of(server.url, server.model) as clients:
            return await work(clients)

    return asyncio.run(run())


def tell(name: str, answers: Sequence[Answer]) -> None:
    print(f"| {name} | {summary(answers)} |", flush=True)
    for error in sorted({one.error for one in answers if one.error is not None and not one.is_refused}):
        print(f"  {name}: {error}", flush=True)


def closed_round(server: Server, options: Options, seed: str) -> list[Answer]:
    asks = make_asks(f"{options.seed} {seed}", options.clients * options.requests, Lengths())
    answers = with_clients(server, lambda clients: clients.closed_loop(asks, options.clients))
    tell(f"{server.name}, {seed}", answers)
    return answers


def beside(ours: Server, theirs: Server, options: Options) -> float:
    """Our tokens/s by theirs: medians of rounds in turn, after one that warms both up."""
    print(HEADINGS, "|---" * 7 + "|", sep="\n")
    rates: dict[str, list[float]] = {ours.name: [], theirs.name: []}
    for number in range(options.rounds + 1):
        for server in (ours, theirs):
            rate = steady_rate(closed_round(server, options, f"round {number}" if number else "warm-up"))
            if number:
                rates[server.name].append(rate)
    return statistics.median(rates[ours.name]) / statistics.median(rates[theirs.name])


def two_nodes(options: Options) -> list[Finding]:
    """Two nodes of a thread against one of two, closed loop."""
    with (
        our_server(options.setting, options.folder, num_nodes=2, threads=1) as pair,
        our_server(options.setting, options.folder, num_nodes=1, threads=2) as single,
    ):
        return [Finding(f"{pair.name} : {single.name}, tokens/s", beside(pair, single, options), 0.9, at_least=True)]


def llama_cpp(options: Options) -> list[Finding]:
    """One node of two threads, and two of one, against llama.cpp's server of two threads, closed loop."""
    findings = []
    for num_nodes in (1, 2):
        with (
            our_server(options.setting, options.folder, num_nodes=num_nodes, threads=2 // num_nodes) as ours,
            llama_cpp_server(options.setting, threads=2) as theirs,
        ):
            ratio = beside(ours, theirs, options)
        findings.append(Finding(f"{ours.name} : {theirs.name}, tokens/s", ratio, 2.0, at_least=True))
    return findings


def long_prompt(options: Options) -> list[Finding]:
    """A long prompt among running answers: how much longer their tokens take while it is computed."""
    findings = []
    for num_nodes in (1, 2):
        with our_server(options.setting, options.folder, num_nodes=num_nodes, threads=2 // num_nodes) as server:
            ratios = []
            for number in range(options.rounds + 1):
                before, during = with_clients(server, lambda clients: _interrupted(clients, options, number))  # noqa: B023 - run at once
                what = f"{server.name}, round {number}: p95 between tokens"
                print(f"{what} {1000 * before:.0f} ms before, {1000 * during:.0f} ms during the prompt", flush=True)
                ratios.append(during / before)
        what = f"{server.name}: p95 between tokens, during : before"
        findings.append(Finding(what, statistics.median(ratios[1:]), 2.0, at_least=False))
    return findings


async def _interrupted(clients: Clients, options: Options, number: int) -> tuple[float, float]:
    """p95 between tokens before a long prompt comes, and from then until its first token."""
    numbers = random.Random(f"{options.seed} {number}")
    room = options.setting.context - LONG_PROMPT_TOKENS - 1
    asks = [Ask(make_prompt(numbers, 32), min(1500, options.setting.context - 32)) for _ in range(NUM_ANSWERING)]
    assert room > 0, f"--context must exceed {LONG_PROMPT_TOKENS} tokens"
    running = [Progress() for _ in asks]
    async with asyncio.TaskGroup() as tasks:
        answering = [
            tasks.create_task(clients.ask(ask, progress=progress)) for ask, progress in zip(asks, running, strict=True)
        ]
        await until(
            lambda: all(len(one.times_s) >= TOKENS_BEFORE for one in running), "answers run", timeout_s=START_TIMEOUT_S
        )
        begun_s = max(one.times_s[0] for one in running)
        long = await clients.ask(Ask(make_prompt(numbers, LONG_PROMPT_TOKENS), 1))
        assert long.error is None, long.error
        seen = [Answer(0, 0.0, 0.0, tuple(one.times_s)) for one in running]
        for task in answering:
            task.cancel()
    before = gaps_within(seen, begun_s, long.asked_at_s)
    during = gaps_within(seen, long.asked_at_s, long.times_s[0])
    return percentile(before, 95), percentile(during, 95)


def second_turn(options: Options) -> list[Finding]:
    """A chat's second turn repeats all of the first: time to its first token against the first turn's."""
    findings = []
    for num_nodes in (1, 2):
        with our_server(options.setting, options.folder, num_nodes=num_nodes, threads=2 // num_nodes) as server:
            ratios = []
            for number in range(options.rounds + 1):
                first, second = with_clients(server, lambda clients: _two_turns(clients, options, number))  # noqa: B023 - run at once
                what = f"{server.name}, round {number}: first token after"
                print(f"{what} {1000 * first:.0f} ms, in the second turn {1000 * second:.0f} ms", flush=True)
                ratios.append(second / first)
        what = f"{server.name}: first token, second turn : first"
        findings.append(Finding(what, statistics.median(ratios[1:]), 0.15, at_least=False))
    return findings


async def _two_turns(clients: Clients, options: Options, number: int) -> tuple[float, float]:
    """Seconds to the first token of each."""
    numbers = random.Random(f"{options.seed} {number}")
    first_prompt, progress = make_prompt(numbers, LONG_PROMPT_TOKENS), Progress()
    first = await clients.ask(Ask(first_prompt, CHAT_ANSWER_TOKENS), progress=progress)
    second_prompt = (*first_prompt, *progress.token_ids, *make_prompt(numbers, NEXT_TURN_TOKENS))
    second = await clients.ask(Ask(second_prompt, CHAT_ANSWER_TOKENS))
    for answer in (first, second):
        assert answer.error is None, answer.error
    assert first.ttft_s is not None
    assert second.ttft_s is not None
    return first.ttft_s, second.ttft_s


def soak(options: Options) -> list[Finding]:
    """Many clients for long, some of which hang up: errors, blocks of the KV cache that are lost, memory that grows."""
    with our_server(options.setting, options.folder, num_nodes=2, threads=1) as server:
        answers, sizes = with_clients(server, lambda clients: _soaked(clients, server, options))
        print(HEADINGS, "|---" * 7 + "|", sep="\n")
        tell(server.name, answers)
        print(f"{sum(one.has_left for one in answers)} clients hung up as they were to", flush=True)
        num_leaked = _num_leaked(server)
    baseline_s = min(BASELINE_S, options.seconds / 4)
    first = percentile([size for at_s, size in sizes if at_s <= baseline_s][-5:], 50)
    last = percentile([size for _, size in sizes][-5:], 50)
    print(f"resident: {first / MIB:.0f} MiB after {baseline_s:.0f} s, {last / MIB:.0f} MiB at the end, on the way")
    print(*(f"{at_s:.0f} s: {size / MIB:.0f} MiB" for at_s, size in sizes[:: max(1, len(sizes) // 12)]), sep=", ")
    num_errors = sum(one.error is not None for one in answers)
    return [
        Finding("errors", num_errors, 0, at_least=False, unit=""),
        Finding("leaked blocks of the KV cache", num_leaked, 0, at_least=False, unit=""),
        Finding("growth of resident memory", 100 * (last / first - 1), 2, at_least=False, unit="%"),
    ]


async def _soaked(clients: Clients, server: Server, options: Options) -> tuple[list[Answer], list[tuple[float, int]]]:
    """The answers, and our processes' resident bytes, each with the seconds since the start."""
    start_s, sizes = time.monotonic(), list[tuple[float, int]]()
    pids = await asyncio.to_thread(server.pids)

    async def watch() -> None:
        while True:
            sizes.append((time.monotonic() - start_s, resident_bytes(pids)))
            await asyncio.sleep(1.0)

    asks = make_asks(options.seed, SOAK_CLIENTS * 1000, SOAK_LENGTHS, leaving_share=LEAVING_SHARE)
    watching = asyncio.create_task(watch())
    try:
        return await clients.closed_loop(asks, SOAK_CLIENTS, until_s=start_s + options.seconds), sizes
    finally:
        watching.cancel()


def _num_leaked(server: Server) -> int:
    """Blocks that nobody has given back, once nothing runs any more."""

    def blocks() -> dict[str, int] | None:
        model = server.model_state()
        found: dict[str, int] = model["kv_blocks"]
        return found if model["requests"] == {"running": 0, "waiting": 0} else None

    wait_until(blocks, "all requests have ended")
    try:
        wait_until(lambda: (found := blocks()) is not None and found["free"] == found["total"], "", timeout_s=5.0)
    except AssertionError:
        found = server.model_state()["kv_blocks"]
        return int(found["total"] - found["free"])
    return 0


def overload(options: Options) -> list[Finding]:
    """Requests that arrive three times as fast as they can be answered: what is answered in time, and how soon others
    are refused. Each round measures the capacity anew, just before.
    """
    ratios, refusals_s = [], list[float]()
    with our_server(options.setting, options.folder, num_nodes=2, threads=1) as server:
        print(HEADINGS, "|---" * 7 + "|", sep="\n")
        closed_round(server, options, "warm-up")
        for number in range(1, options.rounds + 1):
            capacity, target_s = _capacity(server, options, number)
            within, refused_after_s = _overloaded(server, options, number, capacity, target_s)
            print(f"answered in time: {within:.2f} requests/s, {within / capacity:.2f} of the capacity", flush=True)
            ratios.append(within / capacity)
            refusals_s += refused_after_s
    spread = " / ".join(f"{1000 * percentile(refusals_s, percent):.0f}" for percent in (50, 95, 100))
    print(f"{len(refusals_s)} refused, after p50/p95/most {spread} ms", flush=True)
    return [
        Finding("goodput : that at capacity", statistics.median(ratios), 0.8, at_least=True),
        Finding("time to refuse, p95", 1000 * percentile(refusals_s, 95), 50, at_least=False, unit="ms"),
    ]


def _overloaded(
    server: Server, options: Options, number: int, capacity: float, target_s: float
) -> tuple[float, list[float]]:
    """Answers in time per second, once the line is full, and the seconds that each refusal took."""
    full_after_s = _num_places(options) / ((OVERLOAD - 1) * capacity)
    end_s = full_after_s + options.seconds
    print(f"capacity {capacity:.2f} requests/s; in time is within {target_s:.1f} s; now {OVERLOAD:g} x as many")
    print(f"for {end_s:.0f} s, of which the line takes {full_after_s:.0f} s to become full", flush=True)
    arrivals_s = arrival_times(f"{options.seed} {number}", OVERLOAD * capacity, end_s)
    asks = make_asks(f"{options.seed} overload {number}", len(arrivals_s), Lengths())
    start_s = time.monotonic()
    answers = with_clients(server, lambda clients: clients.open_loop(asks, arrivals_s))
    tell(f"{server.name}, {OVERLOAD:g} x capacity, round {number}", answers)
    within = goodput(answers, lambda one: one.latency_s <= target_s, start_s + full_after_s, start_s + end_s)
    return within, [one.latency_s for one in answers if one.is_refused]


def _num_places(options: Options) -> int:
    """Running and waiting, until requests are refused."""
    return SEQUENCES_PER_SLOT * options.setting.slots + DEFAULT_MAX_WAITING


def _capacity(server: Server, options: Options, number: int) -> tuple[float, float]:
    """Answers per second with as many clients as the model takes sequences, and the time that clients would wait."""
    num_clients = SEQUENCES_PER_SLOT * options.setting.slots
    asks = make_asks(f"{options.seed} capacity {number}", num_clients * 1000, Lengths())
    start_s = time.monotonic()
    end_s = start_s + options.seconds
    answers = with_clients(server, lambda clients: clients.closed_loop(asks, num_clients, until_s=end_s))
    tell(f"{server.name}, at capacity, round {number}", answers)
    capacity = goodput(answers, lambda one: True, start_s + options.seconds / 2, end_s)  # the first ones end together
    return capacity, PATIENCE * percentile([one.latency_s for one in answers], 50)


CASES: dict[str, Case] = {
    "two-nodes": two_nodes,
    "llama.cpp": llama_cpp,
    "long-prompt": long_prompt,
    "second-turn": second_turn,
    "soak": soak,
    "overload": overload,
}
