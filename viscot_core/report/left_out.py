"""Why an item stands in no mean: what lies between the n and the N of every "n of N"."""

from __future__ import annotations

from collections import Counter

from viscot_core.report.runs import Item, Run
from viscot_core.score.run import pair_of
from viscot_core.score.verdicts import State

REASONS = {
    "no image": "left out by --skip-missing",
    "not run": "the benchmark has not come to it",
    "failed": "the engine could not answer: an unreadable image, a prompt too long",
    "nothing to judge": "the item has no answer, or no reference to judge it by",
    "not judged": "the judge has not been asked",
    "pending": "the judge was asked and no reply came",
    "unscored": "no single score can be read from the judge's reply",
    "refused": "the judge refuses the item (a content filter)",
}
"""The reasons, in the order in which an item meets them."""

_VERDICTS = {State.PENDING: "pending", State.UNSCORED: "unscored", State.FAILED: "refused"}


def left_out(run: Run) -> dict[str, dict[str, int]]:
    """``strategy -> reason -> items``, reasons without items left out.

    Before any judge was asked ("not judged" of all) that reason is not counted: a note says it.
    """
    return {strategy: _of_strategy(run, strategy) for strategy in run.strategies}


def _of_strategy(run: Run, strategy: str) -> dict[str, int]:
    items = [item for item in run.items if item.strategy == strategy]
    absent = sum(n for (name, _), n in run.planned.items() if name == strategy) - len(items)
    images = sum(run.info.missing.get(name, 0) for name in run.info.planned.get(strategy, {}))
    found = Counter(reason for item in items if (reason := _reason(item, run)) is not None)
    found["no image"] = min(images, absent)
    found["not run"] = absent - found["no image"]
    return {reason: found[reason] for reason in REASONS if found[reason]}


def _reason(item: Item, run: Run) -> str | None:
    """Why the item has no score, or (an expression) no box; None where it has."""
    if not item.prediction.done:
        return "failed"
    if run.info.kind == "refcoco" or run.judge is None:
        return None
    if pair_of(item.prediction) is None:
        return "nothing to judge"
    if item.outcome is None:
        return "not judged"
    return _VERDICTS.get(item.outcome.state)
