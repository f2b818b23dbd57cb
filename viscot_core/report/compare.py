"""Compares a run with the paper's figures, and with another run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from statistics import fmean
from typing import Any, NamedTuple

import yaml

from viscot_core.errors import UsageError, nearest
from viscot_core.report.analysis import paired
from viscot_core.report.choices import Average, By
from viscot_core.report.intervals import Interval, PairedTest
from viscot_core.report.names import DATASETS, paper_order
from viscot_core.report.scored_run import ScoredItem, ScoredRun, check_same_judge
from viscot_core.report.stats_types import Stats, StatsOptions

PAPER_DEFAULT = "VisCoT-7B@336"
"""The paper's model that a run of an unknown model is compared with."""


@dataclass(frozen=True)
class Published:
    """One row of a table of the paper: a model's figures by data set or benchmark.

    ``acc50`` is in percent, ``score`` is 0..1, ``general`` is in percent (MME: in points).
    """

    table: int
    metric: str
    model: str
    strategy: str
    figures: dict[str, float]
    tasks: tuple[str, ...]
    """The kinds of runs (``RunInfo.kind``) that the row is compared with."""
    by: By = By.DATASET
    """What the columns are."""
    crop: str | None = None
    """The crop policy that the row is of; None: whatever the run has."""


class LmmsFigure(NamedTuple):
    """Where lmms-eval reports a column of Tables 8 and 10: task, metric, factor to the paper's unit."""

    task: str
    metric: str
    scale: float


@dataclass(frozen=True)
class Paper:
    """``published.yaml``."""

    judge: str
    rows: tuple[Published, ...]
    """Every row of the paper's tables 3, 4, 5, 7, 8, 9 and 10."""
    lmms_figures: dict[str, LmmsFigure]
    """By column of Tables 8 and 10."""
    lmms_notes: dict[str, str]
    """By column: why it differs for a known reason."""
    training: dict[str, int]
    """Table 2: rows of the training data by data set, in whole thousands; ``data stats`` shows them."""


@cache
def load_paper() -> Paper:
    """The paper's figures."""
    data: dict[str, Any] = yaml.safe_load(
        files("viscot_core.report").joinpath("published.yaml").read_text(encoding="utf-8")
    )
    rows: list[Published] = []
    figures: dict[str, LmmsFigure] = {}
    notes: dict[str, str] = {}
    for table in data["tables"]:
        for row in table["rows"]:
            cells = zip(table["columns"], row["values"], strict=True)
            values = {column: value for column, value in cells if value is not None}
            names = (row["model"], row["strategy"], values, tuple(table["tasks"]))
            by = By(table.get("by", "dataset"))
            rows.append(Published(table["table"], table["metric"], *names, by, row.get("crop")))
        figures |= {column: LmmsFigure(*place) for column, place in table.get("lmms_eval", {}).items()}
        notes |= table.get("notes", {})
    return Paper(data["judge"], tuple(rows), figures, notes, data["training"])


@dataclass(frozen=True)
class Comparison:
    """A figure of this run and the paper's, in the paper's unit."""

    table: int
    model: str
    strategy: str
    metric: str
    dataset: str
    yours: float
    ci95: Interval | None
    """None if the figure is not a mean of samples (F1, MME, MMBench), or of a single one."""
    theirs: float
    n: int
    of: int

    @property
    def difference(self) -> float:
        return self.yours - self.theirs

    @property
    def excluded(self) -> bool:
        """Whether the paper's figure lies outside the interval."""
        return self.ci95 is not None and self.ci95.excludes(self.theirs)


