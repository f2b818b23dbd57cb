"""The tables of the reference implementation, digit for digit, to compare new runs with its old printouts.

The reference differs from viscot's own tables:

* a data set without scores counts as 0 in the average, an empty one makes it nan; visual7w is excluded;
* a failed or unreadable judge call counts as 0 (here: every item without a score);
* the detection average excludes data sets at 0 %;
* a box without spaces after its commas, with words before it or a full stop after it counts as wrong;
* "Error format" is one too high.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from viscot_core.boxes.geometry import Box, iou
from viscot_core.report.reference.results import REFCOCO, STRATEGIES
from viscot_core.report.scored_run import ScoredItem, ScoredRun

STYLES = {
    "Text": ("docvqa", "textcap", "textvqa", "dude", "sroie"),
    "Chart": ("infographicsvqa",),
    "General vqa": ("flickr30k",),
    "Reasoning vqa": ("gqa", "openimages", "vsr"),
    "Fine-grained": ("cub",),
}
DATASETS = tuple(name for members in STYLES.values() for name in members)


def reference_tables(run: ScoredRun) -> str:
    """What the reference's scripts would print for this run: scores, then boxes."""
    parts = []
    if run.has_answers:
        parts.append(_answers({name: _scores(run, ours) for name, ours in STRATEGIES.items()}))
    boxes: dict[str, list[ScoredItem]] = {}
    for item in run.items:
        if item.strategy in ("cot", "refcoco") and item.prediction.box_gt is not None:
            boxes.setdefault(item.dataset, []).append(item)
    if found := {name: boxes[name] for name in DATASETS if name in boxes}:
        parts.append(_boxes(found, latex=False))
    if found := {long: boxes[short] for long, short in REFCOCO.items() if short in boxes}:
        parts.append(_boxes(found, latex=True))
    return "\n".join(parts)


def _scores(run: ScoredRun, strategy: str) -> dict[str, list[float]]:
    """Scores by data set as in the reference's files: an item without a score has 0."""
    scores: dict[str, list[float]] = {d: [] for s, d in run.planned if s == strategy}
    for item in run.items:
        if item.strategy == strategy:
            scores[item.dataset].append(item.score or 0.0)
    return scores


def _answers(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    rows = [["Benchmark/Dataset", *(d.capitalize() for d in DATASETS), "Average"]]
    styles = [["Benchmark/Dataset Style", *STYLES, "Average"]]
    for benchmark, by_dataset in scores.items():
        means = {d: _mean(by_dataset[d]) if d in by_dataset else 0.0 for d in DATASETS}
        average = _mean(list(means.values()))
        name = benchmark.capitalize()
        rows.append([name, *(f"{m:.3f}" for m in [*means.values(), average])])
        by_style = [_mean([means[d] for d in members]) for members in STYLES.values()]
        styles.append([name, *(f"{m:.3f}" for m in [*by_style, average])])
    return "\n".join([*(" & ".join(row) for row in rows), _grid(rows), _grid(styles)])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _grid(rows: Sequence[Sequence[str]]) -> str:
    """Bordered like the reference's table library, which shows whole numbers without decimals."""
    shown = [list(rows[0]), *([row[0], *(_short(cell) for cell in row[1:])] for row in rows[1:])]
    widths = [max(len(row[i]) for row in shown) for i in range(len(shown[0]))]

    def rule(mark: str) -> str:
        return "+" + "+".join(mark * (w + 2) for w in widths) + "+"

    lines = [rule("-")]
    for number, row in enumerate(shown):
        cells = [_placed(cell, width, number == 0) for cell, width in zip(row, widths, strict=True)]
        lines.append("| " + " | ".join(cells) + " |")
        lines.append(rule("=" if number == 0 else "-"))
    return "\n".join(lines)


def _placed(cell: str, width: int, centred: bool) -> str:
    if not centred:
        return cell.ljust(width)
    left = (width - len(cell)) // 2
    return " " * left + cell + " " * (width - len(cell) - left)


def _short(cell: str) -> str:
    value = float(cell)
    return str(round(value)) if math.isfinite(value) and value == round(value) else cell


def _boxes(by_dataset: Mapping[str, Sequence[ScoredItem]], *, latex: bool) -> str:
    accuracy: dict[str, float] = {}
    malformed: dict[str, int] = {}
    lines = []
    for name, items in by_dataset.items():
        hits = [reference_hit(item) for item in items]
        accuracy[name] = sum(hit is True for hit in hits) / len(hits) * 100
        malformed[name] = sum(hit is None for hit in hits) + 1
        lines.append(f"Accuracy for {name}: {accuracy[name]:.2f}, Error format: {malformed[name]}")
    if above := [a for a in accuracy.values() if a]:
        lines += ["", f"Average Accuracy: {sum(above) / len(above):.3f}"]
    lines += ["", "Accuracy Table:", *(f"{name}: {value}" for name, value in accuracy.items())]
    if latex:
        lines.append(" & ".join(f"{value:.2f}" for value in accuracy.values()))
    return "\n".join([*lines, "", "Error format:", *(f"{name}: {n}" for name, n in malformed.items())])


def reference_hit(item: ScoredItem) -> bool | None:
    """Whether the box is right as the reference parses it; None if it calls the text malformed."""
    prediction = item.prediction
    words = (prediction.box_text or "").replace(" .", "").replace("[", "").replace("]", "").split(", ")
    try:
        coords = [float(word) for word in words[:4]]
    except ValueError:
        return None
    if len(coords) < 4:
        return None
    if not all(map(math.isfinite, coords)) or prediction.box_gt is None:
        return False
    x0, y0, x1, y1 = coords
    return iou(Box(x0, y0, x1, y1), Box(*prediction.box_gt)) > 0.5
