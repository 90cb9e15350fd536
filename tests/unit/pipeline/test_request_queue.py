from __future__ import annotations

from exo_lite.domain.ids import Epoch, ModelId, RequestId
from exo_lite.domain.request import AnswerRequest, GenerateRequest, Sampling
from exo_lite.pipeline.fair_share import FairShare
from exo_lite.pipeline.request_queue import MAX_OVERTAKEN, RequestQueue


def request(name: str, tenant: str, num_tokens: int = 10) -> GenerateRequest:
    prompt = (1,) * (num_tokens - 1)
    asked = AnswerRequest(prompt, 1, Sampling(), tenant=tenant)
    return GenerateRequest(RequestId(name), ModelId("m"), Epoch(1), 0, asked)


def taken(queue: RequestQueue, count: int) -> list[str]:
    order = []
    for _ in range(count):
        first = queue.first()
        assert first is not None
        queue.take(first)
        order.append(str(first.request_id))
    return order


def test_one_tenants_requests_go_in_the_order_of_their_arrival():
    queue = RequestQueue(8)
    for name in ("big", "small", "medium"):
        queue.add(request(name, "a", {"big": 900}.get(name, 3)))
    assert taken(queue, 3) == ["big", "small", "medium"]
    assert queue.first() is None


def test_tenants_take_turns_whatever_the_number_of_their_requests():
    queue = RequestQueue(20)
    for index in range(6):
        queue.add(request(f"a{index}", "a"))
    queue.add(request("b0", "b"))
    queue.add(request("b1", "b"))
    assert taken(queue, 5) == ["a0", "b0", "a1", "b1", "a2"]


def test_a_turn_counts_by_its_tokens_less_what_was_not_used():
    queue = RequestQueue(20)
    long = request("a0", "a", 400)
    queue.add(long)
    for index in range(5):
        queue.add(request(f"b{index}", "b", 100))
    queue.add(request("a1", "a", 100))
    assert taken(queue, 4) == ["a0", "b0", "b1", "b2"]
    queue.refund(long, 300)
    assert taken(queue, 2) == ["a1", "b3"]


def test_no_request_is_overtaken_for_ever():
    """Not even by an endless row of newcomers, each of whom was served nothing yet."""
    queue = RequestQueue(1000)
    queue.add(request("first", "a", 500))
    queue.add(request("long", "a", 2000))
    assert taken(queue, 1) == ["first"]
    order = []
    for index in range(2 * MAX_OVERTAKEN):
        queue.add(request(f"n{index}", f"new-{index}", 5))
        order += taken(queue, 1)
    assert order.index("long") == MAX_OVERTAKEN


def test_a_full_line_makes_room_for_a_tenant_with_less_than_its_share():
    queue = RequestQueue(3)
    for index in range(3):
        queue.add(request(f"a{index}", "a"))
    assert queue.is_full
    assert queue.displace_for("a") is None
    assert queue.displace_for("b") == "a2"
    queue.add(request("b0", "b"))
    assert queue.displace_for("b") is None  # two and one: another one would only turn it round
    assert queue.displace_for("c") == "a1"
    assert [one.request_id for one in queue.requests] == ["a0", "b0"]
    assert RequestQueue(0).displace_for("a") is None


def test_whoever_was_idle_gets_no_credit_for_it():
    share = FairShare()
    for _ in range(10):
        share.charge("busy", 10)
    served = []
    for _ in range(4):
        served.append(share.first(["busy", "late"]))
        share.charge(served[-1], 10)
    assert sorted(served) == ["busy", "busy", "late", "late"]
