"""Counters, gauges and histograms in Prometheus' text format (version 0.0.4), and nothing more."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[tuple[str, str], ...]


class Counter:
    """A number per set of labels that only grows."""

    kind = "counter"

    def __init__(self, name: str, help_text: str) -> None:
        self.name, self.help_text = name, help_text
        self._values: dict[Labels, float] = {}
        self._lock = threading.Lock()

    def add(self, amount: float = 1, **labels: str) -> None:
        """Grow the number of these labels."""
        key = tuple(sorted(labels.items()))
        with self._lock:
            self._values[key] = self._values.get(key, 0) + amount

    def value(self, **labels: str) -> float:
        """The number of these labels, 0 where nothing was counted."""
        return self._values.get(tuple(sorted(labels.items())), 0)

    def lines(self) -> list[str]:
        """The samples."""
        with self._lock:
            return [_sample(self.name, key, value) for key, value in sorted(self._values.items())]


class Gauge:
    """A number that is asked for when it is shown."""

    kind = "gauge"

    def __init__(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        self.name, self.help_text, self._read = name, help_text, read

    def lines(self) -> list[str]:
        """The sample."""
        return [_sample(self.name, (), self._read())]


class Histogram:
    """How often values fell under each bound."""

    kind = "histogram"

    def __init__(self, name: str, help_text: str, bounds: Sequence[float]) -> None:
        self.name, self.help_text = name, help_text
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, value: float) -> None:
        """Count one value."""
        with self._lock:
            self._counts[bisect_left(self._bounds, value)] += 1
            self._sum += value

    def lines(self) -> list[str]:
        """The cumulative buckets, the sum and the count."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        out, running = [], 0
        for bound, count in zip([*map(_number, self._bounds), "+Inf"], counts, strict=True):
            running += count
            out.append(_sample(f"{self.name}_bucket", (("le", bound),), running))
        return [*out, _sample(f"{self.name}_sum", (), total), _sample(f"{self.name}_count", (), running)]


class Metrics:
    """What the server counts."""

    def __init__(self, *, in_flight: Callable[[], float], waiting: Callable[[], float]) -> None:
        self.requests = Counter("viscot_requests_total", "Chat completions by HTTP status and strategy.")
        self.boxes = Counter("viscot_boxes_total", "Boxes the model named, by how they could be read.")
        self.tokens = Counter("viscot_tokens_total", "Tokens read (prompt) and written (completion).")
        self.seconds = Histogram(
            "viscot_request_seconds",
            "Time of a chat completion, from its first byte to its answer.",
            (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
        )
        self.batches = Histogram(
            "viscot_batch_prompts", "Prompts that ran together.", (1, 2, 4, 8, 16, 32, 64)
        )
        self.engine_seconds = Counter("viscot_engine_seconds_total", "Time the engine was at work.")
        self.in_flight = Gauge("viscot_in_flight", "Requests in work or waiting.", in_flight)
        self.waiting = Gauge("viscot_prompts_waiting", "Prompts that no batch has taken yet.", waiting)

    def batch(self, prompts: int, seconds: float) -> None:
        """Count one batch of the engine."""
        self.batches.observe(prompts)
        self.engine_seconds.add(seconds)

    def text(self) -> str:
        """Everything, as Prometheus reads it."""
        out: list[str] = []
        for metric in vars(self).values():
            out += [f"# HELP {metric.name} {metric.help_text}", f"# TYPE {metric.name} {metric.kind}"]
            out += metric.lines()
        return "\n".join(out) + "\n"


def _number(value: float) -> str:
    return f"{value:g}"


def _sample(name: str, labels: Labels, value: float) -> str:
    inside = ",".join(f'{key}="{_escape(text)}"' for key, text in labels)
    shown = repr(float(value)) if value != int(value) else str(int(value))
    return f"{name}{{{inside}}} {shown}" if inside else f"{name} {shown}"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