def paper_model(run: ScoredRun, wanted: str | None = None) -> str:
    """The paper's model to compare a run with: ``wanted``, else the one that the run's model names, else the
    default.

    Raises:
        UsageError: the paper has no such model.
    """
    models = {row.model for row in _rows_for(run)}
    if wanted:
        by_name = {m.lower(): m for m in models}
        if wanted.lower() not in by_name:
            raise UsageError(f"The paper has no model '{wanted}'.{nearest(wanted, models)}")
        return by_name[wanted.lower()]
    match = re.search(r"viscot.?(7|13)b.?(224|336)", run.info.model, re.IGNORECASE)
    named = f"VisCoT-{match[1]}B@{match[2]}" if match else PAPER_DEFAULT
    return named if named in models else PAPER_DEFAULT


def compare_to_paper(
    stats: Stats, wanted: str | None = None, *, by_domain: Stats | None = None
) -> tuple[list[Comparison], list[str]]:
    """Every figure that run and paper both have, with overall means over those data sets only; and remarks.

    ``stats`` must be by data set; ``by_domain`` is the same run by domain (Table 5). Tables 4 and 5 (other
    sources of the box, other crops) exist for VisCoT-7B@224 only.
    """
    model = paper_model(stats.run, wanted)
    judge, remarks = load_paper().judge, load_paper().lmms_notes
    found = []
    for row in _rows_for(stats.run):
        if row.metric == "general":
            found += list(_general(stats, row)) if row.model == model else []
        elif row.by is By.DOMAIN:
            if by_domain and (row.model == model or wanted is None) and row.crop == _crop(stats.run):
                found += list(_against_domains(by_domain, row))
        elif row.model == model or (row.table == 4 and row.strategy != "cot" and wanted is None):
            found += list(_against(stats, row))
    notes = [f"The paper's figures are those of {model} unless another model is named (arXiv 2403.16999)."]
    mine = stats.run.judge
    if any(c.metric == "score" for c in found) and (mine is None or mine.model != judge):
        notes.append(
            f"The paper's judge was {judge}, yours is {mine.describe() if mine else 'none'}: the scores may "
            "differ because of the judge."
        )
    notes += _as_the_reference_reads(stats, found)
    notes += [remarks[c.dataset] for c in found if c.metric == "general" and c.dataset in remarks]
    if not found:
        notes.append("The run and the paper have no data set and strategy in common.")
    return found, notes


def _crop(run: ScoredRun) -> str:
    return str(run.info.settings.get("crop_policy", "paper"))


def _as_the_reference_reads(stats: Stats, found: list[Comparison]) -> list[str]:
    """The accuracy of boxes under the reference's reading, where repaired boxes make ours higher."""
    from viscot_core.report.reference.printed_tables import reference_hit

    notes = []
    for strategy in dict.fromkeys(c.strategy for c in found if c.metric == "acc50"):
        cell = stats.boxes[strategy].overall
        if not cell.repaired or cell.acc50 is None:
            continue
        hits: dict[str, list[bool]] = {}
        for item in stats.run.items:
            if item.strategy == strategy and item.iou is not None:
                name = item.dataset if stats.average is Average.DATASETS else ""
                hits.setdefault(name, []).append(reference_hit(item) is True)
        theirs = fmean(fmean(values) for values in hits.values())
        notes.append(
            f"{cell.repaired} of {cell.n} boxes of {strategy} were repaired; the reference counts most of "
            f"these as wrong. As it reads them, overall is {100 * theirs:.1f}, not {100 * cell.acc50:.1f}."
        )
    return notes


def _rows_for(run: ScoredRun) -> list[Published]:
    """The rows to compare with. A data set and an lmms-eval task of one name ask different questions."""
    return [row for row in load_paper().rows if run.info.kind in row.tasks]


def _general(stats: Stats, row: Published) -> Iterator[Comparison]:
    """Tables 8 and 10: lmms-eval's own figures, with an interval if they are means of the samples' scores."""
    tasks = stats.run.info.figures.get(row.strategy, {})
    for column, theirs in row.figures.items():
        task, metric, scale = load_paper().lmms_figures[column]
        value = tasks.get(task, {}).get(metric)
        if value is None:
            continue
        cell = stats.answers[row.strategy].groups.get(task)
        ends = None
        # The interval is that of the samples' mean: it holds only where lmms-eval's figure is this mean.
        if cell and cell.ci95 and cell.mean is not None and abs(cell.mean - value) < 1e-6:
            ends = Interval(scale * cell.ci95.low, scale * cell.ci95.high)
        n, of = (cell.n, cell.of) if cell else (0, 0)
        yield Comparison(
            row.table, row.model, row.strategy, row.metric, column, scale * value, ends, theirs, n, of
        )


