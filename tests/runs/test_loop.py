"""The loop: what is finished is written at once, the same call goes on, other settings are refused."""

from __future__ import annotations

import concurrent.futures
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_bench import FakeEngine, speak

from viscot_core.engines.base import Generation
from viscot_core.errors import BudgetSpent, EngineError, UsageError
from viscot_core.runs.answering import Pending, answer_queries
from viscot_core.runs.journal import Journal
from viscot_core.runs.loop import Ask, Built, RunPlan, _batches, left, run
from viscot_core.runs.opening import Query
from viscot_core.runs.records import Prediction, read_predictions, read_run
from viscot_core.runs.shards import Shard
from viscot_core.tasks.visual_cot.task import VisualCot, load_visual_cot


def plan(root: Path, out: Path, *names: str, batch: int = 4, parallel: int = 1, **changes: object) -> RunPlan:
    return RunPlan(
        folder=out,
        kind="cot",
        benchmark=load_visual_cot(root),
        strategies=names or ("cot", "direct"),
        settings={"seed": 0, **changes},
        model="fake",
        data=root,
        batch=batch,
        parallel=parallel,
    )


def build(engine: FakeEngine, wrap: Callable[[Ask], Ask] = lambda ask: ask) -> Callable[[], Built]:
    ask = partial(answer_queries, VisualCot, {}, engine)
    return lambda: Built(wrap(ask), {"engine": engine.identity})


def as_table(folder: Path) -> dict[tuple[str, str, str], Prediction]:
    return {p.key: p.model_copy(update={"seconds": 0.0}) for p in read_predictions(folder)}


class Stops:
    """Passes ``good`` batches on, then raises."""

    def __init__(self, ask: Ask, good: int, error: BaseException) -> None:
        self.ask, self.good, self.error = ask, good, error

    def __call__(self, queries: Sequence[Query]) -> list[Prediction | Pending]:
        if self.good == 0:
            raise self.error
        self.good -= 1
        return self.ask(queries)


def test_a_run_is_whole_and_described(root: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    info, tally = run(
        plan(root, tmp_path / "out"),
        build(FakeEngine()),
        progress=lambda done, total: calls.append((done, total)),
    )
    assert len(as_table(tmp_path / "out")) == 24
    assert info.counts == {"done": 24, "failed": 0, "missing": 0, "pending": 0}
    assert info.planned == {"cot": {"made": 12}, "direct": {"made": 12}}
    assert read_run(tmp_path / "out") == info
    assert (tally.finished, calls[0], calls[-1]) == (24, (0, 24), (24, 24))
    assert info.settings["engine"] == {"engine": "fake", "weights": "0"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), EngineError("gone")])
@pytest.mark.parametrize("parallel", [1, 3])
def test_what_was_finished_is_kept_and_the_same_call_goes_on(
    root: Path, tmp_path: Path, error: BaseException, parallel: int
) -> None:
    run(plan(root, tmp_path / "whole"), build(FakeEngine()))
    out = tmp_path / "out"
    with pytest.raises(type(error)):
        run(plan(root, out, parallel=parallel), build(FakeEngine(), lambda ask: Stops(ask, 1, error)))
    before = len(read_predictions(out))
    assert before >= 8
    assert read_run(out).counts["pending"] == 24 - before
    engine = FakeEngine()
    info, tally = run(plan(root, out), build(engine))
    assert tally.finished == 24 - before
    assert len(engine.prompts) < 36
    assert info.counts["done"] == 24
    assert as_table(out) == as_table(tmp_path / "whole")


def test_nothing_left_means_no_model_is_loaded(root: Path, tmp_path: Path) -> None:
    run(plan(root, tmp_path), build(FakeEngine()))

    def refuse() -> Built:
        raise AssertionError("loaded")

    info, tally = run(plan(root, tmp_path), refuse)
    assert (tally.finished, info.counts["done"]) == (0, 24)
    assert info.settings["engine"] == {"engine": "fake", "weights": "0"}


def test_a_whole_run_is_not_taken_for_that_of_other_weights(root: Path, tmp_path: Path) -> None:
    """Retrained into the same folder, the same command: the old answers are not the new model's."""
    whole = plan(root, tmp_path)
    run(whole, build(FakeEngine()))
    info, _ = run(replace(whole, weights=lambda: "0"), build(FakeEngine()))
    assert info.counts["done"] == 24
    with pytest.raises(UsageError, match=r"engine.weights: '0' -> '1'"):
        run(replace(whole, weights=lambda: "1"), build(FakeEngine()))


