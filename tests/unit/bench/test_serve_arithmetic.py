from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import httpx2
import pytest

from tests.bench.serve.answers import Answer, gaps_within, goodput, percentile, steady_rate, summary
from tests.bench.serve.cases import CASES, Finding
from tests.bench.serve.clients import Clients, Progress
from tests.bench.serve.resident import resident_of
from tests.bench.serve.workload import FIRST_ID, LAST_ID, Ask, Lengths, arrival_times, make_asks, shares


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([5.0], 50, 5.0), ([3, 1, 2, 4], 50, 2), ([3, 1, 2, 4], 95, 4), (range(1, 101), 99, 99), (range(1, 101), 0, 1)],
)
def test_percentiles_are_of_the_nearest_rank(values: list[float], percent: float, expected: float) -> None:
    assert percentile(values, percent) == expected


def test_there_is_no_percentile_of_nothing() -> None:
    assert math.isnan(percentile([], 50))


def test_the_same_seed_asks_the_same_within_the_lengths() -> None:
    lengths = Lengths(prompt=(8, 64), answer=(4, 16))
    asks = make_asks("a", 400, lengths, leaving_share=0.1)
    assert asks == make_asks("a", 400, lengths, leaving_share=0.1)
    assert asks != make_asks("b", 400, lengths, leaving_share=0.1)
    assert min(len(one.prompt) for one in asks) == 8
    assert max(len(one.prompt) for one in asks) > 56
    assert all(8 <= len(one.prompt) <= 64 and 4 <= one.num_tokens <= 16 for one in asks)
    assert all(FIRST_ID <= token_id < LAST_ID for one in asks for token_id in one.prompt)
    leaving = [one for one in asks if one.leaves_after is not None]
    assert 20 <= len(leaving) <= 60
    assert all(0 <= (one.leaves_after or 0) < one.num_tokens for one in leaving)
    assert all(one.leaves_after is None for one in make_asks("a", 50, lengths))


def test_every_doubling_of_a_length_is_as_likely() -> None:
    lengths = [len(one.prompt) for one in make_asks("a", 3000, Lengths(prompt=(16, 255)))]
    doublings = Counter(length.bit_length() for length in lengths)
    assert sorted(doublings) == [5, 6, 7, 8]
    assert all(600 <= count <= 900 for count in doublings.values())


def test_a_single_length_is_that_length() -> None:
    assert {len(one.prompt) for one in make_asks("a", 50, Lengths(prompt=(100, 100)))} == {100}


def test_arrivals_are_in_order_within_the_time_and_as_many_as_the_rate_says() -> None:
    times_s = arrival_times("a", 5.0, 200.0)
    assert times_s == sorted(times_s)
    assert times_s == arrival_times("a", 5.0, 200.0)
    assert 0 < times_s[0] < times_s[-1] < 200
    assert 900 <= len(times_s) <= 1100
    gaps = [later - earlier for earlier, later in pairwise(times_s)]
    assert 0.3 <= sum(gap > 0.2 for gap in gaps) / len(gaps) <= 0.44  # 1/e of them exceed the mean


def test_each_ask_is_one_clients() -> None:
    asks = make_asks("a", 7, Lengths())
    parts = shares(asks, 3)
    assert [len(part) for part in parts] == [3, 2, 2]
    assert sorted(map(hash, asks)) == sorted(hash(one) for part in parts for one in part)


def answer(client: int, *times_s: float, asked_at_s: float = 0.0, num_tokens: int | None = None) -> Answer:
    return Answer(client, asked_at_s, times_s[-1], times_s, len(times_s) if num_tokens is None else num_tokens)


def test_the_rate_is_that_of_the_time_in_which_all_clients_have_work() -> None:
    """From 2 s, the second client's first token, to 6 s, the first client's last."""
    first, second = answer(0, 1, 2, 3, 4, 5, 6), answer(1, 2, 4, 6, 8, 10)
    assert steady_rate([first, second]) == pytest.approx((4 + 2) / 4)
    assert steady_rate([first, answer(0, 7, 8), second]) == pytest.approx((6 + 3) / 6)


def test_pieces_count_with_the_tokens_that_they_hold() -> None:
    assert steady_rate([answer(0, 1, 2, 3, num_tokens=6)]) == pytest.approx(2.0)


