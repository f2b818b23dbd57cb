"""Which box words a model writes, and the size in which its server shows it an image."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from viscot_core.boxes.registry import claude_resize, codec, codec_of_model, smart_resize
from viscot_core.errors import UsageError


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Qwen2.5-VL-7B-Instruct", "qwen2.5-vl"),
        ("Qwen/Qwen2-VL-7B", "qwen2-vl"),
        ("qwen3-vl-30b", "qwen3-vl"),
        ("Qwen-VL-Chat", "qwen-vl"),
        ("OpenGVLab/InternVL3-8B", "internvl"),
        ("VisCoT-7b-336", "viscot"),
        ("gemini-2.5-flash", "gemini"),
        ("zai-org/GLM-4.5V", "glm-4v"),
        ("deepseek-ai/deepseek-vl2-small", "deepseek-vl2"),
        ("claude-sonnet-4", "claude"),
    ],
)
def test_names_that_make_the_family_certain(model: str, name: str) -> None:
    assert codec_of_model(model).name == name


@pytest.mark.parametrize("model", ["gpt-4o", "my-finetune", "llava-1.5-7b", "internvl3-qwen2.5-vl"])
def test_names_that_do_not(model: str) -> None:
    with pytest.raises(UsageError, match="--box-format"):
        codec_of_model(model)
    with pytest.raises(UsageError, match="Did you mean"):
        codec("qwen25-vl")


@pytest.mark.parametrize("model", ["qwen-vl-max", "Qwen-VL-Plus", "qwen-vl-max-latest", "allenai/Molmo2-8B"])
def test_names_of_changing_models_are_not_certain(model: str) -> None:
    with pytest.raises(UsageError, match="--box-format"):
        codec_of_model(model)


def test_a_checkpoint_says_how_it_writes_boxes(tmp_path: Path) -> None:
    from viscot_core.engines.open import EngineOptions, codec_for
    from viscot_core.families.manifest import Manifest

    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    options = EngineOptions(str(tmp_path))
    assert codec_for(options).name == "viscot"
    Manifest(name="x", image_side=56, box_format="qwen2.5-vl").save(tmp_path)
    assert codec_for(options).name == "qwen2.5-vl"
    assert codec_for(EngineOptions(str(tmp_path), box_format="claude")).name == "claude"


@given(width=st.integers(1, 6000), height=st.integers(1, 6000))
def test_sent_sizes_are_fixed_points(width: int, height: int) -> None:
    """An image sent in this size is left alone by the server, whatever larger limit it has."""
    if max(width, height) / min(width, height) <= 100:  # the families refuse longer shapes
        sent = smart_resize((width, height))
        assert smart_resize(sent) == sent
        assert smart_resize(sent, max_tokens=16384) == sent
    sent = claude_resize((width, height))
    assert claude_resize(sent) == sent
    assert sent[0] <= width and sent[1] <= height


@given(st.integers(1, 4000), st.integers(1, 4000), st.sampled_from([1, 2, 4, 9, 256]), st.integers(0, 1300))
def test_a_size_within_close_limits_is_left_alone_by_the_models_own_processor(
    width: int, height: int, least: int, more: int
) -> None:
    """Boxes are read as pixels of this size: another resize behind it would move them."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as theirs

    most = least + more
    across, down = smart_resize((width, height), min_tokens=least, max_tokens=most)
    assert least <= across * down / 28**2 <= most
    if max(across, down) <= 200 * min(across, down):
        limits = {"min_pixels": least * 28**2, "max_pixels": most * 28**2}
        assert theirs(down, across, factor=28, **limits) == (down, across)
