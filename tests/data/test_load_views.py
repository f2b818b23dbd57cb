"""Views of annotated images: one decode for image and crop, a missing image is an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from viscot_core.boxes.geometry import Box, Frame, crop_window
from viscot_core.data import encode
from viscot_core.data.encode import load_views
from viscot_core.errors import ImageError

CROP = "a.png###[10, 20, 60, 90]"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels[:100, :50]).save(tmp_path / "b.png")
    return tmp_path


def test_a_crop_is_the_paper_window_of_its_box(root: Path) -> None:
    whole, part = load_views(root, ["a.png", CROP])
    window = crop_window(Box(10, 20, 60, 90, Frame.ORIGINAL), (400, 300))
    assert part.image.tobytes() == whole.image.crop(window).tobytes()


def test_neighbours_share_one_decode(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    real = encode.open_image
    monkeypatch.setattr(encode, "open_image", lambda path: (opened.append(path), real(path))[1])
    load_views(root, ["a.png", CROP, "b.png"])
    assert [path.name for path in opened] == ["a.png", "b.png"]


def test_a_missing_image_is_an_error_not_another_sample(root: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png"):
        load_views(root, ["gone.png"])
