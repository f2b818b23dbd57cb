"""All that one ``viscot stats`` command was asked for, worked out once, then drawn in any format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from viscot_core.errors import UsageError
from viscot_core.report.analysis import analyse
from viscot_core.report.compare import (
    Comparison,
    RunDifference,
    check_same_judge,
    compare_runs,
    compare_to_paper,
)
from viscot_core.report.export import (
    Row,
    baseline_rows,
    comparison_json,
    difference_json,
    paper_rows,
    stats_rows,
    to_csv,
    to_json,
)
from viscot_core.report.figures import By, Options, Stats
from viscot_core.report.names import title
from viscot_core.report.runs import Run
from viscot_core.report.summary import stats_tables
from viscot_core.report.tables import Format, Table, count, draw, interval, number, p_value, percent


@dataclass(frozen=True)
class Asked:
    """The command's options."""

    options: Options = field(default_factory=Options)
    detection: bool = False
    compare: str | None = None
    """``paper`` or ``paper:MODEL``."""
    baseline: Run | None = None
    mix_judges: bool = False


@dataclass(frozen=True)
class RunSheet:
    """One run's part."""

    stats: Stats
    paper: list[Comparison]
    paper_notes: list[str]
    baseline: list[RunDifference]


@dataclass(frozen=True)
class Sheet:
    """Everything, for one or several runs."""

    asked: Asked
    parts: list[RunSheet]

    def tables(self) -> list[Table]:
        tables = _overview_tables(self.parts)
        for part in self.parts:
            tables += stats_tables(part.stats, detection=self.asked.detection)
            tables += _figure_tables(part.stats.run)
            tables += _paper_tables(part)
            tables += _baseline_tables(part, self.asked.baseline)
        return tables

    def to_text(self, form: Format) -> str:
        """TABLE, MARKDOWN, LATEX or CSV."""
        if form is Format.CSV:
            return to_csv(row for part in self.parts for row in self._rows(part))
        return draw(self.tables(), form)

    def _rows(self, part: RunSheet) -> Iterator[Row]:
        name = part.stats.run.name
        yield from stats_rows(part.stats)
        yield from paper_rows(name, part.paper)
        if self.asked.baseline is not None:
            yield from baseline_rows(name, self.asked.baseline.name, part.baseline)

    def to_json(self) -> dict[str, Any]:
        """One run: the contract of ``export.to_json``; several: that under ``runs`` and each run's name."""
        if len(self.parts) == 1:
            return _part_json(self.parts[0])
        return {"runs": {part.stats.run.name: _part_json(part) for part in self.parts}}


def make_sheet(runs: Sequence[Run], asked: Asked) -> Sheet:
    """Work everything out.

    Raises:
        UsageError: runs of different judges, two runs of one name, or a comparison that makes no sense.
    """
    check_same_judge([*runs, *([asked.baseline] if asked.baseline else [])], mix_judges=asked.mix_judges)
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise UsageError(
            f"Two of the runs are called {max(names, key=names.count)}; rename one of the folders."
        )
    model = _compare_model(asked.compare)
    if asked.compare and asked.options.by is not By.DATASET:
        raise UsageError("--compare paper needs the figures by data set; leave --by out.")
    return Sheet(asked, [_part(run, asked, model) for run in runs])


def _compare_model(compare: str | None) -> str | None:
    what, _, model = (compare or "paper").partition(":")
    if what != "paper":
        raise UsageError(
            f"There is nothing to compare with called '{what}'; say --compare paper or paper:MODEL."
        )
    return model or None


def _part(run: Run, asked: Asked, model: str | None) -> RunSheet:
    stats = analyse(run, asked.options)
    paper, notes = compare_to_paper(stats, model) if asked.compare else ([], [])
    baseline = (
        compare_runs(run, asked.baseline, asked.options, mix_judges=asked.mix_judges)
        if asked.baseline
        else []
    )
    if asked.detection:
        paper = [c for c in paper if c.metric == "acc50"]
        baseline = [d for d in baseline if d.metric == "acc50"]
    return RunSheet(stats, paper, notes, baseline)


def _figure_tables(run: Run) -> list[Table]:
    """What the library that ran the tasks says of them, in its own units."""
    rows = [
        (strategy, task, metric, f"{value:.4g}")
        for strategy, tasks in run.info.figures.items()
        for task, metrics in tasks.items()
        for metric, value in metrics.items()
    ]
    header = ("strategy", "task", "metric", "figure")
    return [Table(f"{run.name}: figures of whole tasks", header, rows, [])] if rows else []


def _paper_tables(part: RunSheet) -> list[Table]:
    if not (part.paper or part.paper_notes):
        return []
    rows = []
    for c in part.paper:
        digits = 3 if c.metric == "score" else 1
        rows.append(
            (
                f"{c.table}",
                c.model,
                c.strategy,
                {"score": "answers", "acc50": "box acc %", "general": "lmms-eval"}[c.metric],
                title(c.dataset),
                f"{c.yours:.{digits}f}",
                interval(c.ci95, digits=digits),
                f"{c.theirs:.{digits}f}",
                f"{c.difference:+.{digits}f}",
                "-" if c.ci95 is None else "differs" if c.excluded else "within",
                count(c.n, c.of),
            )
        )
    header = (
        "table", "their model", "strategy", "figure", "data set", "yours", "95 % interval", "theirs",
        "difference", "interval", "n of N",
    )  # fmt: skip
    return [Table(f"{part.stats.run.name} beside the paper", header, rows, part.paper_notes)]


def _baseline_tables(part: RunSheet, baseline: Run | None) -> list[Table]:
    if baseline is None:
        return []
    rows = [
        (
            d.strategy,
            "answers" if d.metric == "score" else "box acc",
            f"{d.test.mean:+.3f}",
            interval(d.test.interval, signed=True),
            p_value(d.test.p),
            str(d.test.n),
        )
        for d in part.baseline
    ]
    header = ("strategy", "figure", "difference", "95 % interval", "p", "pairs")
    notes = [] if rows else ["The two runs share no scored question."]
    return [Table(f"{part.stats.run.name} minus {baseline.name}", header, rows, notes)]


def _overview_tables(parts: Sequence[RunSheet]) -> list[Table]:
    """Several runs side by side, before each one's own tables."""
    if len(parts) < 2:
        return []
    rows = []
    for part in parts:
        stats = part.stats
        for strategy in stats.run.strategies:
            answers, boxes = stats.answers.get(strategy), stats.boxes.get(strategy)
            told = [number(answers.overall.mean), interval(answers.overall.ci95)] if answers else ["", ""]
            told.append(count(answers.overall.n, answers.overall.of) if answers else "")
            told += [percent(boxes.overall.acc50), number(boxes.overall.mean_iou)] if boxes else ["", ""]
            told.append(count(boxes.overall.n, boxes.overall.of) if boxes else "")
            rows.append((stats.run.name, strategy, *told))
    header = (
        "run", "strategy", "answers", "95 % interval", "n of N", "box acc %", "mean IoU", "boxes, n of N",
    )  # fmt: skip
    return [Table("All runs", header, rows)]


def _part_json(part: RunSheet) -> dict[str, Any]:
    data = to_json(part.stats)
    if part.paper_notes:
        data["paper"] = {
            "figures": [comparison_json(one) for one in part.paper],
            "notes": part.paper_notes,
        }
    if part.baseline:
        data["baseline"] = [difference_json(one) for one in part.baseline]
    return data
