"""Images of a benchmark: one that cannot be read fails its own items."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from viscot_core.runs.opening import open_items
from viscot_core.tasks.base import Item


def test_no_decoder_ends_a_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EPS named .jpg is refused; a decoder that raises what none should raise fails its item alone."""

    def fails(_: Image.Image) -> None:
        raise OverflowError("cannot fit 'int' into an index-sized integer")

    (tmp_path / "eps.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    for name, kind in (("good.jpg", "JPEG"), ("odd.jpg", "PNG")):
        Image.new("RGB", (9, 9)).save(tmp_path / name, kind)
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fails)
    names = ("eps.jpg", "odd.jpg", "good.jpg")
    loaded = open_items([Item("a", name, name, tmp_path / name, (9, 9), "What?") for name in names])
    assert [item.error is None for item in loaded] == [False, False, True]
    assert "is a EPS file" in str(loaded[0].error) and "cannot fit 'int'" in str(loaded[1].error)
