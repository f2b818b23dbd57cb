"""Questions are joined by id, checked before a model is loaded, and drawn by seed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_bench import write_root

from viscot_core.errors import DataError, UsageError
from viscot_core.tasks.loading import Selection
from viscot_core.tasks.refcoco import load_refcoco
from viscot_core.tasks.suites import PAPER, REFCOCO, split_name
from viscot_core.tasks.visual_cot.task import load_visual_cot


def edit(path: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    text = path.read_text()
    rows = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    change(rows)
    path.write_text(
        json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    )


def test_rows_are_joined_by_id(root: Path) -> None:
    items = load_visual_cot(root).items
    assert len(items) == 12
    for number, item in enumerate(items):
        assert item.question_id == number * 3
        assert item.question == f"What is at Place {number}?"
        assert item.reference == f"thing {number}"
        assert item.path.is_file()
        annotated = item.box.to_square(item.size).coords
        words = [float(n) for n in (item.box_text or "").strip("[]").split(",")]
        assert words == pytest.approx(annotated, abs=6e-4)


def test_questions_without_a_partner_are_refused(root: Path) -> None:
    edit(root / "benchmark_det" / "made.jsonl", lambda rows: rows.pop())
    with pytest.raises(DataError, match="different questions"):
        load_visual_cot(root)


def test_duplicate_ids_are_refused(root: Path) -> None:
    edit(root / "benchmark" / "made.json", lambda rows: rows.append(rows[0]))
    with pytest.raises(DataError, match="two rows have the question_id 0"):
        load_visual_cot(root)


def test_rows_without_an_id_are_refused(root: Path) -> None:
    edit(root / "benchmark" / "made.json", lambda rows: rows[3].pop("question_id"))
    with pytest.raises(DataError, match="no question_id"):
        load_visual_cot(root)


def test_missing_images_are_listed_or_left_out_and_counted(root: Path) -> None:
    (root / "cot" / "made" / "2.png").unlink()
    with pytest.raises(DataError, match=r"1 images are missing \(2 of 12 questions") as refusal:
        load_visual_cot(root)
    assert "2.png" in str(refusal.value)
    benchmark = load_visual_cot(root, select=Selection(skip_missing=True))
    assert (len(benchmark.items), benchmark.missing, benchmark.planned()) == (10, {"made": 2}, {"made": 12})


def test_a_limit_is_drawn_by_seed_and_nested(root: Path) -> None:
    def ids(limit: int, seed: int) -> list[int | str]:
        return [item.question_id for item in load_visual_cot(root, select=Selection(limit, seed)).items]

    assert ids(4, 0) == ids(4, 0)
    assert set(ids(4, 0)) < set(ids(8, 0))
    assert ids(8, 0) == sorted(ids(8, 0), key=int)
    assert len({tuple(ids(4, seed)) for seed in range(5)}) > 1


def test_boxes_outside_the_image_are_counted_and_kept(root: Path) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[0]["bbox"] = [5000, 5000, 5010, 5010]
        rows[1]["bbox"] = [10, 10, 10, 20]

    edit(root / "benchmark_det" / "made.jsonl", change)
    benchmark = load_visual_cot(root)
    assert len(benchmark.items) == 12
    assert benchmark.warnings == ("2 annotated boxes of made have no area inside the image: their IoU is 0",)


def test_suites_and_tasks(root: Path) -> None:
    write_root(root, name="docvqa")
    with pytest.raises(UsageError, match="no data set cub"):
        load_visual_cot(root)  # a root with published sets is asked for all of the paper's
    assert {item.dataset for item in load_visual_cot(root, tasks=["docvqa"]).items} == {"docvqa"}
    with pytest.raises(UsageError, match=r"Did you mean 'docvqa'"):
        load_visual_cot(root, tasks=["docqa"])
    with pytest.raises(UsageError, match="no suite 'papers'"):
        load_visual_cot(root, suite="papers")
    with pytest.raises(UsageError, match=r"no benchmark/\*.json"):
        load_visual_cot(root / "benchmark")


def test_visual7w_is_found_under_both_of_its_names(root: Path) -> None:
    write_root(root, name="visual7w")
    (root / "cot" / "visual7w").rename(root / "cot" / "v7w")
    items = load_visual_cot(root, tasks=["v7w"]).items
    assert items[0].dataset == "visual7w"
    assert items[0].image.startswith("cot/visual7w/")
    assert items[0].path.parent.name == "v7w"


def test_split_names() -> None:
    assert split_name(Path("REC_refcoco+_unc_testA.jsonl")) == "refcoco+/testA"
    assert split_name(Path("REC_refcocog_umd_val.jsonl")) == "refcocog/val"
    assert split_name(Path("REC_refcoco_synth_val.jsonl")) == "refcoco_synth/val"
    assert len(REFCOCO) == 8


def test_refcoco_finds_images_in_cocos_folder(root: Path) -> None:
    (root / "coco" / "train2014").mkdir(parents=True)
    (root / "cot" / "made" / "0.png").rename(root / "coco" / "train2014" / "0.png")
    edit(
        root / "refcoco" / "REC_refcoco_made_val.jsonl",
        lambda rows: (
            [row.update(img_path="0.png") for row in rows if row["img_path"].endswith("/0.png")] and None
        ),
    )
    items = load_refcoco(root, splits=["refcoco_made:val"]).items
    assert len(items) == 12
    assert items[0].path == root / "coco" / "train2014" / "0.png"
    assert items[1].question == "The thing 3"
    with pytest.raises(UsageError, match="no split refcoco/testA"):
        load_refcoco(root, splits=["refcoco:testA"])


def test_published_files_join(shared: Path) -> None:
    """Every real benchmark file at hand is whole: ids, boxes and questions agree (images are absent)."""
    for path in sorted((shared / "reference_data" / "benchmark").glob("*.json")):
        with pytest.raises(DataError, match="None of the"):
            load_visual_cot(shared / "reference_data", tasks=[path.stem], select=Selection(skip_missing=True))
        assert path.stem in PAPER
