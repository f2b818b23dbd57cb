"""A path that a file names stays under its root, wherever files name paths."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from viscot_core.errors import CheckpointError, DataError
from viscot_core.paths import inside

OUT = ["../x.jpg", "a/../../x.jpg", "../../../x", "/etc/passwd", "..", "a\0b.jpg", "./../x", "/"]


@pytest.mark.parametrize("name", OUT)
def test_what_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"leads outside of .*; correct it"):
        inside(tmp_path / "root", name)


@pytest.mark.parametrize("root", [Path("data"), Path("../data"), Path("/data"), Path("a/../data")])
def test_what_stays_under_the_root_is_accepted(root: Path) -> None:
    assert inside(root, "cot/gqa/1.jpg") == root / "cot/gqa/1.jpg"
    assert inside(root, "cot/../1.jpg") == root / "1.jpg"
    assert inside(root, "..jpg") == root / "..jpg"
    assert inside(root, os.path.normpath((root / "a/1.jpg").absolute())) == root / "a/1.jpg"


def test_links_that_the_user_placed_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/1.jpg").write_bytes(b"1")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/coco").symlink_to(tmp_path / "disk")
    assert inside(tmp_path / "root", "coco/1.jpg").read_bytes() == b"1"


def test_a_training_row_reads_no_image_outside(tmp_path: Path) -> None:
    from viscot_core.data.encode import load_views

    for name in OUT:
        with pytest.raises(DataError, match="leads outside"):
            load_views(tmp_path, [name])


def test_a_benchmark_reads_no_image_outside(root: Path) -> None:
    from viscot_core.tasks.image_files import find_image
    from viscot_core.tasks.visual_cot.task import load_visual_cot

    with pytest.raises(DataError, match="leads outside"):
        find_image(root, "../x.jpg")
    file = next((root / "benchmark").glob("*.json"))
    rows = json.loads(file.read_text())
    rows[0]["image"] = [
        name.replace(rows[0]["image"][0].split("###")[0], "/etc/x.png") for name in rows[0]["image"]
    ]
    file.write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"'/etc/x\.png' leads outside"):
        load_visual_cot(root)


def test_questions_of_a_file_read_no_image_outside(tmp_path: Path) -> None:
    from viscot_core.tasks.vqa_file import STYLES, load_questions

    (tmp_path / "q.jsonl").write_text(
        json.dumps({"question_id": 1, "image": "../x.png", "text": "What?"}) + "\n"
    )
    with pytest.raises(DataError, match=r"'\.\./x\.png' leads outside"):
        load_questions(tmp_path / "q.jsonl", tmp_path / "images", STYLES["short"])


def test_the_index_of_a_checkpoint_names_its_own_folder_only(tmp_path: Path) -> None:
    from viscot_core.tensors import open_weights

    index = {"weight_map": {"a.weight": "../other.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"'\.\./other\.safetensors' leads outside"):
        open_weights(tmp_path)
