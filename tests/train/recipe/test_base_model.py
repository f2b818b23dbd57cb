"""A base model, a tower and a projector that do not belong together are refused by headers alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from made_training import golden_recipe
from safetensors.torch import save_file

from viscot_core.errors import CheckpointError
from viscot_core.train.recipe.base_model import open_base

Change = Callable[[Path, Path], dict[str, Any]]


def wide_projector(golden: Path, folder: Path) -> dict[str, Any]:
    """A projector between models of other widths."""
    shapes = {
        "linear_1.weight": (48, 24),
        "linear_1.bias": (48,),
        "linear_2.weight": (48, 48),
        "linear_2.bias": (48,),
    }
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, folder / "wide.safetensors")
    return {"projector": str(folder / "wide.safetensors")}


CASES: list[tuple[Change, str]] = [
    (wide_projector, r"model\.projector: .*wide.* width 24 into 48, and this model needs 48 into 64"),
    (lambda golden, _: {"base_llm": str(golden / "tiny_clip")}, r"model\.base_llm: .* is no language model"),
    (
        lambda golden, _: {"vision_tower": str(golden / "tiny_vicuna")},
        r"model\.vision_tower: .* no CLIP tower",
    ),
    (lambda *_: {"feature_layer": -30}, r"model\.feature_layer: -30 - .* has 3 layers"),
    (lambda _, folder: {"projector": str(folder)}, "holds no projector"),
]


@pytest.mark.parametrize(("change", "told"), CASES)
def test_parts_that_do_not_fit(change: Change, told: str, shared: Path, tmp_path: Path) -> None:
    golden = shared / "golden"
    model = golden_recipe(golden).model
    assert open_base(model).manifest.name == "tiny_vicuna"
    with pytest.raises(CheckpointError, match=told):
        open_base(model.model_copy(update=change(golden, tmp_path)))
