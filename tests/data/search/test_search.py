"""Search scenes: their promises, the true looks, and rows that training and the zoom loop read alike."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from viscot_core.boxes.geometry import Box, Frame, crop_window, iou, parse_box
from viscot_core.data.annotations import Conversation, DetectionRow, Rows, split_crop
from viscot_core.data.encode import load_views
from viscot_core.data.search.lists import make_list_scene
from viscot_core.data.search.rows import searches_of, trace_turns, training_rows, write_search
from viscot_core.data.search.scenes import (
    LARGEST_MARK,
    SearchScene,
    SearchThing,
    bar_box,
    draw_search_scene,
    draw_window,
    make_search_scene,
)
from viscot_core.errors import UsageError
from viscot_core.families.llava.pixels import square_pixels
from viscot_core.tasks.visual_cot.task import load_visual_cot


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search") / "data"
    write_search(folder, train=3, val=2, seed=3, train_images=False)
    return folder


def _windows(scene: SearchScene, chain: tuple[SearchThing, ...]) -> list[tuple[int, int, int, int]]:
    boxes = [Box(*part.box, frame=Frame.ORIGINAL) for part in chain]
    return [(0, 0, *scene.size), *(crop_window(box, scene.size) for box in boxes)]


def test_scenes_keep_their_promises() -> None:
    kinds = Counter[str]()
    for seed in range(40):
        scene = make_search_scene(seed)
        assert 2048 <= max(scene.size) <= 4096 and min(scene.size) >= 1024
        cards = {card.color for card in scene.cards}
        assert len(cards) == len(scene.cards) >= 2
        for search in searches_of(scene):
            kinds[search.kind] += 1
            assert len(search.chain) == (3 if scene.deep else 2)
            assert not cards & {part.color for part in search.chain[1:]}
            mark, holder = search.chain[-1], search.chain[-2]
            assert mark.text == search.answer and len(mark.text) == 2
            assert max(mark.box[2] - mark.box[0], mark.box[3] - mark.box[1]) <= LARGEST_MARK
            # At 112 px: too small to read before the last look, 11 px and more in it.
            side = max(holder.box[2] - holder.box[0], holder.box[3] - holder.box[1])
            assert mark.font_size * 112 / side < 6.2
            assert mark.font_size * 112 / 224 > 11
            named = [part for part in holder.parts if part.color == mark.color]
            assert named == [mark], "a colour names one thing of its holder"
    assert min(kinds.values()) > 20 and set(kinds) == {"mark", "bar", "deep"}


def test_lists_keep_their_promises() -> None:
    """Each look shows the next card whole and none beyond it: nobody can skip one."""
    for seed in range(60):
        scene = make_list_scene(seed)
        assert 2048 <= max(scene.size) <= 4096 and min(scene.size) >= 1024
        assert len({card.color for card in scene.cards}) == len(scene.cards) >= 5
        assert all(card.box[1] >= 0 and card.box[3] <= scene.size[1] for card in scene.cards)
        searches = searches_of(scene)
        assert searches
        for search in searches:
            start, between, last = search.chain
            assert search.kind == "list" and search.answer == last.text
            below = scene.cards[scene.cards.index(start) + 1 :]
            assert next(card for card in below if card.bar) is last
            width = last.box[2] - last.box[0]
            assert last.font_size * 112 / max(scene.size) < 4 < 11 <= last.font_size * 112 / width
            assert last.text_box[1] > bar_box(last)[3] and last.text_box[3] < last.box[3]
            _, (_, top, _, bottom), *_ = _windows(scene, search.chain)
            # A crop at the upper border is shifted, and may show more.
            assert between.box[3] <= bottom and (top == 0 or bottom <= last.box[1])


def test_a_share_of_lists_leaves_the_other_scenes_as_they_are(tmp_path: Path) -> None:
    counts = write_search(tmp_path / "mixed", train=12, val=2, seed=3, train_images=False, lists=0.5)
    write_search(tmp_path / "usual", train=12, val=0, seed=3, train_images=False)
    mixed, usual = (
        [json.loads(line) for line in (tmp_path / name / "scenes.jsonl").read_text().splitlines()]
        for name in ("mixed", "usual")
    )
    listed = [not scene["cards"][0]["parts"] for scene in mixed]
    assert 0 < sum(listed) < counts["scenes.jsonl"] == 14
    for scene, other, is_list in zip(mixed, usual, listed, strict=False):
        assert (scene == other) != is_list
    rows = json.loads((tmp_path / "mixed" / "train.json").read_text())
    assert {row["kind"] for row in rows} >= {"list", "mark"}
    assert len(load_visual_cot(tmp_path / "mixed").items) == 2


@pytest.mark.parametrize("make", [make_search_scene, make_list_scene])
def test_every_look_shows_the_next_thing_whole(make: Callable[[int], SearchScene]) -> None:
    for seed in range(40):
        scene = make(seed)
        for search in searches_of(scene):
            windows = _windows(scene, search.chain)
            texts = search.box_texts(scene.size)
            for part, window, text in zip(search.chain, windows, texts, strict=False):
                parsed = parse_box(text)
                assert parsed.status == "ok"
                left, top, right, bottom = window
                inside = parsed.box.to_original((right - left, bottom - top))
                again = Box(
                    inside.x0 + left, inside.y0 + top, inside.x1 + left, inside.y1 + top, Frame.ORIGINAL
                )
                assert iou(again, Box(*part.box, frame=Frame.ORIGINAL)) > 0.97


def test_a_window_drawn_small_is_the_window_of_the_file() -> None:
    scene = make_search_scene(2)
    whole = draw_search_scene(scene)
    assert whole.size == scene.size
    for search in searches_of(scene)[:1]:
        *rough, last = _windows(scene, search.chain)
        assert draw_window(scene, last, 448).tobytes() == whole.crop(last).tobytes()
        for window in rough:
            small = square_pixels(draw_window(scene, window, 448), 112).astype(int)
            assert np.abs(small - square_pixels(whole.crop(window), 112)).mean() < 3


def test_a_scene_survives_json_and_draws_alike() -> None:
    scene = make_search_scene(11)
    again = SearchScene.from_json(json.loads(json.dumps(scene.to_json())))
    assert again == scene


def test_rows_have_a_box_and_a_crop_for_each_look() -> None:
    scenes = [make_search_scene(seed) for seed in range(60)]
    asked = short = 0
    rows = [Conversation.model_validate(row) for row in training_rows(scenes)]
    for row in rows:
        boxes = [turn.text for turn in row.turns if turn.role == "assistant"][:-1]
        assert all(parse_box(text).status == "ok" for text in boxes)
        assert len(row.image) == len(boxes) + 1
        assert [split_crop(name)[1] is None for name in row.image] == [True] + [False] * len(boxes)
        said = [turn.text for turn in row.turns if turn.role == "user"]
        assert said[0].endswith("answer the question better.")
        assert set(said[1:-1]) <= {"<image>"}
        asked += said[-1] != "<image>"
        short += len(boxes) < (
            3 if row.turns[0].text.count("on the") + row.turns[0].text.count("On the") > 2 else 2
        )
    assert 0.4 < asked / len(rows) < 0.65
    assert 0.02 < short / len(rows) < 0.12


def test_a_trace_reads_as_written() -> None:
    turns = trace_turns("On the red card, what?", ["[0.1]", "[0.2]"], "12", asked=True)
    assert [turn.role for turn in turns] == ["user", "assistant"] * 3
    assert turns[-2].text.endswith("local detail image. On the red card, what?")
    assert turns[2].text == "<image>"


def test_the_files_read_as_their_formats(root: Path) -> None:
    assert len(list((root / "cot/search/val").iterdir())) == 2
    assert not (root / "cot/search/train").exists()
    assert len(list(Rows(root / "train.json", Conversation))) > 9
    traces = list(Rows(root / "traces.json", Conversation))
    regions = list(Rows(root / "benchmark_det/search.jsonl", DetectionRow))
    for trace, region, item in zip(traces, regions, load_visual_cot(root).items, strict=True):
        assert len(load_views(root, trace.image)) == len(trace.image)
        last = split_crop(trace.image[-1])[1]
        assert last is not None and last.coords == region.bbox
        assert item.question == region.expression and item.reference == trace.turns[-1].text
        assert f"{item.question} " in trace.turns[0].text


def test_the_same_arguments_write_the_same_rows(root: Path, tmp_path: Path) -> None:
    write_search(tmp_path / "again", train=3, val=0, seed=3, train_images=False)
    assert (tmp_path / "again/train.json").read_bytes() == (root / "train.json").read_bytes()
    with pytest.raises(UsageError, match="is not empty; give a new folder"):
        write_search(root, train=1, val=1)