def test_clients_that_never_had_work_together_count_from_the_first_to_the_last() -> None:
    assert steady_rate([answer(0, 1, 2), answer(1, 3, 5)]) == pytest.approx(3 / 4)


def test_no_tokens_make_no_rate() -> None:
    refused = Answer(0, 0.0, 1.0, status=429, error="full")
    assert steady_rate([]) == steady_rate([refused]) == steady_rate([answer(0, 1.0)]) == 0.0


def test_goodput_counts_whole_answers_in_time_that_ended_within_the_span() -> None:
    good = answer(0, 1, 2, 5)
    others = [
        answer(1, 1, 11),
        answer(2, 1, 9, asked_at_s=-9),
        replace(good, error="broke off"),
        replace(good, has_left=True),
    ]
    assert goodput([good, *others], lambda one: one.latency_s < 10, 0.0, 10.0) == 0.1


def test_gaps_are_those_that_ended_within_the_span() -> None:
    assert gaps_within([answer(0, 1, 2, 4, 8), answer(1, 3, 9)], 2.0, 8.0) == [2, 4]


def test_a_summary_tells_errors_from_refusals() -> None:
    refused = Answer(1, 0.0, 0.01, status=429, error="full")
    lost = Answer(2, 0.0, 1.0, error="node-b is lost")
    row = summary([answer(0, 0.5, 0.6, 0.8), refused, lost])
    assert row.startswith("3 | 1 | 1 | ")
    assert row.endswith("500 / 500 / 500 | 100 / 200 / 200")


@pytest.mark.parametrize(
    ("value", "at_least", "is_met"),
    [(0.9, True, True), (0.89, True, False), (0.9, False, True), (0.91, False, False), (math.nan, False, False)],
)
def test_a_bar_is_met_from_its_own_value_on(value: float, at_least: bool, is_met: bool) -> None:
    finding = Finding("x", value, 0.9, at_least=at_least)
    assert finding.is_met == is_met
    assert ("yes" if is_met else "NO") in finding.line()


def test_every_row_of_the_table_has_a_case() -> None:
    assert list(CASES) == ["two-nodes", "llama.cpp", "long-prompt", "second-turn", "soak", "overload"]


def test_the_resident_size_is_read_from_the_processs_status() -> None:
    assert resident_of("VmHWM:\t  400 kB\nVmRSS:\t  300 kB\n") == 300 * 1024


STREAM = (
    b': keep-alive\n\ndata: {"choices":[{"text":"a\xe2\x80\xa8b","token_ids":[7]}]}\n\n'
    b'data: {"choices":[{"text":"","token_ids":[8,9],"finish_reason":"length"}]}\n\n'
    b'data: {"choices":[],"usage":{"completion_tokens":3}}\n\n'
)


async def asked(content: bytes, ask: Ask, *, status: int = 200) -> tuple[Answer, Progress]:
    def serve(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, headers={"content-type": "text/event-stream"}, content=content)

    progress = Progress()
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(serve)) as http:
        return await Clients(http, "http://server.test", "m").ask(ask, progress=progress), progress


async def test_a_client_reads_a_stream_to_its_end() -> None:
    found, progress = await asked(STREAM + b"data: [DONE]\n\n", Ask((300,), 3))
    assert (found.is_whole, found.num_tokens, len(found.times_s), progress.token_ids) == (True, 3, 2, [7, 8, 9])


async def test_a_client_notes_what_went_wrong() -> None:
    broken, _ = await asked(STREAM, Ask((300,), 3))
    assert broken.error == "the stream broke off"
    failed, _ = await asked(b'data: {"error":{"message":"node-b is lost"}}\n\n', Ask((300,), 3))
    assert failed.error == "node-b is lost"
    refused, _ = await asked(b"full", Ask((300,), 3), status=429)
    assert (refused.is_refused, refused.error) == (True, "full")


@pytest.mark.parametrize("leaves_after", [0, 1])
async def test_a_client_that_is_to_leave_leaves(leaves_after: int) -> None:
    found, _ = await asked(STREAM + b"data: [DONE]\n\n", Ask((300,), 3, leaves_after))
    assert (found.has_left, found.error, len(found.times_s)) == (True, None, leaves_after)
