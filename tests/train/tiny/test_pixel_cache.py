"""The pixel cache: equal to fresh views, and built again when it was cut short."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from viscot_core.data.encode import load_views
from viscot_core.data.search.rows import searches_of
from viscot_core.data.search.scenes import draw_search_scene, make_search_scene
from viscot_core.families.llava.pixels import square_pixels
from viscot_core.train.tiny.own_data import cached_pixels

CROP = "a.png###[10, 20, 60, 90]"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels[:100, :50]).save(tmp_path / "b.png")
    return tmp_path


def test_cached_pixels_equal_fresh_ones(root: Path) -> None:
    names = ["b.png", CROP, "a.png", "a.png"]
    cache = cached_pixels(root, names, 56, root / "cache", workers=2)
    assert len(cache) == 3
    for name in names:
        assert np.array_equal(cache[name], square_pixels(load_views(root, [name])[0].image, 56))


def test_a_cache_cut_short_is_built_again(root: Path) -> None:
    cached_pixels(root, ["a.png"], 56, root / "cache")
    (folder,) = (root / "cache").iterdir()
    (folder / "index.json").unlink()
    (folder / "pixels.u8").write_bytes(b"cut")
    assert cached_pixels(root, ["a.png"], 56, root / "cache")["a.png"].any()


def test_views_of_a_scene_without_a_file_are_drawn(tmp_path: Path) -> None:
    scene = make_search_scene(5)
    mark = searches_of(scene)[0].chain[-1]
    names = ["scene.jpg", f"scene.jpg###{list(mark.box)}"]
    cache = cached_pixels(tmp_path, names, 112, tmp_path / "cache", drawn={"scene.jpg": scene})
    draw_search_scene(scene).save(tmp_path / "scene.png")
    for name in names:
        file = load_views(tmp_path, [name.replace(".jpg", ".png")])[0].image
        assert np.abs(cache[name].astype(int) - square_pixels(file, 112)).mean() < 3
