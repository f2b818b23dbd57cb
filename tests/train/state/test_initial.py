"""What the manifest of a trained model says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from viscot_core.train.recipe.load import load_recipe
from viscot_core.train.state.initial import open_run


@pytest.mark.parametrize(
    ("sets", "policy"),
    [
        ((), "zoom"),
        (("model.policy=null",), None),
        (("model.policy=null", "model.checkpoint=viscot-tiny-zoom"), "zoom"),
        (("model.policy=direct", "model.checkpoint=viscot-tiny-zoom"), "direct"),
    ],
)
def test_a_model_looks_as_its_recipe_says_else_as_the_one_before_it(
    sets: tuple[str, ...], policy: str | None, tmp_path: Path
) -> None:
    assert open_run(tmp_path, load_recipe("tiny-zoom", sets)).manifest().policy == policy
