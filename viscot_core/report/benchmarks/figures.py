"""What a score on a benchmark means: beside it chance, a constant answer, repeats, and answers not read."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from string import ascii_uppercase
from typing import Any

from viscot_core.report.scored_run import ScoredItem, ScoredRun
from viscot_core.report.tables import Table, count, number
from viscot_core.runs.records import Prediction


@dataclass(frozen=True)
class BenchmarkFigures:
    """One strategy on one benchmark; shares are 0..1, and None where they do not apply.

    ``mean`` is avg@k: over all answers of all repeats. ``pass_at_k``: the share of questions with a right
    answer in any repeat; ``all_right``: in every one. Both are over the ``whole`` questions of ``questions``
    that have a score for all ``k`` repeats. ``cycles`` is the mean by rotation of the options.
    ``chance`` guesses an option; ``constant`` always says the most frequent right letter as the options were
    asked, ``constant_in_file`` as they stand in the benchmark's own file. ``evidence_iou`` is the mean over
    the ``evidence_n`` answers that looked somewhere and whose question has evidence boxes.
    """

    strategy: str
    dataset: str
    n: int
    of: int
    k: int
    mean: float
    pass_at_k: float | None
    all_right: float | None
    whole: int | None
    questions: int
    unread: int
    chance: float | None
    constant: float | None
    constant_in_file: float | None
    cycles: dict[str, float] | None
    evidence_iou: float | None
    evidence_n: int | None


def benchmark_figures(run: ScoredRun) -> list[BenchmarkFigures]:
    """The figures of every strategy and benchmark of a run that has a score."""
    groups: dict[tuple[str, str], list[ScoredItem]] = defaultdict(list)
    for item in run.items:
        if item.prediction.benchmark is not None and item.score is not None:
            groups[item.strategy, item.dataset].append(item)
    return [_figures(run, *names, items) for names, items in groups.items()]


def question_of(prediction: Prediction) -> str:
    """The question behind a repeat: ``17`` of ``17@2``."""
    name = str(prediction.question_id)
    return name if prediction.repeat in (None, 1) else name.removesuffix(f"@{prediction.repeat}")


def _figures(run: ScoredRun, strategy: str, dataset: str, items: Sequence[ScoredItem]) -> BenchmarkFigures:
    scores = [item.score or 0.0 for item in items]
    by_question: dict[str, list[float]] = defaultdict(list)
    for item, score in zip(items, scores, strict=True):
        by_question[question_of(item.prediction)].append(score)
    k = max(map(len, by_question.values()))
    # A question without all its repeats would have had fewer chances: it is in no pass@k.
    whole = [values for values in by_question.values() if len(values) == k]
    choices = [item.prediction for item in items if item.prediction.options]
    evidence = [iou for item in items if (iou := item.prediction.evidence_iou) is not None]
    return BenchmarkFigures(
        strategy,
        dataset,
        len(items),
        run.planned.get((strategy, dataset), len(items)),
        k,
        fmean(scores),
        fmean(max(values) == 1.0 for values in whole) if k > 1 else None,
        fmean(min(values) == 1.0 for values in whole) if k > 1 else None,
        len(whole) if k > 1 else None,
        len(by_question),
        sum(bool(item.outcome and item.outcome.reason) for item in items),
        fmean(1 / len(one.options or "A") for one in choices) if choices else None,
        _most_frequent(right_letter(one) for one in choices) if choices else None,
        _most_frequent(_place_in_file(one) for one in choices) if choices else None,
        _cycles(items),
        fmean(evidence) if evidence else None,
        len(evidence) or None,
    )


def right_letter(prediction: Prediction) -> str:
    """The letter of the right option: the reference is ``B. text``."""
    return (prediction.reference or "?")[0]


def _place_in_file(prediction: Prediction) -> Hashable:
    asked = ascii_uppercase.index(right_letter(prediction))
    return prediction.order[asked] if prediction.order else asked


def _most_frequent(values: Iterable[Hashable]) -> float:
    counts = Counter(values)
    return counts.most_common(1)[0][1] / counts.total()


def _cycles(items: Sequence[ScoredItem]) -> dict[str, float] | None:
    """HR-Bench: the mean of each rotation; their own mean is the benchmark's figure."""
    groups: dict[str, list[float]] = defaultdict(list)
    for item in items:
        if item.prediction.cycle is not None:
            groups[item.prediction.cycle].append(item.score or 0.0)
    return {name: fmean(values) for name, values in sorted(groups.items())} or None


def figures_json(figures: BenchmarkFigures) -> dict[str, Any]:
    """The figures as JSON has them; those that do not apply are left out."""
    return {name: value for name, value in asdict(figures).items() if value is not None}


def figures_tables(run: ScoredRun) -> list[Table]:
    """One table of all benchmarks; none for a run of other tasks."""
    found = benchmark_figures(run)
    if not found:
        return []
    rows = [
        (
            f"{one.dataset}, {one.strategy}",
            number(one.mean),
            count(one.n, one.of),
            str(one.k),
            number(one.pass_at_k),
            number(one.all_right),
            "-" if one.whole is None else count(one.whole, one.questions),
            str(one.unread),
            number(one.chance),
            number(one.constant),
            number(one.constant_in_file),
            number(one.evidence_iou),
            str(one.evidence_n or "-"),
        )
        for one in found
    ]
    header = (
        "benchmark", "avg@k", "n of N", "k", "pass@k", "all k", "whole", "not read", "chance",
        "constant", "in file order", "evidence IoU", "its n",
    )  # fmt: skip
    notes = [
        "not read: no answer could be read for certain; it counts as wrong. constant: one letter always, the "
        "best one; in file order: the same if options were not shuffled."
    ]
    if any(one.whole is not None for one in found):
        notes.append(
            "whole: questions with a score for all k repeats; pass@k and all k are over these alone."
        )
    return [Table(f"{run.name}: benchmarks", header, rows, notes)]
