"""Small plots as inline SVG, without a plotting library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666")
"""The palette of Okabe and Ito, which colour-blind readers can distinguish."""

WIDTH, LEFT, RIGHT, ROW, TOP = 600, 130, 60, 22, 34


@dataclass(frozen=True)
class Mark:
    """One figure with its interval, 0..1; a mark with value None is not drawn."""

    value: float | None
    low: float | None = None
    high: float | None = None


def dots(title: str, rows: Sequence[tuple[str, Sequence[Mark]]], series: Sequence[str]) -> str:
    """One line per row (a data set, a strategy), one dot with its interval per series, on an axis of 0..1."""
    lane = ROW if len(series) == 1 else max(10, 8 * len(series))
    height = TOP + len(rows) * (lane + 6) + 24
    parts = [_axis(height)]
    for number, (name, marks) in enumerate(rows):
        middle = TOP + number * (lane + 6) + lane / 2
        parts.append(_text(LEFT - 8, middle + 4, name, anchor="end"))
        for index, mark in enumerate(marks):
            y = middle + (index - (len(marks) - 1) / 2) * (lane / max(len(marks), 1))
            parts.append(_mark(mark, y, COLORS[index % len(COLORS)], value=len(marks) == 1))
    return _svg(title, height, parts) + (_legend(series) if len(series) > 1 else "")


def histogram(title: str, values: Sequence[float], bins: int = 20) -> str:
    """Histogram of values in 0..1; the last bin includes 1."""
    counts = [0] * bins
    for value in values:
        counts[min(int(value * bins), bins - 1)] += 1
    tall, high = 120, max([*counts, 1])
    height = TOP + tall + 24
    width = (WIDTH - LEFT - RIGHT) / bins
    parts = [_axis(height), _text(LEFT - 8, TOP + 10, f"{high} boxes", anchor="end")]
    for index, count in enumerate(counts):
        bar = tall * count / high
        x, y = LEFT + index * width, TOP + tall - bar
        label = f"{index / bins:.2f} to {(index + 1) / bins:.2f}: {count}"
        parts.append(
            f'<rect x="{x + 1:.1f}" y="{y:.1f}" width="{width - 2:.1f}" height="{bar:.1f}" '
            f'fill="{COLORS[0]}">'
            f"<title>{label}</title></rect>"
        )
    return _svg(title, height, parts)


def _x(value: float) -> float:
    return LEFT + value * (WIDTH - LEFT - RIGHT)


def _mark(mark: Mark, y: float, color: str, *, value: bool) -> str:
    if mark.value is None:
        return ""
    parts = []
    if mark.low is not None and mark.high is not None:
        parts.append(
            f'<line x1="{_x(mark.low):.1f}" x2="{_x(mark.high):.1f}" y1="{y:.1f}" y2="{y:.1f}" '
            f'stroke="{color}" '
            'stroke-width="2"/>'
        )
    words = f"{mark.value:.3f}" + (f" [{mark.low:.3f}, {mark.high:.3f}]" if mark.low is not None else "")
    parts.append(
        f'<circle cx="{_x(mark.value):.1f}" cy="{y:.1f}" r="4" fill="{color}"><title>{words}</title></circle>'
    )
    if value:
        parts.append(_text(WIDTH - RIGHT + 10, y + 4, f"{mark.value:.3f}"))
    return "".join(parts)


def _axis(height: int) -> str:
    lines = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = _x(tick)
        lines.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{height - 22}" stroke="#ddd"/>'
            + _text(x, height - 8, f"{tick:g}", anchor="middle")
        )
    return "".join(lines)


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _svg(title: str, height: int, parts: Sequence[str]) -> str:
    return (
        f'<svg class="plot" role="img" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
        f'<title>{escape(title)}</title><text x="0" y="14" font-weight="bold">{escape(title)}</text>'
        + "".join(parts)
        + "</svg>"
    )


def _legend(series: Sequence[str]) -> str:
    marks = (
        f'<span><i style="background:{COLORS[i % len(COLORS)]}"></i>{escape(name)}</span>'
        for i, name in enumerate(series)
    )
    return '<p class="legend">' + " ".join(marks) + "</p>"