def test_more_may_be_asked_later(root: Path, tmp_path: Path) -> None:
    run(plan(root, tmp_path, "cot"), build(FakeEngine()))
    info, tally = run(plan(root, tmp_path, "cot", "gt-box"), build(FakeEngine()))
    assert tally.finished == 12
    assert info.planned == {"cot": {"made": 12}, "gt-box": {"made": 12}}


def test_changed_weights_and_settings_are_refused(root: Path, tmp_path: Path) -> None:
    run(plan(root, tmp_path, "cot"), build(FakeEngine()))
    with pytest.raises(UsageError, match="seed: 0 -> 1"):
        run(plan(root, tmp_path, "cot", seed=1), build(FakeEngine()))
    other = FakeEngine()
    other.identity = {"engine": "fake", "weights": "1"}
    with pytest.raises(UsageError, match=r"engine.weights: '0' -> '1'"):
        run(plan(root, tmp_path, "direct"), build(other))
    benchmark = root / "benchmark" / "made.json"
    benchmark.write_text(benchmark.read_text().replace("thing 1", "thing 2"))
    with pytest.raises(UsageError, match="data of made"):
        run(plan(root, tmp_path, "cot"), build(FakeEngine()))


def test_batch_and_order_do_not_change_predictions(root: Path, tmp_path: Path) -> None:
    tables = []
    for name, batch, parallel in (("one", 1, 1), ("five", 5, 1), ("many", 100, 1), ("threads", 2, 4)):
        run(plan(root, tmp_path / name, batch=batch, parallel=parallel), build(FakeEngine()))
        tables.append(as_table(tmp_path / name))
    assert all(table == tables[0] for table in tables)


def test_open_items_are_pending_and_tried_again(root: Path, tmp_path: Path) -> None:
    def busy(prompt: str) -> str | Generation:
        return Generation("", 0, False, "HTTP 503", transient=True) if "Place 5?" in prompt else speak(prompt)

    info, tally = run(plan(root, tmp_path), build(FakeEngine(busy)))
    assert info.counts == {"done": 22, "failed": 0, "missing": 0, "pending": 2}
    assert info.pending == tally.open == {"HTTP 503": 2}
    info, tally = run(plan(root, tmp_path), build(FakeEngine()))
    assert (tally.finished, info.counts["done"], info.pending) == (2, 24, {})


def test_a_spent_budget_leaves_the_rest_pending(root: Path, tmp_path: Path) -> None:
    spent = BudgetSpent("--max-requests 12 are used up")
    info, tally = run(plan(root, tmp_path, batch=2), build(FakeEngine(), lambda ask: Stops(ask, 2, spent)))
    assert info.counts["pending"] == 8
    assert tally.open == {"--max-requests 12 are used up": 8}


def test_an_interruption_keeps_what_has_come(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(running: set[Future[list[Prediction | Pending]]], **_: object) -> None:
        concurrent.futures.wait(running)
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules[run.__module__], "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(plan(root, tmp_path, parallel=3), build(FakeEngine()))
    assert read_run(tmp_path).counts["done"] == 24


def test_ranks_share_the_images(root: Path, tmp_path: Path) -> None:
    whole = plan(root, tmp_path)
    with Journal(tmp_path) as journal:
        shares = [left(replace(whole, shard=Shard(rank, 4)), journal) for rank in range(4)]
        assert sorted(item.name for share in shares for item, _ in share) == sorted(
            item.name for item, _ in left(whole, journal)
        )
    images = [{item.path for item, _ in share} for share in shares]
    assert sum(map(len, images)) == len(set().union(*images)) == 6


@pytest.mark.parametrize(("each", "sizes"), [(1, [8] * 6), (3, [18, 18, 12]), (12, [32, 16]), (40, [32, 16])])
def test_the_more_questions_an_image_has_the_more_are_asked_at_once(each: int, sizes: list[int]) -> None:
    """Eight at a time: so many images with one question, at most four times so many questions."""
    work: Any = [(SimpleNamespace(path=Path(str(number // each))), ("cot",)) for number in range(48)]
    made = list(_batches(work, 8, by_image=True))
    assert [len(batch) for batch in made] == sizes and list(chain(*made)) == work


@pytest.mark.parametrize(
    ("size", "each", "sizes"), [(3, 16, [16] * 3), (1, 20, [16, 4, 16, 4, 8]), (1, 1, [1] * 48)]
)
def test_questions_about_an_image_stay_together_where_little_fits(
    size: int, each: int, sizes: list[int]
) -> None:
    work: Any = [(SimpleNamespace(path=Path(str(number // each))), ("cot",)) for number in range(48)]
    made = list(_batches(work, size, by_image=True))
    assert [len(batch) for batch in made] == sizes and list(chain(*made)) == work
