"""The order of tenants: start-time fair queueing (Goyal, Vin and Cheng 1996)."""

from __future__ import annotations

from collections.abc import Iterable


class FairShare:
    """Counts what each tenant was served. Whoever was idle comes in at the present: no credit for the past."""

    def __init__(self) -> None:
        self._now = 0.0
        self._served_until: dict[str, float] = {}

    def first(self, tenants: Iterable[str]) -> str:
        """The one served least; among equals the first. `tenants`: at least one, those with work, in any order."""
        return min(tenants, key=self._start)

    def charge(self, tenant: str, cost: float) -> None:
        """A tenant's turn, which costs so much."""
        self._now = self._start(tenant)
        until = self._now + cost
        self._served_until = {one: end for one, end in self._served_until.items() if end > self._now} | {tenant: until}

    def refund(self, tenant: str, cost: float) -> None:
        """Refund what a tenant was charged for and did not use."""
        if tenant in self._served_until:
            self._served_until[tenant] -= cost

    def _start(self, tenant: str) -> float:
        return max(self._now, self._served_until.get(tenant, 0.0))
