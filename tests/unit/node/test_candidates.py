from __future__ import annotations

import pytest

from exo_lite.domain.errors import ConnectionRefused, PortSilent
from exo_lite.domain.ids import NodeId
from exo_lite.node.candidates import MAX_CANDIDATES, MAX_HANDSHAKES, Candidate, Candidates

B = NodeId("b")
SILENT = PortSilent("TCP port 52414 of 10.0.0.2 does not answer")
A_DAY_S = 86_400.0


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def candidates(clock: Clock) -> Candidates:
    return Candidates(clock)


def nobody(candidate: Candidate) -> bool:
    return False


def everybody(candidate: Candidate) -> bool:
    return True


def seconds_to_next_try(candidates: Candidates, clock: Clock) -> float:
    started_s = clock.now_s
    while not candidates.take_due(nobody, ()):
        clock.now_s += 0.25
    return clock.now_s - started_s


def announced(candidates: Candidates) -> None:
    candidates.see("10.0.0.2:1", B, "attic")


def asked_for(candidates: Candidates) -> None:
    candidates.want("10.0.0.2:1")


def passed_on(candidates: Candidates) -> None:
    candidates.hear_of("10.0.0.2:1")


def once_a_member(candidates: Candidates) -> None:
    candidates.hear_of("10.0.0.2:1", B)
    candidates.succeeded("10.0.0.2:1", B)


@pytest.mark.parametrize("found", [announced, asked_for, passed_on, once_a_member])
def test_an_address_is_tried_every_few_seconds_however_long_it_fails(candidates: Candidates, clock: Clock, found):
    found(candidates)
    pauses_s = []
    while clock.now_s < A_DAY_S / 8:
        pauses_s.append(seconds_to_next_try(candidates, clock))
        candidates.failed("10.0.0.2:1", SILENT, "open it")
    assert pauses_s[:5] == [0.0, 0.5, 1.0, 2.0, 4.0]
    assert set(pauses_s[5:]) == {5.0}


def test_a_member_is_not_tried_and_is_at_once_when_it_is_lost(candidates: Candidates, clock: Clock):
    once_a_member(candidates)
    assert candidates.take_due(everybody, ()) == []
    clock.now_s = A_DAY_S
    assert candidates.take_due(nobody, ()) == ["10.0.0.2:1"]


def test_a_new_announcement_or_another_network_is_worth_a_try_now(candidates: Candidates, clock: Clock):
    announced(candidates)
    for _ in range(9):
        candidates.failed("10.0.0.2:1", SILENT, "open it")
    assert candidates.take_due(nobody, ()) == []
    announced(candidates)
    assert candidates.take_due(nobody, ()) == ["10.0.0.2:1"]
    candidates.failed("10.0.0.2:1", SILENT, "open it")
    candidates.try_all_now()
    assert candidates.take_due(nobody, ()) == ["10.0.0.2:1"]


def test_what_anybody_announces_is_bounded_and_what_counts_stays(candidates: Candidates, clock: Clock):
    candidates.want("asked:1")
    once_a_member(candidates)
    for number in range(3 * MAX_CANDIDATES):
        clock.now_s += 1.0
        candidates.see(f"10.1.0.0:{number}")
    kept = {one.address for one in candidates}
    assert len(kept) == MAX_CANDIDATES
    assert {"asked:1", "10.0.0.2:1", f"10.1.0.0:{3 * MAX_CANDIDATES - 1}"} <= kept
    due = candidates.take_due(nobody, ())
    assert due[0] == "asked:1"
    assert len(due) == MAX_HANDSHAKES
    assert candidates.take_due(nobody, due) == []


def test_who_is_asked_for_or_seen_and_not_reached_is_shown_once_with_cause_and_fix(
    candidates: Candidates, clock: Clock
):
    announced(candidates)
    candidates.see("10.9.0.2:1", B, "attic")
    asked = "cellar:1"
    candidates.want(asked)
    passed_on(candidates)
    candidates.hear_of("10.3.0.3:1")
    for address in ("10.0.0.2:1", "10.9.0.2:1", asked, "10.3.0.3:1"):
        candidates.failed(address, SILENT, "open it")
    assert candidates.unreached(nobody) == []  # one that starts a moment later is no news
    clock.now_s += 10.0
    candidates.failed(asked, ConnectionRefused("cellar:1 refuses connections"), "start it")
    shown = {(one.who, one.reason, one.fix, one.since_s) for one in candidates.unreached(nobody)}
    assert shown == {
        ("attic (10.0.0.2:1)", str(SILENT), "open it", 10.0),
        ("cellar:1", "cellar:1 refuses connections", "start it", 10.0),
    }
    assert candidates.unreached(everybody) == []


def test_who_is_announced_no_more_is_not_shown_and_tried_all_the_same(candidates: Candidates, clock: Clock):
    announced(candidates)
    candidates.failed("10.0.0.2:1", SILENT, "open it")
    candidates.lose_sight(B, ("10.0.0.7:1",))
    clock.now_s += 10.0
    assert candidates.unreached(nobody) == []
    assert candidates.take_due(nobody, ()) == ["10.0.0.2:1"]


def test_one_that_was_reached_starts_anew(candidates: Candidates, clock: Clock):
    announced(candidates)
    for _ in range(9):
        candidates.failed("10.0.0.2:1", SILENT, "open it")
    candidates.succeeded("10.0.0.2:1", B)
    clock.now_s += 100.0
    assert candidates.unreached(nobody) == []
    candidates.take_due(nobody, ())
    candidates.failed("10.0.0.2:1", SILENT, "open it")
    assert seconds_to_next_try(candidates, clock) == 0.5
