"""4 and 8 bit on a CPU: matrices that bitsandbytes cannot compute with stay as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from made_families import make
from PIL import Image

from viscot_core.conversation import Message
from viscot_core.engines.base import Request
from viscot_core.engines.transformers.engine import LocalEngine
from viscot_core.families.checkpoint import in_whole_blocks
from viscot_core.families.generic.whole import odd_matrices
from viscot_core.images.view import view_of
from viscot_core.models.load import load_model


def test_matrices_of_4_bit_blocks() -> None:
    # The tower of Qwen2.5-VL: 1280 numbers into 3420 and back.
    assert not in_whole_blocks((3420, 1280)) and not in_whole_blocks((1280, 3420))
    assert in_whole_blocks((3584, 18944))


@pytest.mark.slow
@pytest.mark.parametrize("load_in", ["4bit", "8bit"])
@pytest.mark.parametrize("name", ["qwen2.5-vl", "llava-onevision"])
def test_a_model_with_odd_matrices_answers(tmp_path: Path, name: str, load_in: str) -> None:
    """It ended with "shape '[96, 0]' is invalid for input of size 48" at the first question."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    folder = make(name, tmp_path / name)
    odd = odd_matrices(folder)
    loaded = load_model(folder, device="cpu", load_in=load_in)
    linear = {n: each for n, each in loaded.model.named_modules() if isinstance(each, torch.nn.Linear)}
    assert odd and set(odd) <= set(linear)
    kind = {"4bit": bitsandbytes.nn.Linear4bit, "8bit": bitsandbytes.nn.Linear8bitLt}[load_in]
    quantised = {n for n, each in linear.items() if isinstance(each, kind)}
    head = {n for n in linear if n.endswith("lm_head")}
    assert quantised == set(linear) - head - (set(odd) if load_in == "4bit" else set())
    engine = LocalEngine(loaded)
    image = Image.effect_noise((96, 64), 60).convert("RGB")
    (said,) = engine.generate([Request((Message("user", "<image>\nWhat?"),), (view_of(image),), 4)])
    assert said.error is None and said.tokens
