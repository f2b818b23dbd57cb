"""Scores one run folder with one judge: asks for each answer that has no verdict yet, and appends it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from viscot_core.runs.records import Key, Prediction, read_predictions
from viscot_core.score.base import Judge
from viscot_core.score.verdicts import (
    Outcome,
    Pair,
    ScoreLog,
    Scores,
    State,
    Verdict,
    check_belongs,
    pair_of,
    read_scores,
    scores_path,
)

Progress = Callable[[int], None]
"""Called with the number of items that just got an outcome."""


@dataclass(frozen=True)
class ScoreReport:
    """How many answers of a run one judge has scored; the states add up to ``items``."""

    path: Path
    items: int
    states: dict[State, int]
    new: int
    """Verdicts written by this call."""
    clipped: int
    unanswered: int
    """Predictions that failed, so there is no answer to judge; not part of ``items``."""
    cut_off: int
    """Answers that the token limit cut before their first word: nothing to judge; not part of ``items``."""
    reasons: dict[str, int]
    """Why items are unscored, pending or failed, or scored 0 unread by a rule; most frequent first."""

    @property
    def complete(self) -> bool:
        return not self.states[State.PENDING] and not self.states[State.FAILED] and not self.unanswered

    @property
    def truncated(self) -> float:
        """The share of the judge's replies that the token limit cut, 0..1."""
        replies = sum(self.states[state] for state in (State.SCORED, State.UNSCORED, State.TRUNCATED))
        return self.states[State.TRUNCATED] / replies if replies else 0.0


def open_pairs(
    predictions: Sequence[Prediction], scores: Scores, *, retry_unscored: bool = False
) -> dict[Pair, list[Prediction]]:
    """The pairs that still have to be judged, each with the items that share it."""
    # Pending and failed items are asked again in every run; an unscored one has a reply already, and is asked
    # again only on request.
    final = {State.SCORED} if retry_unscored else {State.SCORED, State.UNSCORED, State.TRUNCATED}
    todo: dict[Pair, list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        pair = pair_of(prediction)
        verdict = scores.verdicts.get(prediction.key)
        if pair is not None and (verdict is None or verdict.outcome.state not in final):
            todo[pair].append(prediction)
    return dict(todo)


def score_run(
    run: Path,
    judge: Judge,
    *,
    name: str | None = None,
    retry_unscored: bool = False,
    same_engine: bool = False,
    progress: Progress | None = None,
) -> ScoreReport:
    """Judge every answer of ``run`` that has no verdict yet and append it to ``scores.<name>.jsonl``.

    After an interruption the same call continues.

    Raises:
        DataError: the scores file belongs to another run.
        UsageError: the scores file belongs to another judge.
        EngineError: the judge cannot work at all.
    """
    predictions = read_predictions(run)
    path = scores_path(run, name or judge.identity.name)
    with ScoreLog(path, judge.identity, same_engine=same_engine) as log:
        check_belongs(log.scores, predictions)
        verdicts = dict(log.scores.verdicts)
        todo = open_pairs(predictions, log.scores, retry_unscored=retry_unscored)
        new = 0

        def done(pair: Pair, outcome: Outcome) -> None:
            nonlocal new
            # One verdict for every item that shares the pair, each on a line of its own.
            digest = pair.digest()
            lines = [Verdict(p.strategy, p.dataset, p.question_id, outcome, digest) for p in todo[pair]]
            log.append(lines)
            verdicts.update((v.key, v) for v in lines)
            new += len(lines)
            if progress:
                progress(len(lines))

        asked = _reuse(todo, log.scores, predictions, done)
        if asked:
            judge.judge(asked, done)
    return _report(path, predictions, verdicts, new)


def pairs_to_ask(
    run: Path, judge: Judge, *, name: str | None = None, retry_unscored: bool = False
) -> list[Pair]:
    """The pairs that ``score_run`` would ask the judge about; writes nothing."""
    predictions = read_predictions(run)
    path = scores_path(run, name or judge.identity.name)
    scores = read_scores(path) if path.exists() else Scores(judge.identity, {}, path)
    check_belongs(scores, predictions)
    todo = open_pairs(predictions, scores, retry_unscored=retry_unscored)
    return _reuse(todo, scores, predictions, lambda pair, outcome: None)


def _reuse(
    todo: dict[Pair, list[Prediction]],
    scores: Scores,
    predictions: Sequence[Prediction],
    done: Callable[[Pair, Outcome], None],
) -> list[Pair]:
    """Reuse the score of an equal pair (under another strategy); returns the pairs left to ask."""
    # The digest is of the texts alone, and a protocol reads the same reply in two benchmarks by two rules.
    benchmarks = {p.key: p.benchmark or "" for p in predictions}
    known = {
        (v.pair, benchmarks.get(v.key, "")): v.outcome
        for v in scores.verdicts.values()
        if v.outcome.state is State.SCORED and v.pair
    }
    rest = []
    for pair in todo:
        if outcome := known.get((pair.digest(), pair.benchmark)):
            done(pair, outcome)
        else:
            rest.append(pair)
    return rest


def _report(
    path: Path, predictions: Sequence[Prediction], verdicts: dict[Key, Verdict], new: int
) -> ScoreReport:
    states = dict.fromkeys(State, 0)
    reasons: Counter[str] = Counter()
    clipped = items = 0
    for prediction in predictions:
        if pair_of(prediction) is None:
            continue
        items += 1
        verdict = verdicts.get(prediction.key)
        states[verdict.outcome.state if verdict else State.PENDING] += 1
        if verdict and (verdict.outcome.reason or verdict.outcome.state is not State.SCORED):
            reasons[verdict.outcome.reason or "no reason recorded"] += 1
        clipped += bool(verdict and verdict.outcome.clipped)
    unanswered = sum(p.reference is not None and not p.done for p in predictions)
    cut_off = sum(
        p.status == "truncated" and p.reference is not None and pair_of(p) is None for p in predictions
    )
    return ScoreReport(path, items, states, new, clipped, unanswered, cut_off, dict(reasons.most_common()))