def _against(stats: Stats, row: Published) -> Iterator[Comparison]:
    cells: dict[str, tuple[float, Interval | None, int, int]] = {}
    scale = 100 if row.metric == "acc50" else 1
    if row.metric == "score" and row.strategy in stats.answers:
        part = stats.answers[row.strategy]
        for name, a in [*part.groups.items(), ("overall", part.overall)]:
            if a.mean is not None:
                cells[name] = (a.mean, a.ci95, a.n, a.of)
    elif row.metric == "acc50" and row.strategy in stats.boxes:
        boxes = stats.boxes[row.strategy]
        for name, b in [*boxes.groups.items(), ("overall", boxes.overall)]:
            if b.acc50 is not None:
                cells[name] = (b.acc50, b.ci95, b.n, b.of)
    overall = cells.pop("overall", None)
    shared = [name for name in paper_order(set(cells)) if name in row.figures]
    # Overall covers all data sets of the run: comparable only where the paper has each of them.
    if overall and shared and len(shared) == len(cells):
        mean = sum(row.figures[name] for name in shared) / len(shared)
        yield _comparison(row, f"mean of {len(shared)}", overall, mean, scale)
    for name in shared:
        yield _comparison(row, name, cells[name], row.figures[name], scale)


def _against_domains(stats: Stats, row: Published) -> Iterator[Comparison]:
    """Domains of which the run has every data set that the paper has."""
    part = stats.answers.get(row.strategy)
    scored = {item.dataset for item in stats.run.items if item.score is not None}
    for name, theirs in row.figures.items():
        whole = {d.key for d in DATASETS if d.domain == name}
        if part and whole <= scored and (cell := part.groups.get(name)) and cell.mean is not None:
            yield _comparison(row, name, (cell.mean, cell.ci95, cell.n, cell.of), theirs, 1)


def _comparison(
    row: Published, name: str, cell: tuple[float, Interval | None, int, int], theirs: float, scale: int
) -> Comparison:
    value, ends, n, of = cell
    scaled = Interval(scale * ends.low, scale * ends.high) if ends else None
    return Comparison(
        row.table, row.model, row.strategy, row.metric, name, scale * value, scaled, theirs, n, of
    )


@dataclass(frozen=True)
class RunDifference:
    """One strategy of a run minus the same of the baseline run, on the questions both have."""

    strategy: str
    metric: str
    """``score`` or ``acc50`` (0..1)."""
    test: PairedTest
    datasets: list[str]
    """The data sets that the questions are of."""


def compare_runs(
    run: ScoredRun, baseline: ScoredRun, options: StatsOptions, *, mix_judges: bool = False
) -> list[RunDifference]:
    """Paired differences ``run - baseline`` of answer scores and of box accuracy at IoU > 0.5.

    Raises:
        UsageError: the scores come from different judges.
    """
    check_same_judge([run, baseline], mix_judges=mix_judges)
    found = []
    for strategy in run.strategies:
        mine = [i for i in run.items if i.strategy == strategy]
        theirs = [i for i in baseline.items if i.strategy == strategy]
        for metric, value in (("score", _score), ("acc50", _hit)):
            if pairs := paired(mine, theirs, options, strategy, metric, value=value):
                found.append(RunDifference(strategy, metric, *pairs))
    return found


def _score(item: ScoredItem) -> float | None:
    return item.score


def _hit(item: ScoredItem) -> float | None:
    return None if item.iou is None else float(item.iou > 0.5)
