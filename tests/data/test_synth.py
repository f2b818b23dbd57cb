"""The synthetic data set: deterministic, held out, and true to the layouts of the real one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from viscot_core.boxes.geometry import iou, parse_box
from viscot_core.data.annotations import Conversation, DetectionRow, MetadataRow, RefcocoRow, Rows
from viscot_core.data.convert import convert
from viscot_core.data.encode import load_views
from viscot_core.data.scenes import TEXT_SHARE, Scene, draw_scene, make_scene
from viscot_core.data.synth import write_dataset
from viscot_core.errors import UsageError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synth")
    write_dataset(folder, train=6, val=4, seed=3)
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_arguments_write_the_same_bytes(root: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path, train=6, val=4, seed=3, workers=2)
    assert _files(tmp_path) == _files(root)


def test_an_interrupted_set_is_no_set(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "a" / "synth", train=6, val=4, progress=stop)
    assert not any(tmp_path.iterdir())


def test_a_set_is_never_written_over_another(root: Path) -> None:
    before = _files(root)
    with pytest.raises(UsageError, match="is not empty; give a new folder"):
        write_dataset(root, train=2, val=1, seed=8)
    assert _files(root) == before


def test_held_out_scenes_are_never_trained_on(root: Path) -> None:
    rows = [json.loads(line) for line in (root / "scenes.jsonl").read_text().splitlines()]
    seeds = {"train": set(), "val": set()}
    for row in rows:
        seeds["val" if "/val/" in row["image"] else "train"].add(row["seed"])
    assert len(seeds["train"]) == 6
    assert len(seeds["val"]) == 4
    assert not seeds["train"] & seeds["val"]


def test_every_file_reads_as_its_format_and_boxes_agree(root: Path) -> None:
    chains = list(Rows(root / "benchmark/synth.json", Conversation))
    detections = list(Rows(root / "benchmark_det/synth.jsonl", DetectionRow))
    assert len(chains) == len(detections) == 4
    for chain, detection in zip(chains, detections, strict=True):
        assert chain.id == detection.question_id
        parsed = parse_box(chain.turns[1].text)
        assert parsed.status == "ok"
        assert iou(parsed.box, detection.box.to_square(detection.size)) > 0.97
        assert Image.open(root / detection.img_path).size == detection.size
        assert detection.expression in chain.turns[0].text
    assert len(list(Rows(root / "metadata/synth_cot_train.jsonl", MetadataRow))) == 6
    assert len(list(Rows(root / "refcoco/REC_refcoco_synth_val.jsonl", RefcocoRow))) >= 12
    for name in ("train.json", "pretrain.json", "direct.json"):
        for row in Rows(root / name, Conversation):
            assert sum(turn.text.count("<image>") for turn in row.turns) == len(row.image)
            assert len(load_views(root, row.image)) == len(row.image)


def test_boxes_are_asked_for_in_every_wording(root: Path) -> None:
    asked = [t.text for row in Rows(root / "train.json", Conversation) for t in row.turns if t.role == "user"]
    boxes = [text.removeprefix("<image>\n") for text in asked if "bounding box" in text]
    assert any(text.startswith("Locate the region this sentence describes: the ") for text in boxes)
    assert any(text[0].islower() for text in boxes)  # the benchmark's first turn
    assert any(text[0].isupper() and text.endswith("the question better.") for text in boxes)


def test_metadata_rows_convert_like_the_real_ones(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "cot.json"
    convert([root / "metadata/synth_cot_train.jsonl"], out)
    rows = list(Rows(out, Conversation))
    assert len(rows) == 6
    assert all(len(row.turns) == 4 for row in rows)


def test_scenes_keep_their_promises() -> None:
    for seed in range(60):
        scene = make_scene(seed)
        assert 448 <= min(scene.size) <= max(scene.size) <= 1024
        assert 2 <= len(scene.things) <= 5
        assert len({thing.color for thing in scene.things}) == len(scene.things)
        assert scene.font_size / max(scene.size) < TEXT_SHARE * 1.1
        for thing in scene.things:
            assert 0 <= thing.box[0] < thing.box[2] <= scene.size[0]
            assert 0 <= thing.box[1] < thing.box[3] <= scene.size[1]
            assert max(thing.box[2] - thing.box[0], thing.box[3] - thing.box[1]) <= 224


def test_a_scene_survives_json_and_draws_alike() -> None:
    scene = make_scene(11)
    again = Scene.from_json(json.loads(json.dumps(scene.to_json())))
    assert again == scene
    assert draw_scene(again).tobytes() == draw_scene(scene).tobytes()
