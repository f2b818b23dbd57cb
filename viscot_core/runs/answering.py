"""From queries to records: the rollout asks, the task measures, and what failed says why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, runtime_checkable

from viscot_core import rollout
from viscot_core.data.traces.trace import trace_of
from viscot_core.engines.base import Engine
from viscot_core.policies.base import Answer, Policy, Question
from viscot_core.policies.zoom_settings import settings_of
from viscot_core.rollout import Turn
from viscot_core.runs.opening import Query
from viscot_core.runs.records import Key, Prediction
from viscot_core.runs.turns import Turns
from viscot_core.tasks.base import Item, Measuring, Settings


@dataclass(frozen=True)
class Pending:
    """A query that could not be answered now and is left for the next call."""

    key: Key
    reason: str


@runtime_checkable
class Continuing(Protocol):
    """A task whose questions were begun, or answered, in another run."""

    @property
    def engine(self) -> Mapping[str, Any]:
        """The identity of that run's engine."""
        ...

    def check(self, known: Mapping[str, Any], *, same_engine: bool = False) -> None:
        """Raise UsageError where ``known`` (the engine's identity, the prompts) is not that run's.

        ``same_engine``: the user says that the server is that run's, whatever its address.
        """
        ...

    def begun(self, key: Key) -> Sequence[Turn]:
        """The first turns of a query, which are not asked again."""
        ...

    def answered(self, key: Key) -> Prediction | None:
        """The record of a query that needs no asking."""
        ...


def answer_queries(
    task: Measuring,
    settings: Settings,
    engine: Engine,
    queries: Sequence[Query],
    turns: Turns | None = None,
    before: Continuing | None = None,
) -> list[Prediction | Pending]:
    """What became of each query, in order: a record, or the reason why there is none yet.

    With ``turns``, what was said before is not asked again, and first turns are kept as they come. ``before``
    is what another run knows of the queries.

    Raises:
        EngineError: the engine is gone; a failure of one query is its record.
    """
    if before is not None:
        known = {query.key: found for query in queries if (found := before.answered(query.key))}
        unknown = [query for query in queries if query.key not in known]
        asked = iter(_answers(task, settings, engine, unknown, turns, before) if unknown else ())
        return [known.get(query.key) or next(asked) for query in queries]
    return _answers(task, settings, engine, queries, turns, None)


def _answers(
    task: Measuring,
    settings: Settings,
    engine: Engine,
    queries: Sequence[Query],
    turns: Turns | None,
    before: Continuing | None,
) -> list[Prediction | Pending]:
    strategies = {name: task.all_strategies[name] for name in {query.strategy for query in queries}}
    policies = {name: strategy.policy(settings) for name, strategy in strategies.items()}
    ready = [(query, query.loaded.view) for query in queries if query.loaded.view is not None]
    answers = rollout.run(
        [policies[query.strategy] for query, _ in ready],
        engine,
        [strategies[query.strategy].question(query.loaded.item, view, settings) for query, view in ready],
        said={number: _said(query.key, turns, before) for number, (query, _) in enumerate(ready)},
        on_turn=(lambda number, turn: turns.add(ready[number][0].key, turn)) if turns else None,
    )
    answered = {query.key: answer for (query, _), answer in zip(ready, answers, strict=True)}
    return [_outcome(task, settings, query, answered.get(query.key)) for query in queries]


def _said(key: Key, turns: Turns | None, before: Continuing | None) -> list[Turn]:
    """The first turns of a query: those of another run, then those that this run has heard already."""
    return [*(before.begun(key) if before else ()), *(turns.of(key) if turns else ())]


def answer_stream(
    task: Measuring,
    settings: Settings,
    engine: Engine,
    batches: Iterable[Sequence[Query]],
    *,
    width: int,
    before: Continuing | None = None,
) -> Iterator[list[Prediction | Pending]]:
    """What became of the queries, as they are finished, with ``width`` of them open at a time.

    For strategies whose questions end at different steps: a batch that waited for its longest question would
    be nearly empty at the end.

    Raises:
        EngineError: the engine is gone; a failure of one query is its record.
    """
    policies: dict[str, Policy] = {}
    open_queries: dict[int, Query] = {}
    unread: list[Prediction | Pending] = []
    said: dict[int, Sequence[Turn]] = {}

    def asked() -> Iterator[tuple[Policy, Question]]:
        for number, query in enumerate(_readable(batches, unread, task, settings, before)):
            open_queries[number] = query
            # Read by the rollout as it takes the question, so it is here in time.
            said[number] = _said(query.key, None, before)
            strategy = task.all_strategies[query.strategy]
            policy = policies.setdefault(query.strategy, strategy.policy(settings))
            assert query.loaded.view is not None
            yield policy, strategy.question(query.loaded.item, query.loaded.view, settings)

    for number, answer in rollout.stream(asked(), engine, width=width, said=said):
        outcome = _outcome(task, settings, open_queries.pop(number), answer)
        yield [*unread, outcome]
        unread.clear()
    if unread:
        yield unread


def _readable(
    batches: Iterable[Sequence[Query]],
    unread: list[Prediction | Pending],
    task: Measuring,
    settings: Settings,
    before: Continuing | None,
) -> Iterator[Query]:
    """Queries to ask; the records of those without an image, or answered ``before``, go to ``unread``."""
    for query in chain.from_iterable(batches):
        if before is not None and (known := before.answered(query.key)) is not None:
            unread.append(known)
        elif query.loaded.view is None:
            unread.append(_outcome(task, settings, query, None))
        else:
            yield query


def _outcome(
    task: Measuring, settings: Settings, query: Query, answer: Answer | None
) -> Prediction | Pending:
    item = query.loaded.item
    if answer is None:
        return record(item, query.strategy, status="failed", error=query.loaded.error or "no image")
    if answer.error is None:
        facts = task.metrics(item, answer, settings)
        status = "truncated" if answer.truncated else "done"
        thoughts = answer.thoughts or None
        facts |= {
            "seconds": answer.seconds,
            "tokens": answer.tokens,
            "prompt_tokens": answer.prompt_tokens,
            # A turn that was taken over from another run cost nothing here.
            "calls": sum(1 for cost in answer.costs if any(cost)),
            "thoughts": thoughts,
            "seen": answer.seen,
            **answer.probability_facts,
        }
        return record(item, query.strategy, status=status, trace=_trace(item, answer, settings), **facts)
    if answer.transient:  # another try may help
        return Pending(query.key, answer.error)
    trace = _trace(item, answer, settings)
    return record(item, query.strategy, status="failed", error=answer.error, trace=trace)


def _trace(item: Item, answer: Answer, settings: Settings) -> dict[str, Any] | None:
    """The talk of a policy that may look often; None of all others."""
    if not answer.messages:
        return None
    zoom = settings_of(settings.get("zoom") or {})
    return trace_of(
        answer,
        images=(item.image,),
        question=item.question,
        dialect=zoom.dialect,
        crop_from=zoom.crop_from,
        id=item.name,
        reference=item.reference,
        box=item.box,
    ).to_row()


def record(item: Item, strategy: str, **facts: Any) -> Prediction:
    """The journal's line about an item under a strategy."""
    return Prediction(
        strategy=strategy,
        dataset=item.dataset,
        question_id=item.question_id,
        image=item.image,
        width=item.size[0],
        height=item.size[1],
        question=item.question,
        reference=item.reference,
        box_gt=item.box_square.coords if item.box_square else None,
        **{**item.facts, **facts},
    )
