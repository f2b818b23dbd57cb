"""The figures of ``viscot bench vqa``: each data set's mean; POPE's precision, recall, F1, share of yes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from viscot_core.runs.records import RunInfo, read_predictions, read_run
from viscot_core.score.offline import MEASURES, OfflineJudge, normalise, says_no
from viscot_core.score.scoring import score_run
from viscot_core.score.verdicts import pair_of

Figures = dict[str, float]


def score_vqa(run: Path, judge: str) -> RunInfo:
    """Judge the run's answers offline and keep the figures of each data set in its ``run.json``.

    Answers without a reference are left alone. Raises DataError and UsageError as ``score_run`` does.
    """
    score_run(run, OfflineJudge(judge))
    groups: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for prediction in read_predictions(run):
        if (pair := pair_of(prediction)) is not None:
            groups[prediction.strategy, prediction.dataset].append((pair.reference, pair.answer))
    figures: dict[str, dict[str, Figures]] = defaultdict(dict)
    for (strategy, dataset), pairs in groups.items():
        figures[strategy][dataset] = {judge: fmean(MEASURES[judge](*pair) for pair in pairs)}
        if judge == "yes-no":
            figures[strategy][dataset] |= yes_no_figures(pairs)
    info = read_run(run).model_copy(update={"figures": dict(figures)})
    info.save(run)
    return info


def yes_no_figures(pairs: Sequence[tuple[str, str]]) -> Figures:
    """POPE's figures of (reference, answer) pairs, yes being the positive; all 0..1, 0 where undefined."""
    true = [(normalise(reference) != "no", not says_no(answer)) for reference, answer in pairs]
    hits = sum(wanted and said for wanted, said in true)
    said_yes, wanted_yes = sum(said for _, said in true), sum(wanted for wanted, _ in true)
    return {
        "precision": hits / said_yes if said_yes else 0.0,
        "recall": hits / wanted_yes if wanted_yes else 0.0,
        "f1": 2 * hits / (said_yes + wanted_yes) if said_yes + wanted_yes else 0.0,
        "yes": said_yes / len(true),
    }
