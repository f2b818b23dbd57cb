"""Where tokens lie on an image: told by which of them change when a part of the image does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from made_families import FAMILIES, make
from PIL import Image

from viscot_core.boxes.attention_map import AttentionOf
from viscot_core.boxes.geometry import Size
from viscot_core.conversation import Message
from viscot_core.engines.base import Request
from viscot_core.engines.transformers.engine import LocalEngine
from viscot_core.families.token_grid import TokenGrid
from viscot_core.images.view import view_of
from viscot_core.models.load import load_model

FAST = ("qwen2.5-vl", "internvl", "idefics3")
UNKNOWN = ("llava-onevision", "gemma4", "molmo2")
SIZES: tuple[Size, ...] = ((300, 200), (90, 400), (40, 30))
NAMES = [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in FAMILIES if n not in UNKNOWN]


def test_tiles_are_laid_side_by_side_and_the_overview_is_shared_out() -> None:
    """Two tiles of 1 x 2 cells over each other, then the whole image as 1 x 2."""
    found = TokenGrid((1, 2), (1, 2), overview=True).map_of([1, 2, 3, 4, 10, 20])
    assert found.values == ((1 + 5,), (2 + 5,), (3 + 10,), (4 + 10,))
    across = TokenGrid((2, 1), (2, 1)).map_of([1, 2, 3, 4])
    assert across.values == ((1, 2, 3, 4),)


def engine_of(folder: Path) -> LocalEngine:
    loaded = load_model(folder, device="cpu", dtype="fp32")
    for tensor in loaded.model.parameters():
        if not tensor.any():  # Gemma 3's projector begins as 0: no feature would depend on the image
            torch.nn.init.normal_(tensor)
    return LocalEngine(loaded, reuse=False)


def features(engine: LocalEngine, image: Image.Image) -> torch.Tensor:
    """``[tokens, hidden]``: what takes an image's places in a prompt."""
    with torch.no_grad():
        (found,) = engine.inputs.features.features([view_of(image)])  # type: ignore[attr-defined]
    tensor: torch.Tensor = getattr(found, "pooled", found).flatten(0, -2)
    return tensor


def centre_of(values: tuple[tuple[float, ...], ...]) -> tuple[float, float]:
    """The mean place of the cells with much in them, 0..1 of the map's width and height."""
    most = max(map(max, values))
    much = [(x, y) for y, row in enumerate(values) for x, value in enumerate(row) if value > 0.7 * most]
    across, down = (sum(place) / len(much) + 0.5 for place in zip(*much, strict=True))
    return across / len(values[0]), down / len(values)


def check(engine: LocalEngine, size: Size) -> None:
    """Where a ninth of the image is painted, the cells over it change most."""
    grid = engine.loaded.family.token_grid(engine.processor, size)
    assert grid is not None
    grey = Image.new("RGB", size, (120, 120, 120))
    before = features(engine, grey)
    assert len(before) == grid.tokens
    frame = (max(size), max(size)) if grid.squared else size
    part = Image.effect_noise((size[0] // 3, size[1] // 3), 120).convert("RGB")
    for place in ((0, 0), (2, 0), (1, 1), (0, 2), (2, 2)):
        corner = size[0] * place[0] // 3, size[1] * place[1] // 3
        painted = grey.copy()
        painted.paste(part, corner)
        changed = (features(engine, painted) - before).norm(dim=-1).tolist()
        values = grid.map_of(changed).values
        found = centre_of(values)
        for axis, cells in enumerate((len(values[0]), len(values))):
            at = found[axis] * frame[axis] - (frame[axis] - size[axis]) / 2
            # Within a cell: the tower's layers let neighbours see the change too.
            cell = frame[axis] / cells
            assert corner[axis] - cell <= at <= corner[axis] + part.size[axis] + cell, (size, corner, at)


@pytest.mark.parametrize("name", NAMES)
def test_each_cell_changes_with_its_own_part_of_the_image(name: str, tmp_path: Path) -> None:
    engine = engine_of(make(name, tmp_path / name))
    assert engine.traits.attention
    for size in SIZES:
        check(engine, size)


def test_of_llava_the_image_lies_in_a_square(golden: Path) -> None:
    engine = engine_of(golden / "tiny_llava")
    for size in SIZES:
        check(engine, size)


@pytest.mark.parametrize("name", ["llava-onevision", pytest.param("molmo2", marks=pytest.mark.slow)])
def test_a_family_whose_layout_is_not_known_tells_no_map(name: str, tmp_path: Path) -> None:
    engine = engine_of(make(name, tmp_path / name))
    assert not engine.traits.attention
    view = view_of(Image.new("RGB", (64, 48)))
    asked = Request((Message("user", "<image>\nWhere?"),), (view,), 1, attention=AttentionOf())
    (said,) = engine.generate([asked])
    assert said.attention is None and said.error is not None and "where the model looks" in said.error
