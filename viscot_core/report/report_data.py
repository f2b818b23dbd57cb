"""What one ``viscot stats`` command shows, computed once, then printed in any format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from viscot_core.errors import UsageError
from viscot_core.report.analysis import analyse
from viscot_core.report.audit.audit_tables import audit_json, audit_tables
from viscot_core.report.audit.figures import audits
from viscot_core.report.choices import By, Format
from viscot_core.report.compare import (
    Comparison,
    RunDifference,
    compare_runs,
    compare_to_paper,
)
from viscot_core.report.json_csv import (
    Row,
    baseline_rows,
    comparison_json,
    difference_json,
    paper_rows,
    stats_rows,
    to_csv,
    to_json,
)
from viscot_core.report.looks import (
    cost_tables,
    costs_by_strategy,
    looks_by_strategy,
    looks_json,
    looks_tables,
)
from viscot_core.report.names import title
from viscot_core.report.scored_run import ScoredRun, check_same_judge
from viscot_core.report.stats_types import Stats, StatsOptions
from viscot_core.report.tables import (
    Table,
    count,
    draw,
    interval,
    number,
    p_value,
    pair_sets,
    percent,
    stats_tables,
)

PUBLISHED = "published"
"""``--compare published``: the figures of later systems, each with its protocol."""


@dataclass(frozen=True)
class ReportOptions:
    """The options of ``viscot stats``."""

    stats: StatsOptions = field(default_factory=StatsOptions)
    detection: bool = False
    compare: str | None = None
    """``paper``, ``paper:MODEL`` or ``published``."""
    baseline: ScoredRun | None = None
    mix_judges: bool = False


@dataclass(frozen=True)
class RunReport:
    """One run: its statistics, compared with the paper and with the baseline."""

    stats: Stats
    paper: list[Comparison]
    paper_notes: list[str]
    baseline: list[RunDifference]


@dataclass(frozen=True)
class ReportData:
    """The report about one or several runs."""

    options: ReportOptions
    runs: list[RunReport]

    def tables(self) -> list[Table]:
        from viscot_core.report.benchmarks.figures import figures_tables

        tables = _overview_tables(self.runs)
        for part in self.runs:
            tables += stats_tables(part.stats, detection=self.options.detection)
            if not self.options.detection:
                tables += cost_tables(part.stats.run.name, costs_by_strategy(part.stats.run.items))
            tables += looks_tables(part.stats.run.name, looks_by_strategy(part.stats.run.items))
            tables += audit_tables(part.stats.run.name, audits(part.stats.run))
            tables += figures_tables(part.stats.run)
            tables += _figure_tables(part.stats.run)
            tables += _paper_tables(part)
            tables += self._published(part.stats)
            tables += _baseline_tables(part, self.options.baseline)
        return tables

    def _published(self, stats: Stats) -> list[Table]:
        if self.options.compare != PUBLISHED:
            return []
        from viscot_core.report.benchmarks.published import published_tables

        return published_tables(stats)

    def to_text(self, form: Format) -> str:
        """TABLE, MARKDOWN, LATEX or CSV."""
        if form is Format.CSV:
            return to_csv(row for part in self.runs for row in self._rows(part))
        return draw(self.tables(), form)

    def _rows(self, part: RunReport) -> Iterator[Row]:
        name = part.stats.run.name
        yield from stats_rows(part.stats)
        yield from paper_rows(name, part.paper)
        if self.options.baseline is not None:
            yield from baseline_rows(name, self.options.baseline.name, part.baseline)

    def to_json(self) -> dict[str, Any]:
        """One run: as ``json_csv.to_json``; several: that by run name under ``runs``."""
        if len(self.runs) == 1:
            return self._json(self.runs[0])
        return {"runs": {part.stats.run.name: self._json(part) for part in self.runs}}

    def _json(self, part: RunReport) -> dict[str, Any]:
        data = _part_json(part)
        if self.options.compare == PUBLISHED:
            from viscot_core.report.benchmarks.published import published_json

            data["published"] = published_json(part.stats)
        return data


def build_report(runs: Sequence[ScoredRun], options: ReportOptions) -> ReportData:
    """Compute the statistics and comparisons of ``runs``.

    Raises:
        UsageError: runs of different judges, two runs of one name, or a comparison that makes no sense.
    """
    check_same_judge(
        [*runs, *([options.baseline] if options.baseline else [])], mix_judges=options.mix_judges
    )
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise UsageError(
            f"Two of the runs are called {max(names, key=names.count)}; rename one of the folders."
        )
    model = _compare_model(options.compare)
    if options.compare and options.stats.by is not By.DATASET:
        raise UsageError("--compare needs figures by data set; remove --by.")
    return ReportData(options, [_part(run, options, model) for run in runs])


def _compare_model(compare: str | None) -> str | None:
    what, _, model = (compare or "paper").partition(":")
    if what not in ("paper", PUBLISHED):
        raise UsageError(f"--compare '{what}' is unknown; use --compare paper, paper:MODEL or {PUBLISHED}.")
    return model or None


def _part(run: ScoredRun, options: ReportOptions, model: str | None) -> RunReport:
    stats = analyse(run, options.stats)
    paper: list[Comparison] = []
    notes: list[str] = []
    if options.compare and options.compare != PUBLISHED:
        by_domain = analyse(run, replace(options.stats, by=By.DOMAIN))
        paper, notes = compare_to_paper(stats, model, by_domain=by_domain)
    baseline = (
        compare_runs(run, options.baseline, options.stats, mix_judges=options.mix_judges)
        if options.baseline
        else []
    )
    if options.detection:
        paper = [c for c in paper if c.metric == "acc50"]
        baseline = [d for d in baseline if d.metric == "acc50"]
    return RunReport(stats, paper, notes, baseline)


def _figure_tables(run: ScoredRun) -> list[Table]:
    """Figures of whole tasks as the library that ran them reports them, in its own units."""
    rows = [
        (strategy, task, metric, f"{value:.4g}")
        for strategy, tasks in run.info.figures.items()
        for task, metrics in tasks.items()
        for metric, value in metrics.items()
    ]
    header = ("strategy", "task", "metric", "figure")
    return [Table(f"{run.name}: figures of whole tasks", header, rows, [])] if rows else []


def _paper_tables(part: RunReport) -> list[Table]:
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


def _baseline_tables(part: RunReport, baseline: ScoredRun | None) -> list[Table]:
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
            pair_sets(d.datasets, part.stats.run.datasets),
        )
        for d in part.baseline
    ]
    header = ("strategy", "figure", "difference", "95 % interval", "p", "pairs", "data sets")
    notes = [] if rows else ["The two runs have no scored question in common."]
    return [Table(f"{part.stats.run.name} minus {baseline.name}", header, rows, notes)]


def _overview_tables(parts: Sequence[RunReport]) -> list[Table]:
    """One table that compares all runs; none for a single run."""
    if len(parts) < 2:
        return []
    rows = []
    for part in parts:
        stats = part.stats
        for strategy in stats.run.strategies:
            answers, boxes = stats.answers.get(strategy), stats.boxes.get(strategy)
            cells = [number(answers.overall.mean), interval(answers.overall.ci95)] if answers else ["", ""]
            cells.append(count(answers.overall.n, answers.overall.of) if answers else "")
            cells += [percent(boxes.overall.acc50), number(boxes.overall.mean_iou)] if boxes else ["", ""]
            cells.append(count(boxes.overall.n, boxes.overall.of) if boxes else "")
            rows.append((stats.run.name, strategy, *cells))
    header = (
        "run", "strategy", "answers", "95 % interval", "n of N", "box acc %", "mean IoU", "boxes, n of N",
    )  # fmt: skip
    return [Table("All runs", header, rows)]


def _part_json(part: RunReport) -> dict[str, Any]:
    from viscot_core.report.benchmarks.card import card_of
    from viscot_core.report.benchmarks.figures import benchmark_figures, figures_json

    data = to_json(part.stats)
    if looks := looks_by_strategy(part.stats.run.items):
        data["looks"] = {strategy: looks_json(each) for strategy, each in looks.items()}
    if costs := costs_by_strategy(part.stats.run.items):
        data["cost"] = {strategy: asdict(each) for strategy, each in costs.items()}
    if found := audits(part.stats.run):
        data["audit"] = {strategy: audit_json(each) for strategy, each in found.items()}
    if figures := benchmark_figures(part.stats.run):
        data["benchmarks"] = [figures_json(one) for one in figures]
    data["card"] = {"model": part.stats.run.info.model, **card_of(part.stats.run).fields}
    if part.paper_notes:
        data["paper"] = {
            "figures": [comparison_json(one) for one in part.paper],
            "notes": part.paper_notes,
        }
    if part.baseline:
        data["baseline"] = [difference_json(one) for one in part.baseline]
    return data
