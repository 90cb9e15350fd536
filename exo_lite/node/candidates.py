"""Addresses where peers may be, and when each is tried next. None is forgotten while the daemon lives. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from exo_lite.domain.errors import ExoLiteError
from exo_lite.domain.ids import NodeId
from exo_lite.domain.repeats import Backoff

MAX_CANDIDATES = 256
"""Anybody on the network can announce anything."""
MAX_HANDSHAKES = 16
"""Under way at the same time."""
BACKOFF = Backoff(first_s=0.5, longest_s=5.0)
"""Between tries of one address: whatever kept two nodes apart, they meet within seconds after it is gone."""
UNREACHED_AFTER_S = 3.0
"""A peer that starts a moment later is no news."""


@dataclass(slots=True)
class Candidate:
    """One address. `is_wanted` by --peer, `is_seen` on the network, `was_good` once a handshake succeeded there."""

    address: str
    found_at_s: float
    is_wanted: bool = False
    is_seen: bool = False
    was_good: bool = False
    node_id: NodeId | None = None
    name: str | None = None
    next_try_s: float = 0.0
    num_failures: int = 0
    failing_since_s: float | None = None
    reason: str = ""
    fix: str = ""
    error: type[ExoLiteError] = ExoLiteError
    """The error of the last try."""


@dataclass(frozen=True, slots=True)
class Unreached:
    """A peer that was asked for, or is seen on the network, and does not become a member."""

    node_id: NodeId | None
    name: str | None
    address: str
    since_s: float
    reason: str
    fix: str
    error: type[ExoLiteError]

    @property
    def who(self) -> str:
        return f"{self.name} ({self.address})" if self.name else self.address


class Candidates:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._by_address: dict[str, Candidate] = {}

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self._by_address.values())

    def __len__(self) -> int:
        return len(self._by_address)

    def want(self, address: str) -> None:
        """Somebody asked for it."""
        self._at(address).is_wanted = True

    def see(self, address: str, node_id: NodeId | None = None, name: str | None = None) -> None:
        """It is announced on the network: worth a try now."""
        candidate = self._at(address, node_id, name)
        candidate.is_seen = True
        candidate.next_try_s = min(candidate.next_try_s, self._clock())

    def lose_sight(self, node_id: NodeId, addresses: Collection[str]) -> None:
        """A node is not announced any more at any but these addresses. It may be there all the same."""
        for candidate in self:
            if candidate.node_id == node_id and candidate.address not in addresses:
                candidate.is_seen = False

    def hear_of(self, address: str, node_id: NodeId | None = None, name: str | None = None) -> None:
        """Others know a peer there."""
        self._at(address, node_id, name)

    def succeeded(self, address: str, node_id: NodeId, name: str | None = None) -> None:
        candidate = self._at(address, node_id, name)
        candidate.was_good = True
        candidate.num_failures, candidate.failing_since_s = 0, None

    def failed(self, address: str, error: ExoLiteError, fix: str, *, retry_after_s: float | None = None) -> None:
        """The next try comes after a pause that grows, or after the one given."""
        candidate, now_s = self._at(address), self._clock()
        candidate.num_failures += 1
        if candidate.failing_since_s is None:
            candidate.failing_since_s = now_s
        candidate.reason, candidate.fix, candidate.error = str(error), fix, type(error)
        candidate.next_try_s = now_s + (retry_after_s or BACKOFF.pause_s(candidate.num_failures))

    def try_all_now(self) -> None:
        """The network is another one."""
        for candidate in self:
            candidate.next_try_s, candidate.num_failures = self._clock(), 0

    def take_due(self, is_met: Callable[[Candidate], bool], busy: Collection[str]) -> list[str]:
        """The addresses to try now, those that were due first; each is due again later, whatever comes of it."""
        now_s = self._clock()
        due = [one for one in self if one.next_try_s <= now_s and one.address not in busy and not is_met(one)]
        due.sort(key=lambda one: (not one.is_wanted, one.next_try_s))
        taken = due[: max(0, MAX_HANDSHAKES - len(busy))]
        for one in taken:
            one.next_try_s = now_s + BACKOFF.first_s
        return [one.address for one in taken]

    def unreached(self, is_met: Callable[[Candidate], bool]) -> list[Unreached]:
        """One for each peer, whatever number of addresses it has."""
        found: dict[str, Unreached] = {}
        now_s = self._clock()
        for one in self:
            is_news = one.failing_since_s is not None and now_s - one.failing_since_s >= UNREACHED_AFTER_S
            if not (one.is_wanted or one.is_seen) or not is_news or is_met(one):
                continue
            assert one.failing_since_s is not None
            since_s = now_s - one.failing_since_s
            entry = Unreached(one.node_id, one.name, one.address, since_s, one.reason, one.fix, one.error)
            found.setdefault(one.node_id or one.address, entry)
        return list(found.values())

    def _at(self, address: str, node_id: NodeId | None = None, name: str | None = None) -> Candidate:
        candidate = self._by_address.get(address)
        if candidate is None:
            candidate = Candidate(address, self._clock())
            if len(self._by_address) >= MAX_CANDIDATES:
                self._drop_one()
            self._by_address[address] = candidate
        if node_id is not None:
            candidate.node_id = node_id
        if name is not None:
            candidate.name = name
        return candidate

    def _drop_one(self) -> None:
        """The oldest that never was a member's, and only without those an old one that was."""
        droppable = [one for one in self if not one.is_wanted]
        if droppable:
            oldest = min(droppable, key=lambda one: (one.was_good, one.found_at_s))
            del self._by_address[oldest.address]
