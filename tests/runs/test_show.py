"""One item is told whole, with the prompts the engine really got."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_bench import FakeEngine, write_root
from PIL import Image

from viscot_core.boxes.registry import codec
from viscot_core.errors import ImageError, UsageError
from viscot_core.policies.wording import Wording
from viscot_core.runs.run import Built, Plan, run
from viscot_core.runs.show import show_item
from viscot_core.tasks.asking import Speaker
from viscot_core.tasks.cot import CotAsker
from viscot_core.tasks.items import load_cot
from viscot_core.tasks.strategies import STRATEGIES


@pytest.fixture
def finished(tmp_path: Path) -> tuple[Path, FakeEngine]:
    root = write_root(tmp_path / "data")
    engine = FakeEngine()
    engine.identity["template"] = "vicuna_v1"
    plan = Plan(tmp_path / "out", load_cot(root), tuple(STRATEGIES), {"protocol": "paper"}, "fake", root)
    run(plan, lambda: Built(CotAsker(Speaker(engine, Wording(codec("viscot")))), {"engine": engine.identity}))
    return tmp_path / "out", engine


def test_prompts_are_those_the_engine_got(finished: tuple[Path, FakeEngine]) -> None:
    out, engine = finished
    shown = show_item(out, "made:9")
    assert [each.prediction.strategy for each in shown] == list(STRATEGIES)
    for each in shown:
        assert each.prompts
        assert set(each.prompts) <= set(engine.prompts)


def test_it_is_drawn(finished: tuple[Path, FakeEngine], tmp_path: Path) -> None:
    (shown,) = show_item(finished[0], "made:9", strategy="cot")
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
        show_item(finished[0], "mad:9", strategy="cot")
    with pytest.raises(UsageError, match="not 'best'"):
        show_item(finished[0], "made:9", strategy="best")
