"""The queue of waiting requests: in order within a tenant, in turn between tenants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from exo_lite.domain.ids import RequestId
from exo_lite.domain.request import GenerateRequest
from exo_lite.pipeline.fair_share import FairShare

MAX_OVERTAKEN = 64
"""A request overtaken this often by later ones of other tenants is next, whatever the shares."""


@dataclass(slots=True)
class _Waiting:
    request: GenerateRequest
    num_overtaken: int = 0


class RequestQueue:
    """Holds up to `max_waiting` requests; when full, a tenant with more than its share gives a place to others."""

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._share = FairShare()
        self._waiting: dict[RequestId, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._waiting

    @property
    def is_full(self) -> bool:
        return len(self._waiting) >= self._max_waiting

    @property
    def requests(self) -> Iterator[GenerateRequest]:
        """Yield the requests in the order of their arrival."""
        return (waiting.request for waiting in self._waiting.values())

    def add(self, request: GenerateRequest) -> None:
        self._waiting[request.request_id] = _Waiting(request)

    def displace_for(self, tenant: str) -> RequestId | None:
        """Take out the last request of the tenant with the most of them; None where `tenant` has its share already."""
        counts = Counter(request.asked.tenant for request in self.requests)
        greedy, count = next(iter(counts.most_common(1)), ("", 0))
        if counts[tenant] + 1 >= count:
            return None
        last = next(one for one in reversed(self._waiting) if self._waiting[one].request.asked.tenant == greedy)
        del self._waiting[last]
        return last

    def first(self) -> GenerateRequest | None:
        """The request whose turn it is."""
        firsts: dict[str, GenerateRequest] = {}
        for waiting in self._waiting.values():
            if waiting.num_overtaken >= MAX_OVERTAKEN:
                return waiting.request
            firsts.setdefault(waiting.request.asked.tenant, waiting.request)
        return firsts[self._share.first(firsts)] if firsts else None

    def take(self, request: GenerateRequest) -> None:
        """A request has its turn; its tenant is charged for all that it may come to."""
        for waiting in self._waiting.values():
            if waiting.request is request:
                break
            waiting.num_overtaken += 1
        del self._waiting[request.request_id]
        self._share.charge(request.asked.tenant, request.num_tokens)

    def refund(self, request: GenerateRequest, num_unused: int) -> None:
        """A request that was taken ended with so many tokens less than it might have come to."""
        self._share.refund(request.asked.tenant, num_unused)

    def remove(self, request_id: RequestId) -> None:
        self._waiting.pop(request_id, None)
