"""One item is shown whole, with the prompts the engine really got."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from made_bench import FakeEngine, write_root
from made_runs import prediction, write_run
from PIL import Image

from viscot_core.conversation import BOX_REQUEST
from viscot_core.errors import ImageError, UsageError
from viscot_core.runs.answering import answer_queries
from viscot_core.runs.loop import Built, RunPlan, run
from viscot_core.runs.replay import replay_item
from viscot_core.tasks.visual_cot.strategies import STRATEGIES
from viscot_core.tasks.visual_cot.task import VisualCot, load_visual_cot


@pytest.fixture
def finished(tmp_path: Path) -> tuple[Path, FakeEngine]:
    root = write_root(tmp_path / "data")
    engine = FakeEngine()
    engine.identity["template"] = "vicuna_v1"
    benchmark, settings = load_visual_cot(root), {"protocol": "paper"}
    plan = RunPlan(tmp_path / "out", "cot", benchmark, tuple(STRATEGIES), settings, "fake", root)
    ask = partial(answer_queries, VisualCot, settings, engine)
    run(plan, lambda: Built(ask, {"engine": engine.identity}))
    return tmp_path / "out", engine


def test_prompts_are_those_the_engine_got(finished: tuple[Path, FakeEngine]) -> None:
    out, engine = finished
    shown = replay_item(out, "made:9")
    assert [each.prediction.strategy for each in shown] == list(STRATEGIES)
    for each in shown:
        assert each.prompts
        assert set(each.prompts) <= set(engine.prompts)


def test_it_is_drawn(finished: tuple[Path, FakeEngine], tmp_path: Path) -> None:
    (shown,) = replay_item(finished[0], "made:9", strategy="cot")
    shown.save(tmp_path / "nine.png")
    assert Image.open(tmp_path / "nine.png").width > 100
    assert list(tmp_path.glob("*part*")) == []
    with pytest.raises(UsageError, match="change the ending"):
        shown.save(tmp_path / "nine.txt")
    shown.image.unlink()
    with pytest.raises(ImageError):
        shown.draw()


def test_unknown_items_are_named(finished: tuple[Path, FakeEngine]) -> None:
    with pytest.raises(UsageError, match="Did you mean 'made:9'"):
        replay_item(finished[0], "mad:9", strategy="cot")
    with pytest.raises(UsageError, match="not 'best'"):
        replay_item(finished[0], "made:9", strategy="best")


def test_an_answer_whose_box_is_not_on_record_shows_the_first_prompt_only(tmp_path: Path) -> None:
    """As of runs imported from the reference's answers alone."""
    lone = prediction(box_text=None, box_status=None, box=None, crop=None, iou=None)
    (shown,) = replay_item(write_run(tmp_path, [lone]), "synth:1")
    assert len(shown.prompts) == 1 and BOX_REQUEST in shown.prompts[0]


def test_what_this_version_does_not_know_has_no_prompts(tmp_path: Path) -> None:
    (shown,) = replay_item(write_run(tmp_path, [prediction(strategy="later")]), "synth:1")
    assert shown.prompts == ()
