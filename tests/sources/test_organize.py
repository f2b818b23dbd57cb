"""``data organize``: files got by hand find the places the annotations want."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from made_roots import draw, made_root, real_root

from viscot_core.errors import UsageError
from viscot_core.files import place_file
from viscot_core.sources.catalog import load_catalog
from viscot_core.sources.check import check
from viscot_core.sources.organize import _WAYS, Link, organize

if TYPE_CHECKING:
    from conftest import Ran

CATALOG = load_catalog()


def rows(root: Path, *paths: str) -> None:
    turns = [{"from": "gpt", "value": "a"}]
    root.mkdir(exist_ok=True)
    (root / "train.json").write_text(
        json.dumps([{"id": n, "image": path, "conversations": turns} for n, path in enumerate(paths)])
    )


def test_real_rows_find_scattered_images(shared: Path, tmp_path: Path) -> None:
    root, hand = tmp_path / "data", tmp_path / "downloads"
    real_root(shared, root, 6)
    shutil.move(root / "cot", hand / "all" / "cot_images")
    shutil.move(root / "coco" / "train2014", hand / "train2014")
    done = organize(hand, root, CATALOG)
    assert not done.not_found and not done.ambiguous and len(done.placed) > 50
    assert all(result.right for result in check(root, CATALOG, tmp_path / "report.jsonl"))


@pytest.mark.parametrize("link", list(Link))
def test_a_file_is_linked_or_copied(tmp_path: Path, link: Link) -> None:
    draw(tmp_path / "hand/1.jpg", (9, 9))
    rows(tmp_path / "data", "cot/gqa/1.jpg")
    done = organize(tmp_path / "hand", tmp_path / "data", CATALOG, link=link)
    place, origin = tmp_path / "data/cot/gqa/1.jpg", tmp_path / "hand/1.jpg"
    assert done.placed == ["cot/gqa/1.jpg"] and place.read_bytes() == origin.read_bytes()
    assert place.is_symlink() == (link is Link.SYMLINK)
    assert (origin.stat().st_nlink == 2) == (link in (Link.AUTO, Link.HARD))
    assert organize(tmp_path / "hand", tmp_path / "data", CATALOG, link=link).placed == []


def test_a_link_that_is_there_already_leaves_nothing_beside_it(tmp_path: Path) -> None:
    """A rename between two links of one file does nothing: the temporary one stayed."""
    draw(tmp_path / "hand/1.jpg", (9, 9))
    for way in _WAYS.values():
        place = tmp_path / "data/1.jpg"
        for _ in range(2):
            place_file(tmp_path / "hand/1.jpg", place, *way)
        assert [path.name for path in place.parent.iterdir()] == ["1.jpg"]
        place.unlink()


@pytest.mark.parametrize(
    ("wanted", "has"),
    [
        ("ocr_vqa/images/12.jpg", "12.gif"),
        ("ocr_vqa/images/12.jpg", "12.JPG"),
        ("coco/train2014/COCO_train2014_000000000009.jpg", "000000000009.jpg"),
        ("cot/vsr/000000000009.jpg", "COCO_train2014_000000000009.jpg"),
        ("cot/v7w/v7w_235.jpg", "235.jpg"),
    ],
)
def test_other_endings_and_prefixes_are_known(tmp_path: Path, wanted: str, has: str) -> None:
    draw(tmp_path / "hand" / has, (9, 9))
    rows(tmp_path / "data", wanted)
    assert organize(tmp_path / "hand", tmp_path / "data", CATALOG).placed == [wanted]


def test_among_several_the_folders_decide(tmp_path: Path) -> None:
    draw(tmp_path / "hand/a/VG_100K/1.jpg", (9, 9))
    draw(tmp_path / "hand/a/VG_100K_2/1.jpg", (8, 8))
    rows(tmp_path / "data", "vg/VG_100K_2/1.jpg")
    organize(tmp_path / "hand", tmp_path / "data", CATALOG)
    assert (tmp_path / "data/vg/VG_100K_2/1.jpg").samefile(tmp_path / "hand/a/VG_100K_2/1.jpg")


def test_then_the_annotated_size_decides(tmp_path: Path) -> None:
    made_root(tmp_path)
    (tmp_path / "cot/gqa/1.jpg").unlink()
    draw(tmp_path / "hand/x/1.jpg", (64, 48))
    draw(tmp_path / "hand/y/1.jpg", (640, 480))
    organize(tmp_path / "hand", tmp_path, CATALOG)
    assert (tmp_path / "cot/gqa/1.jpg").samefile(tmp_path / "hand/y/1.jpg")


def test_what_nothing_decides_is_told_not_guessed(tmp_path: Path) -> None:
    draw(tmp_path / "hand/x/1.jpg", (64, 48))
    draw(tmp_path / "hand/y/1.jpg", (65, 48))
    rows(tmp_path / "data", "cot/gqa/1.jpg", "cot/gqa/2.jpg")
    done = organize(tmp_path / "hand", tmp_path / "data", CATALOG)
    assert not done.placed and done.not_found == ["cot/gqa/2.jpg"]
    assert done.ambiguous == {"cot/gqa/1.jpg": [tmp_path / "hand/x/1.jpg", tmp_path / "hand/y/1.jpg"]}
    draw(tmp_path / "hand/y/1.jpg", (64, 48))
    assert organize(tmp_path / "hand", tmp_path / "data", CATALOG).placed == ["cot/gqa/1.jpg"]


def test_annotation_files_are_placed_too(tmp_path: Path) -> None:
    (tmp_path / "hand").mkdir()
    rows(tmp_path / "hand", "cot/gqa/1.jpg")
    (tmp_path / "hand/train.json").rename(tmp_path / "hand/viscot_363k.json")
    draw(tmp_path / "hand/1.jpg", (9, 9))
    done = organize(tmp_path / "hand", tmp_path / "data", CATALOG)
    assert done.placed == ["viscot_363k.json", "cot/gqa/1.jpg"]


def test_a_folder_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder; pass the folder of your downloads"):
        organize(tmp_path / "none", tmp_path, CATALOG)


def test_nothing_is_placed_outside_of_the_root(tmp_path: Path, cli: Callable[..., Ran]) -> None:
    """A row names a path outside: by dots, from the disk's root, or among viscot's own records."""
    for name in ("x.jpg", "y.jpg", "lock.json", "fine.jpg"):
        draw(tmp_path / "hand" / name, (9, 9)) if name.endswith("jpg") else (tmp_path / "hand" / name).touch()
    outside = [
        "../../../x.jpg", f"{tmp_path}/y.jpg", "a/../../x.jpg", ".viscot/lock.json", "./.viscot/a.json", "..",
    ]  # fmt: skip
    root = tmp_path / "a/b/data"
    root.parent.mkdir(parents=True)
    rows(root, *outside, "cot/fine.jpg")
    ran = cli("data", "organize", "--from", tmp_path / "hand", "--data", root)
    assert ran.code == 3 and "6 annotated paths lead outside of" in ran.err and "1 files placed" in ran.err
    placed = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert placed - {f"hand/{n}" for n in ("x.jpg", "y.jpg", "lock.json", "fine.jpg")} == {
        "a/b/data/train.json", "a/b/data/cot/fine.jpg",
    }  # fmt: skip
    assert not check(root, CATALOG, tmp_path / "report.jsonl")[0].right
    report = [json.loads(line) for line in (tmp_path / "report.jsonl").read_text().splitlines()]
    assert sum("leads outside" in line["detail"] for line in report if line["kind"] == "bad row") == 4
