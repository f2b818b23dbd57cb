"""Boxes of a run as COCO files: in pixels, numbered alike in all files, as pycocotools reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_runs import prediction, talk, write_run

from viscot_core.errors import DataError
from viscot_core.runs.coco import export_coco

Cli = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    rows = [
        prediction(question_id=1, image="a.jpg", box_probability=0.5),
        prediction(question_id=2, image="a.jpg", box_status="unparsable", box=(0, 0, 1, 1), iou=0.0),
        prediction(question_id=3, image="b.jpg", dataset="cub", box_gt=None),
        prediction(question_id=4, status="failed", answer=None),
        prediction(strategy="direct", question_id=1, image="a.jpg", box=None, box_status=None),
        talk(1, 2).model_copy(update={"box_probability": 0.9}),
    ]
    return write_run(tmp_path / "run", rows)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_boxes_are_in_pixels_and_what_has_none_is_counted(run: Path, tmp_path: Path) -> None:
    written = {file.path.stem: file for file in export_coco(run, tmp_path / "coco")}
    assert {name: (f.boxes, f.without) for name, f in written.items()} == {
        "annotated": (2, 1),
        "cot": (2, 1),
        "zoom": (2, 0),
    }
    cot, annotated = read(written["cot"].path), read(written["annotated"].path)
    assert cot["images"] == annotated["images"] and cot["categories"] == annotated["categories"]
    assert cot["images"][0] == {"id": 1, "file_name": "a.jpg", "width": 640, "height": 480}
    first = cot["annotations"][0]
    # 640 x 480 is padded by 80 px above: 0.2 of 640 is 128, 48 px below the border of the image.
    assert first["bbox"] == [64, 48, 128, 128] and first["area"] == 128 * 128
    assert (first["score"], first["question_id"], first["box_status"]) == (0.5, 1, "ok")
    looks = read(written["zoom"].path)["annotations"]
    assert [(each["look"], each["bbox"], each.get("score")) for each in looks] == [
        (1, [10, 20, 290, 380], None),
        (2, [20, 20, 280, 380], 0.9),
    ]


def test_the_command_names_files_and_counts(run: Path, cli: Cli) -> None:
    ran = cli("bench", "export", run, "--to", "coco")
    assert ran.code == 0
    assert f"{run / 'coco' / 'cot.json'}: 2 boxes, 1 items have none" in ran.out
    assert cli("bench", "export", run, "--to", "yolo").code == 2


def test_a_run_without_boxes_is_refused(tmp_path: Path) -> None:
    rows = [prediction(strategy="direct", box=None, box_gt=None)]
    with pytest.raises(DataError, match="has no box"):
        export_coco(write_run(tmp_path / "run", rows), tmp_path / "coco")
    assert not (tmp_path / "coco").exists()
