"""The foundation stage: the truth under each patch, the heads behind the projector, nothing of it shipped."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from viscot_core.data.scenes import COLORS, Scene, Thing, make_scene
from viscot_core.families.inputs import IGNORE
from viscot_core.families.llava.scratch import build_model, train_tokenizer
from viscot_core.train.recipe.tiny_specs import FoundationSpec, ScratchSpec
from viscot_core.train.tiny.foundation import (
    NOTHING,
    FoundationModel,
    make_sheet,
    patch_truth,
    whiten_projector,
)

SHAPE = ScratchSpec(
    image_side=56, patch=14, vision_width=24, vision_layers=2, vision_heads=2, vision_mlp=48,
    llm_width=24, llm_layers=2, llm_heads=2, llm_mlp=48, max_positions=256, vocab_size=300,
)  # fmt: skip


def _scene(font_size: int = 40) -> Scene:
    thing = Thing("card", "blue", "47", (0, 0, 100, 100), (10, 30, 90, 70))
    return Scene(0, (400, 400), font_size, (thing,))


def test_patches_know_what_lies_under_them() -> None:
    truth = patch_truth(_scene(font_size=60), (0, 0, 200, 200), 4, 56)
    color = truth.color.reshape(4, 4)
    assert (color[:2, :2] == list(COLORS).index("blue")).all()
    assert (color[2:] == NOTHING).all()
    assert truth.box.reshape(4, 4, 4)[0, 0] == pytest.approx([0, 0, 0.5, 0.5])
    assert truth.tens.reshape(4, 4)[1, 1] == 4
    assert truth.units.reshape(4, 4)[1, 1] == 7
    assert truth.glyph.reshape(4, 4)[1].tolist() == [4, 7, 10, 10]


def test_digits_too_small_to_read_are_not_asked() -> None:
    truth = patch_truth(_scene(font_size=20), (0, 0, 400, 400), 4, 56)
    assert (truth.tens == IGNORE).all()
    assert truth.glyph[0] == IGNORE


def test_a_number_cut_by_the_window_is_not_asked() -> None:
    truth = patch_truth(_scene(font_size=60), (50, 0, 250, 200), 4, 56)
    assert (truth.tens == IGNORE).all()
    assert truth.color[0] == list(COLORS).index("blue")


def test_sheets_are_full_and_repeatable() -> None:
    image, scene = make_sheet(5)
    again, _ = make_sheet(5)
    assert image.tobytes() == again.tobytes()
    assert len(scene.things) in (6, 12)
    truth = patch_truth(scene, (0, 0, *scene.size), 8, 112)
    assert (truth.tens != IGNORE).mean() > 0.4


def test_heads_learn_through_the_projector_and_stay_out_of_the_model() -> None:
    tokenizer = train_tokenizer(["What number is on the red card?"], vocab_size=300, max_positions=256)
    llava = build_model(SHAPE, tokenizer, feature_layer=-1, attention="eager", seed=0)
    before = set(llava.state_dict())
    model = FoundationModel(llava, FoundationSpec())
    scene = make_scene(1)
    truth = patch_truth(scene, (0, 0, *scene.size), 4, 56)
    batch = {
        name: torch.from_numpy(np.stack([getattr(truth, name)] * 2)) for name in ("color", "glyph", "box")
    }
    batch |= {"tens": torch.full((2, 16), 3), "units": torch.full((2, 16), 5)}
    model(torch.randn(2, 3, 56, 56), **batch)["loss"].backward()
    assert llava.model.multi_modal_projector.linear_1.weight.grad.abs().sum() > 0
    assert llava.model.vision_tower.embeddings.patch_embedding.weight.grad.abs().sum() > 0
    assert set(llava.state_dict()) == before


def test_whitening_gives_the_projector_even_inputs() -> None:
    tokenizer = train_tokenizer(["x"], vocab_size=300, max_positions=256)
    llava = build_model(SHAPE, tokenizer, feature_layer=-1, attention="eager", seed=0)
    pixels = torch.randn(64, 3, 56, 56)
    whiten_projector(llava, pixels)
    with torch.no_grad():
        hidden = llava.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1][:, 1:]
        out = llava.model.multi_modal_projector.linear_1(hidden).flatten(0, 1)
    assert out.mean(0).abs().max() < 0.05
    assert (out.var(0) - 1).abs().max() < 0.25
