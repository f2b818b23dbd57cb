"""What ``viscot infer`` asks about: pages, folders, rows with their keys, damaged rows, standard input."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from viscot_core.errors import ImageError, UsageError
from viscot_core.images import formats
from viscot_core.images.reading import open_image
from viscot_core.infer.asking import open_item
from viscot_core.infer.items import collect

COLORS = ("red", "lime", "blue")


def tiff(path: Path) -> Path:
    """Three pages, and after the first one a small copy of it, which is no page."""
    first, *others = [Image.new("RGB", (90, 60), color) for color in COLORS]
    small = Image.new("RGB", (9, 6))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    first.save(path, "TIFF", save_all=True, append_images=[small, *others])
    return path


def pdf(path: Path, pages: int = 2) -> Path:
    """Pages of 144 x 72 points, each of one colour."""
    first, *others = [Image.new("RGB", (144, 72), color) for color in COLORS[:pages]]
    first.save(path, "PDF", save_all=True, append_images=others, resolution=72)
    return path


def center(image: Image.Image) -> tuple[int, ...]:
    return tuple(round(value / 255) for value in image.getpixel((image.width // 2, image.height // 2)))  # type: ignore[union-attr]


def test_pages_of_a_tiff(tmp_path: Path) -> None:
    items = collect(str(tiff(tmp_path / "a.tif")), "What?").items
    assert [item.page for item in items] == [1, 2, 3]
    assert [center(open_item(item)) for item in items] == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert items[1].name.endswith("a.tif, page 2")
    with pytest.raises(ImageError, match=r"several pages: give one \(page=2 in Python"):
        open_image(tmp_path / "a.tif", as_seen=True)
    with pytest.raises(ImageError, match="no page 4; it has 3"):
        open_image(tmp_path / "a.tif", as_seen=True, page=4)
    assert center(open_image(tmp_path / "a.tif")) == (1, 0, 0)  # annotated data: as the reference


@pytest.mark.parametrize("page", [0, -1, 9])
def test_a_page_that_is_not_there(tmp_path: Path, page: int) -> None:
    with pytest.raises(ImageError, match=f"no page {page}; it has 3"):
        open_image(tiff(tmp_path / "a.tif"), as_seen=True, page=page)
    frames = [Image.new("RGB", (9, 9), color) for color in COLORS]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "a.jpg")
    for name in ("a.gif", "a.jpg"):
        assert open_image(tmp_path / name, as_seen=True, page=1).size == (9, 9)
        with pytest.raises(ImageError, match=f"{name} has no page {page}; it has 1"):
            open_image(tmp_path / name, as_seen=True, page=page)
    for opened in (frames[0], np.asarray(frames[0])):
        assert open_image(opened, as_seen=True, page=1).size == (9, 9)
        with pytest.raises(ImageError, match="has one page"):
            open_image(opened, as_seen=True, page=page)


@pytest.mark.parametrize("page", [1.5, "2", True])
def test_a_page_is_a_whole_number(tmp_path: Path, page: Any) -> None:
    with pytest.raises(UsageError, match="A page is a whole number, from 1, not"):
        open_image(tiff(tmp_path / "a.tif"), as_seen=True, page=page)
    assert center(open_image(tmp_path / "a.tif", page=np.int64(2))) == (0, 1, 0)  # type: ignore[arg-type]


def test_a_row_may_name_a_page(tmp_path: Path) -> None:
    tiff(tmp_path / "a.tif")
    Image.new("RGB", (9, 9)).save(tmp_path / "one.tif")
    rows = [{"image": name, "question": "What?", "page": 2} for name in ("a.tif", "one.tif")]
    (tmp_path / "ask.jsonl").write_text("\n".join(map(json.dumps, rows)))
    named, only = collect(str(tmp_path / "ask.jsonl"), None).items
    assert (named.page, only.page) == (2, None)
    assert center(open_item(named)) == (0, 1, 0) and open_item(only).size == (9, 9)


def test_pages_of_a_pdf(tmp_path: Path) -> None:
    pytest.importorskip("pypdfium2")
    items = collect(str(pdf(tmp_path / "a.pdf")), "What?").items
    images = [open_item(item) for item in items]
    assert [item.page for item in items] == [1, 2]
    assert [center(image) for image in images] == [(1, 0, 0), (0, 1, 0)]
    assert images[0].size == (400, 200)
    for page in (0, 3):
        with pytest.raises(ImageError, match=f"no page {page}; it has 2"):
            open_image(tmp_path / "a.pdf", page=page)
    with pytest.raises(ImageError, match=r"is a PDF.*give one \(page=2 in Python"):
        open_image(tmp_path / "a.pdf", as_seen=True)
    (tmp_path / "cut.pdf").write_bytes((tmp_path / "a.pdf").read_bytes()[:40])
    (item,) = collect(str(tmp_path / "cut.pdf"), "What?").items
    with pytest.raises(ImageError, match=r"cut.pdf cannot be read as a PDF"):
        open_item(item)


def test_a_page_without_the_extra_or_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pypdfium2")
    huge = b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj 2 0 obj<</Type/Pages/Count 1/Kids[3 0 R]>>"
    huge += (
        b"endobj 3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 14400 14400]>>endobj trailer<</Root 1 0 R>>"
    )
    (tmp_path / "huge.pdf").write_bytes(huge)
    assert open_image(tmp_path / "huge.pdf", page=1).width <= 5000
    monkeypatch.setitem(__import__("sys").modules, "pypdfium2", None)
    with pytest.raises(ImageError, match=r"huge.pdf is a PDF, which needs: pip install 'viscot\[pdf\]'"):
        open_image(tmp_path / "huge.pdf", page=1)


def test_what_a_folder_has_besides_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "accepted", lambda: formats._COMMON)
    for name in ("b.jpg", "A.PNG", "sub/c.png", "sub/._c.png", "._b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (9, 9)).save(tmp_path / name)
    for name in ("d.heic", "e.txt", "f.txt", "README"):
        (tmp_path / name).touch()
    found = collect(str(tmp_path), "What?")
    assert [item.image.name for item in found.items] == ["A.PNG", "b.jpg"]
    assert found.note == (
        "Skipped: 1 .heic (needs: pip install 'viscot[formats]'), 2 .txt, "
        "1 folder (--recursive reads it), 1 without an ending."
    )
    deep = collect(str(tmp_path), "What?", recursive=True)
    assert [item.image.name for item in deep.items] == ["A.PNG", "b.jpg", "c.png"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").touch()
    with pytest.raises(UsageError, match=r"no image in .*empty, only .txt; give a folder with"):
        collect(str(tmp_path / "empty"), "What?")


def test_a_damaged_row_fails_alone(tmp_path: Path) -> None:
    """A lone surrogate, a byte that is no UTF-8, the mark of an image inside a question."""
    rows = [b'{"image": "a.png", "question": "a\\ud83dz"}', b'{"image": "a.png", "question": "caf\xe9?"}']
    rows += [
        b'{"image": "a.png", "question": "What is <image>?"}',
        b'{"image": "a.png", "question": "What?"}',
    ]
    (tmp_path / "ask.jsonl").write_bytes(b"\n".join(rows))
    items = collect(str(tmp_path / "ask.jsonl"), None).items
    assert [item.error is None for item in items] == [False, False, False, True]
    assert "line 1: The question has a damaged character" in str(items[0].error)
    assert "line 3: The question contains <image>" in str(items[2].error)


def test_standard_input_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    Image.new("RGB", (9, 7)).save(file, "PNG")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(file.getvalue())))
    (item,) = collect("-", "What?").items
    assert open_item(item).size == open_item(item).size == (9, 7)
    assert json.dumps(str(item.image)) == '"-"'
