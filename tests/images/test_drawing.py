"""Drawn answers: box, crop and words, whatever the shape of the image and the length of the words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from viscot_core.boxes.geometry import Box
from viscot_core.errors import UsageError
from viscot_core.images.drawing import BOX_COLOR, WINDOW_COLOR, draw_answer, save_image

BLUE = Image.new("RGB", (640, 480), (0, 0, 255))
BOX, WINDOW = Box(0.2, 0.2, 0.6, 0.6), (100, 50, 400, 350)


def has(sheet: Image.Image, color: tuple[int, int, int]) -> bool:
    return bool((np.asarray(sheet) == color).all(-1).any())


def test_image_crop_and_words() -> None:
    sheet = draw_answer(BLUE, BOX, WINDOW, ("Question?", "Answer."))
    assert sheet.width > 420 * 640 / 480 + 420 and sheet.height > 420
    assert has(sheet, BOX_COLOR) and has(sheet, WINDOW_COLOR)


def test_a_box_is_seen_on_its_own_color() -> None:
    for color in (BOX_COLOR, WINDOW_COLOR):
        alone = np.asarray(draw_answer(Image.new("RGB", (640, 480), color), None, None, ("What?",)))
        drawn = np.asarray(draw_answer(Image.new("RGB", (640, 480), color), BOX, WINDOW, ("What?",)))
        panel = drawn[12:432, 12:572]
        assert (panel != alone[12:432, 12:572]).any(-1).mean() > 0.005


def test_without_a_box_none_is_drawn() -> None:
    sheet = draw_answer(BLUE, None, None, ("Question?", "Answer."))
    assert not has(sheet, BOX_COLOR) and sheet.width < 420 * 640 / 480 + 420


def test_long_words_are_wrapped() -> None:
    short = draw_answer(BLUE, None, None, ("What?",))
    long = draw_answer(BLUE, None, None, ("What is written there?\n" * 20, "x" * 200))
    assert long.width == short.width
    assert long.height > short.height + 10 * 28
    margin = np.asarray(long)[:, -8:]
    assert (margin == margin[0, 0]).all()


@pytest.mark.parametrize("size", [(60_000, 20), (20, 60_000), (1, 1)])
def test_strips_and_dots_fit_a_sheet(size: tuple[int, int]) -> None:
    sheet = draw_answer(Image.new("RGB", size), BOX, (0, 0, *size), ("What?",))
    assert 400 < sheet.width < 3000 and 20 < sheet.height < 500


def test_saving_is_whole_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_image(BLUE, tmp_path / "new" / "a.png")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]

    def full(self: Image.Image, target: Path, kind: str) -> None:
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left"):
        save_image(BLUE, tmp_path / "b.png")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize("name", ["a.docx", "a", "a.txt"])
def test_endings_that_are_no_images(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="change the ending"):
        save_image(BLUE, tmp_path / name)
