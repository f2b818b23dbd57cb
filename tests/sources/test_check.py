"""``data check``: data is right, or every fault is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_roots import draw, made_root, real_root
from PIL import Image

from viscot_core.errors import UsageError
from viscot_core.sources.catalog import load_catalog
from viscot_core.sources.check import Checked, check
from viscot_core.sources.organize import organize

CATALOG = load_catalog()


def run(
    root: Path, *groups: str, decode: bool = False, workers: int = 1
) -> tuple[list[Checked], list[dict[str, str]]]:
    report = root / "report.jsonl"
    results = check(root, CATALOG, report, groups=groups, decode=decode, workers=workers)
    return results, [json.loads(line) for line in report.read_text().splitlines()]


def test_real_rows_with_images_of_their_sizes_are_right(shared: Path, tmp_path: Path) -> None:
    count = real_root(shared, tmp_path, 6)
    assert count > 50
    results, problems = run(tmp_path)
    assert len(results) == 7 + 7 + 3 + 3
    assert all(result.right for result in results), problems
    assert {problem["kind"] for problem in problems} <= {"box outside"}


def test_a_right_root_has_an_empty_report(tmp_path: Path) -> None:
    made_root(tmp_path)
    results, problems = run(tmp_path)
    assert problems == []
    assert [(r.file, r.rows, r.images) for r in results] == [
        ("benchmark_det/gqa.jsonl", 1, 1),
        ("train.json", 3, 2),
    ]


def test_eps_named_jpg_is_one_unreadable_image(tmp_path: Path) -> None:
    """Its decoder would start Ghostscript; its header is not read either."""
    made_root(tmp_path)
    (tmp_path / "cot/gqa/1.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    for decode in (False, True):
        problems = run(tmp_path, decode=decode)[1]
        assert {(p["kind"], p["path"]) for p in problems} == {("unreadable", "cot/gqa/1.jpg")}
        assert all("is a EPS file, which is not read" in p["detail"] for p in problems)


def test_every_fault_is_named(tmp_path: Path) -> None:
    made_root(tmp_path)
    (tmp_path / "cot/gqa/2.jpg").unlink()
    draw(tmp_path / "cot/gqa/1.jpg", (320, 240))
    (tmp_path / "cot/gqa/3.jpg").write_bytes(b"not an image")
    turns = [{"from": "gpt", "value": "a"}]
    more = [
        {"id": 4, "image": "cot/gqa/3.jpg", "conversations": turns},
        {"id": 5, "image": "cot/gqa/1.jpg###[1, 2]", "conversations": turns},
        {"id": 6},
    ]
    (tmp_path / "more.json").write_text(json.dumps(more))
    results, problems = run(tmp_path)
    found = {(p["file"], p["kind"], p["path"]) for p in problems}
    assert found == {
        ("benchmark_det/gqa.jsonl", "size", "cot/gqa/1.jpg"),
        ("benchmark_det/gqa.jsonl", "box outside", "cot/gqa/1.jpg"),
        ("train.json", "missing", "cot/gqa/2.jpg"),
        ("train.json", "box outside", "cot/gqa/1.jpg"),
        ("more.json", "unreadable", "cot/gqa/3.jpg"),
        ("more.json", "bad row", ""),
    }
    assert [result.right for result in results] == [False, False, False]
    assert results[1].problems["bad row"] == 2
    assert {r.file: dict(r.folders) for r in results}["train.json"] == {"cot/gqa": 1}


@pytest.mark.parametrize("workers", [1, 2])
def test_decoding_finds_what_the_head_hides(tmp_path: Path, workers: int) -> None:
    made_root(tmp_path)
    image = tmp_path / "cot/gqa/2.jpg"
    Image.effect_noise((300, 500), 50).convert("RGB").save(image)
    image.write_bytes(image.read_bytes()[:5000])
    assert all(result.right for result in run(tmp_path)[0])
    results, problems = run(tmp_path, decode=True, workers=workers)
    assert [(p["kind"], p["path"]) for p in problems] == [("unreadable", "cot/gqa/2.jpg")]
    assert not results[1].right


def test_one_image_under_two_folder_names(tmp_path: Path) -> None:
    draw(tmp_path / "cot/v7w/a.jpg", (30, 30))
    row = {
        "img_path": "cot/visual7w/a.jpg",
        "expression": "q",
        "bbox": [0, 0, 9, 9],
        "width": 30,
        "height": 30,
    }
    (tmp_path / "benchmark_det").mkdir()
    (tmp_path / "benchmark_det/visual7w.jsonl").write_text(json.dumps(row) + "\n")
    assert run(tmp_path)[0][0].right


def test_training_reads_the_folder_its_rows_name(tmp_path: Path) -> None:
    draw(tmp_path / "cot/v7w/a.jpg", (30, 30))
    row = {"id": 1, "image": "cot/visual7w/a.jpg", "conversations": [{"from": "gpt", "value": "a"}]}
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    assert run(tmp_path)[0][0].problems == {"missing": 1}
    (tmp_path / "hand").mkdir()
    assert not organize(tmp_path / "hand", tmp_path, CATALOG).not_found
    assert run(tmp_path)[0][0].right and (tmp_path / "cot/visual7w").is_symlink()


def test_groups_choose_files(tmp_path: Path) -> None:
    made_root(tmp_path)
    assert [r.file for r in run(tmp_path, "bench")[0]] == ["benchmark_det/gqa.jsonl"]
    assert [r.file for r in run(tmp_path, "finetune")[0]] == ["train.json"]
    assert len(run(tmp_path, "finetune,bench")[0]) == len(run(tmp_path, "finetune", "bench:gqa")[0]) == 2
    with pytest.raises(UsageError, match=r"no annotation files for that"):
        run(tmp_path, "bench:docvqa")
    with pytest.raises(UsageError, match=r"no purpose 'bnch'.* Did you mean 'bench'"):
        run(tmp_path, "bnch")
    with pytest.raises(UsageError, match=r"has no annotation files; get them with 'viscot data fetch'"):
        check(tmp_path / "cot", CATALOG, tmp_path / "r.jsonl")
