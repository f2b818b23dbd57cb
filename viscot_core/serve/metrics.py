"""What a server counts, in Prometheus' text format (version 0.0.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
PROMPTS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The metrics of one server, in a registry of its own: two servers in one process do not mix.

    ``in_flight`` and ``waiting`` are called whenever the metrics are read.
    """

    def __init__(self, *, in_flight: Callable[[], float], waiting: Callable[[], float]) -> None:
        self._registry = registry = CollectorRegistry()
        # The client adds "_total" to the name of every counter.
        self.requests = Counter(
            "viscot_requests",
            "Chat completions by HTTP status and strategy.",
            ("status", "strategy"),
            registry=registry,
        )
        self.boxes = Counter(
            "viscot_boxes",
            "Boxes the model named, by how they could be read.",
            ("status",),
            registry=registry,
        )
        self.tokens = Counter(
            "viscot_tokens",
            "Tokens read (prompt) and written (completion).",
            ("kind",),
            registry=registry,
        )
        self.seconds = Histogram(
            "viscot_request_seconds",
            "Time of a chat completion, from its first byte to its answer.",
            buckets=SECONDS,
            registry=registry,
        )
        self.batches = Histogram(
            "viscot_batch_prompts", "Prompts that ran together.", buckets=PROMPTS, registry=registry
        )
        self.engine_seconds = Counter(
            "viscot_engine_seconds", "Time the engine was generating.", registry=registry
        )
        _gauge(registry, "viscot_in_flight", "Requests in work or waiting.", in_flight)
        _gauge(registry, "viscot_prompts_waiting", "Prompts that no batch has taken yet.", waiting)

    def add_batch(self, prompts: int, seconds: float) -> None:
        """Count one batch of the engine."""
        self.batches.observe(prompts)
        self.engine_seconds.inc(seconds)

    def text(self) -> str:
        """Everything, as Prometheus reads it."""
        return generate_latest(_WithoutCreated(self._registry)).decode()


class _WithoutCreated(Collector):
    """The metrics of a registry without the client's extra gauges for the time each was created."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [each for each in metric.samples if not each.name.endswith("_created")]
            yield metric


def _gauge(registry: CollectorRegistry, name: str, documentation: str, read: Callable[[], float]) -> None:
    Gauge(name, documentation, registry=registry).set_function(read)
