"""Prometheus metrics: requests as this node's API sees them, the cluster as its state says at the scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from exo_lite.domain.cluster_document import ClusterDocument, ModelDocument, NodeDocument
from exo_lite.domain.request import FinishReason

_FIRST_TOKEN_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_INTER_TOKEN_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_REQUEST_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

_COUNTERS: tuple[tuple[str, str, Callable[[ModelDocument], int]], ...] = (
    (
        "prefix_cache_queries",
        "Prompt tokens looked up in the prefix cache.",
        lambda model: model["prefix_cache"]["prompt_tokens"],
    ),
    (
        "prefix_cache_hits",
        "Prompt tokens found in the prefix cache.",
        lambda model: model["prefix_cache"]["cached_tokens"],
    ),
    (
        "spec_decode_num_draft_tokens",
        "Guesses at tokens.",
        lambda model: model["speculation"]["proposed_tokens"],
    ),
    (
        "spec_decode_num_accepted_tokens",
        "Guesses at tokens that were right.",
        lambda model: model["speculation"]["accepted_tokens"],
    ),
)
"""Name, description, and the number of a model."""

State = Callable[[], ClusterDocument]


class RequestMetrics:
    """The registry of one app. Prompts and answers never enter it, only counts and times."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, state: State) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_ClusterCollector(state))
        self._prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts that were taken.")
        self._generation_tokens = self._counter("generation_tokens", "Tokens generated.")
        self._success = self._counter("request_success", "Answers that came to their end.", "finished_reason")
        self._first_token = self._histogram("time_to_first_token_seconds", _FIRST_TOKEN_BUCKETS_S)
        self._inter_token = self._histogram("inter_token_latency_seconds", _INTER_TOKEN_BUCKETS_S)
        self._latency = self._histogram("e2e_request_latency_seconds", _REQUEST_BUCKETS_S)

    def exposition(self) -> bytes:
        """The text format of a scrape."""
        return generate_latest(self._registry)

    @contextmanager
    def request(self, clock: Callable[[], float], *, num_prompt_tokens: int) -> Iterator[ObservedRequest]:
        """Observe one answer from its submission on."""
        self._prompt_tokens.inc(num_prompt_tokens)
        started_at_s = clock()
        yield ObservedRequest(self, clock, started_at_s)
        self._latency.observe(clock() - started_at_s)

    def observe_token(self, *, waited_s: float, is_first: bool) -> None:
        self._generation_tokens.inc()
        (self._first_token if is_first else self._inter_token).observe(waited_s)

    def observe_success(self, finish_reason: FinishReason) -> None:
        self._success.labels(finish_reason).inc()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"exo_lite_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, buckets: tuple[float, ...]) -> Histogram:
        text = f"{name.removesuffix('_seconds').replace('_', ' ').capitalize()}, in seconds."
        return Histogram(f"exo_lite_{name}", text, buckets=buckets, registry=self._registry)


class ObservedRequest:
    """The times between the tokens of one answer."""

    def __init__(self, metrics: RequestMetrics, clock: Callable[[], float], started_at_s: float) -> None:
        self._metrics = metrics
        self._clock = clock
        self._last_at_s = started_at_s
        self._is_first = True

    def token_seen(self) -> None:
        now_s = self._clock()
        self._metrics.observe_token(waited_s=now_s - self._last_at_s, is_first=self._is_first)
        self._last_at_s, self._is_first = now_s, False

    def finished(self, finish_reason: FinishReason) -> None:
        self._metrics.observe_success(finish_reason)


class _ClusterCollector(Collector):
    """Gauges read from the state document when they are asked for."""

    def __init__(self, state: State) -> None:
        self._state = state

    def describe(self) -> Iterable[Metric]:
        return ()  # the registry would otherwise collect once to learn the names

    def collect(self) -> Iterable[Metric]:
        state = self._state()
        yield from _request_gauges(state["models"])
        yield from _cache_metrics(state["models"])
        yield from _node_gauges(state["nodes"])
        yield _layer_gauge(state["models"])


def _request_gauges(models: Sequence[ModelDocument]) -> Iterator[GaugeMetricFamily]:
    running, waiting = (
        GaugeMetricFamily(f"exo_lite_num_requests_{key}", f"Requests {key}, cluster-wide.", labels=["model"])
        for key in ("running", "waiting")
    )
    for model in models:
        running.add_metric([model["id"]], model["requests"]["running"])
        waiting.add_metric([model["id"]], model["requests"]["waiting"])
    yield running
    yield waiting


def _cache_metrics(models: Sequence[ModelDocument]) -> Iterator[Metric]:
    """Counters start anew with each placement, as Prometheus expects of a restart."""
    blocks = GaugeMetricFamily("exo_lite_kv_blocks", "Blocks of the KV cache, by use.", labels=["model", "kind"])
    for model in models:
        blocks.add_metric([model["id"], "total"], model["kv_blocks"]["total"])
        blocks.add_metric([model["id"], "free"], model["kv_blocks"]["free"])
    yield blocks
    for name, text, count in _COUNTERS:
        counter = CounterMetricFamily(f"exo_lite_{name}", text, labels=["model"])
        for model in models:
            counter.add_metric([model["id"]], count(model))
        yield counter


def _node_gauges(nodes: Sequence[NodeDocument]) -> Iterator[GaugeMetricFamily]:
    up = GaugeMetricFamily("exo_lite_peer_up", "1 while a peer is alive.", labels=["node", "node_id"])
    memory = GaugeMetricFamily(
        "exo_lite_node_memory_bytes", "What a node offers to models, by use.", labels=["node", "node_id", "kind"]
    )
    for node in nodes:
        labels = [node["name"], node["id"]]
        if not node["self"]:
            up.add_metric(labels, float(node["state"] == "alive"))
        for key, num_bytes in node["memory"].items():
            memory.add_metric([*labels, key.removesuffix("_bytes")], num_bytes)
    yield up
    yield memory


def _layer_gauge(models: Sequence[ModelDocument]) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(
        "exo_lite_node_layers", "Layers of a model that a node holds.", labels=["node", "node_id", "model"]
    )
    for model in models:
        for shard in model["shards"]:
            num_layers = shard["end_layer"] - shard["start_layer"] + 1
            gauge.add_metric([shard["node"], shard["node_id"], model["id"]], num_layers)
    return gauge
