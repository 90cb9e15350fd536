from __future__ import annotations

from exo_lite.domain.ids import Epoch, ModelId, RequestId
from exo_lite.domain.request import AnswerRequest, GenerateRequest, Sampling
from exo_lite.pipeline.fair_share import FairShare
from exo_lite.pipeline.waiting_line import MAX_OVERTAKEN, WaitingLine


def request(name: str, tenant: str, num_tokens: int = 10) -> GenerateRequest:
    prompt = (1,) * (num_tokens - 1)
    asked = AnswerRequest(prompt, 1, Sampling(), tenant=tenant)
    return GenerateRequest(RequestId(name), ModelId("m"), Epoch(1), 0, asked)


def taken(line: WaitingLine, count: int) -> list[str]:
    order = []
    for _ in range(count):
        first = line.first()
        assert first is not None
        line.take(first)
        order.append(str(first.request_id))
    return order


def test_one_tenants_requests_go_in_the_order_of_their_arrival():
    line = WaitingLine(8)
    for name in ("big", "small", "medium"):
        line.add(request(name, "a", {"big": 900}.get(name, 3)))
    assert taken(line, 3) == ["big", "small", "medium"]
    assert line.first() is None


def test_tenants_take_turns_whatever_the_number_of_their_requests():
    line = WaitingLine(20)
    for index in range(6):
        line.add(request(f"a{index}", "a"))
    line.add(request("b0", "b"))
    line.add(request("b1", "b"))
    assert taken(line, 5) == ["a0", "b0", "a1", "b1", "a2"]


def test_a_turn_counts_by_its_tokens_less_what_was_not_used():
    line = WaitingLine(20)
    long = request("a0", "a", 400)
    line.add(long)
    for index in range(5):
        line.add(request(f"b{index}", "b", 100))
    line.add(request("a1", "a", 100))
    assert taken(line, 4) == ["a0", "b0", "b1", "b2"]
    line.refund(long, 300)
    assert taken(line, 2) == ["a1", "b3"]


def test_no_request_is_overtaken_for_ever():
    """Not even by an endless row of newcomers, each of whom was served nothing yet."""
    line = WaitingLine(1000)
    line.add(request("first", "a", 500))
    line.add(request("long", "a", 2000))
    assert taken(line, 1) == ["first"]
    order = []
    for index in range(2 * MAX_OVERTAKEN):
        line.add(request(f"n{index}", f"new-{index}", 5))
        order += taken(line, 1)
    assert order.index("long") == MAX_OVERTAKEN


def test_a_full_line_makes_room_for_a_tenant_with_less_than_its_share():
    line = WaitingLine(3)
    for index in range(3):
        line.add(request(f"a{index}", "a"))
    assert line.is_full
    assert line.make_room("a") is None
    assert line.make_room("b") == "a2"
    line.add(request("b0", "b"))
    assert line.make_room("b") is None  # two and one: another one would only turn it round
    assert line.make_room("c") == "a1"
    assert [one.request_id for one in line.requests] == ["a0", "b0"]
    assert WaitingLine(0).make_room("a") is None


def test_whoever_was_idle_gets_no_credit_for_it():
    share = FairShare()
    for _ in range(10):
        share.charge("busy", 10)
    served = []
    for _ in range(4):
        served.append(share.first(["busy", "late"]))
        share.charge(served[-1], 10)
    assert sorted(served) == ["busy", "busy", "late", "late"]
