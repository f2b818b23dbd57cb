"""What answers cost to compute: each image and each prefix once, each prompt's own tokens, no padding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from viscot_core.conversation import Message
from viscot_core.engines.base import Counting, Request
from viscot_core.engines.transformers.engine import LocalEngine
from viscot_core.families.limits import decode_flop, llm_flop, projector_flop, tower_flop
from viscot_core.families.shapes import TowerShape
from viscot_core.images.reading import open_image
from viscot_core.images.view import crop, view_of
from viscot_core.models.load import LoadedModel, load_model
from viscot_core.runs.tally import Tally


@pytest.fixture(scope="module")
def loaded(golden: Path) -> LoadedModel:
    return load_model(golden / "tiny_llava", device="cpu", dtype="fp32")


@pytest.mark.parametrize("reuse", [True, False])
def test_every_part_is_counted_once(loaded: LoadedModel, golden: Path, reuse: bool) -> None:
    view = view_of(open_image(golden / "images" / "square.png"))
    requests = [
        Request((Message("user", f"<image>\n{words}"),), (view,), 12)
        for words in ("How many circles are there?", "Where?")
    ]
    engine = LocalEngine(loaded, batch_size=2, reuse=reuse)
    engine._work.flop = 0.0
    generations = engine.generate(requests)
    assert loaded.family.training is not None
    shape = loaded.family.training.shape_of_config(loaded.model.config)
    rendered = [loaded.processor.render(r.messages, [view.image.size], generate=True).ids for r in requests]
    image = next(iter(i for i in set(rendered[0]) if rendered[0].count(i) == shape.tower.tokens))
    prefix = len(rendered[0]) - rendered[0][::-1].index(image) if reuse else 0
    expected = tower_flop(shape.tower) + projector_flop(shape)
    expected += llm_flop(shape.llm, prefix, heads=0) if reuse else 0.0
    for ids, generation in zip(rendered, generations, strict=True):
        expected += llm_flop(shape.llm, len(ids) - prefix, prefix)
        expected += decode_flop(shape.llm, generation.tokens - 1, len(ids))
    assert engine._work.flop == pytest.approx(expected)


def test_a_look_costs_what_it_reads_anew(loaded: LoadedModel, golden: Path) -> None:
    """Of a talk that goes on: the last crop and the words since the one before it."""
    view = view_of(open_image(golden / "images" / "square.png"))
    look = (Message("assistant", "here"), Message("user", "<image>\nWhere?"))
    views = (view, crop(view, (0, 0, 30, 30)), crop(view, (5, 5, 40, 40)))
    first = Message("user", "<image>\nWhere?")
    talk = [Request((first, *look * count), views[: count + 1], 3, follow_ups=1) for count in range(3)]
    engine = LocalEngine(loaded, batch_size=2)
    engine.generate(talk[:1])
    engine.generate(talk[1:2])
    engine._work.flop = 0.0
    (said,) = engine.generate(talk[2:])
    assert loaded.family.training is not None
    shape = loaded.family.training.shape_of_config(loaded.model.config)
    ids = loaded.processor.render(talk[2].messages, [v.image.size for v in views], generate=True).ids
    image = next(iter(i for i in set(ids) if ids.count(i) == 3 * shape.tower.tokens))
    places = [place for place, token in enumerate(ids) if token == image]
    start = places[2 * shape.tower.tokens - 1] + 1
    expected = tower_flop(shape.tower) + projector_flop(shape)
    expected += llm_flop(shape.llm, len(ids) - start, start)
    expected += decode_flop(shape.llm, said.tokens - 1, len(ids))
    assert engine._work.flop == pytest.approx(expected)


def test_seconds_at_the_peak_of_a_known_gpu(loaded: LoadedModel) -> None:
    engine = LocalEngine(loaded)
    engine._work.flop = 989e12
    assert engine._work.least_seconds("NVIDIA H100 80GB HBM3") == pytest.approx(1.0)
    assert engine._work.least_seconds("A card of tomorrow") is None
    assert isinstance(engine, Counting) and engine.least_seconds() is None  # (a CPU has no such table)


def test_the_share_of_the_limit_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from viscot_cli.bench_report import report
    from viscot_core.runs.records import RunInfo

    info = RunInfo.model_construct(warnings=[], counts={"done": 40, "failed": 0, "missing": 0, "pending": 0})
    report(tmp_path, info, Tally(finished=40, seconds=2.0, least_seconds=0.8), "next")
    assert "20.0 a second, 40% of what this GPU could do at best" in capsys.readouterr().out.replace("\n", "")


def test_a_tile_is_a_pass_of_its_own_and_merged_patches_are_all_read() -> None:
    one = TowerShape(64, 4, 128, 28, 14)
    assert tower_flop(replace(one, tiles=13)) == 13 * tower_flop(one)
    merged = replace(one, merge=2)
    assert merged.tokens == one.tokens / 4 and tower_flop(merged) == tower_flop(one)
    assert tower_flop(replace(one, gated=True)) > tower_flop(one)
