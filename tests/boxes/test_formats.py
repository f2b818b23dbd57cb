"""Every family's box words: the worked vector, the way back, and what is not one box."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from viscot_core.boxes.formats import Codec
from viscot_core.boxes.geometry import CENTER, WHOLE, Box, BoxStatus, Frame, iou
from viscot_core.boxes.registry import CODECS, claude_resize, codec, codec_of_model, smart_resize
from viscot_core.errors import UsageError

SIZE = (2000, 1200)
OBJECT = Box(1000, 300, 1400, 900, Frame.ORIGINAL)

VECTORS = {
    "viscot": "[0.500, 0.350, 0.700, 0.650]",
    "llava-1.5": "[0.50, 0.35, 0.70, 0.65]",
    "qwen-vl": "<ref>x</ref><box>(500,250),(700,750)</box>",
    "qwen2-vl": "<|object_ref_start|>x<|object_ref_end|><|box_start|>(500,250),(700,750)<|box_end|>",
    "qwen2.5-vl": '[{"bbox_2d": [644, 189, 902, 567], "label": "x"}]',
    "qwen3-vl": '[{"bbox_2d": [500, 250, 700, 750], "label": "x"}]',
    "internvl": "<ref>x</ref><box>[[500, 250, 700, 750]]</box>",
    "cogvlm": "[[500,250,700,750]]",
    "kosmos-2": "<phrase>x</phrase><object><patch_index_0272><patch_index_0758></object>",
    "paligemma": "<loc0256><loc0512><loc0768><loc0716> x",
    "florence-2": "x<loc_500><loc_250><loc_700><loc_750>",
    "gemini": '[{"box_2d": [250, 500, 750, 700], "label": "x"}]',
    "deepseek-vl2": "<|ref|>x<|/ref|><|det|>[[500, 250, 699, 749]]<|/det|>",
    "glm-4v": "<|begin_of_box|>[[500,250,700,750]]<|end_of_box|>",
    "molmo": '<point x="60.0" y="50.0" alt="x">x</point>',
    "claude": "[707, 212, 990, 636]",
    "pixels": "[1000, 300, 1400, 900]",
    "thousand": "[500, 250, 700, 750]",
    "unit": "[0.500, 0.250, 0.700, 0.750]",
    "vstar": "[1000, 300, 400, 600]",
}
STEP = {"kosmos-2": 1 / 32, "llava-1.5": 0.01, "unit": 0.001, "viscot": 0.001}
"""The coarsest step of a family's numbers as a share of a side; a thousandth, or a pixel, elsewhere."""

boxes = st.tuples(
    st.tuples(st.integers(300, 1800), st.integers(300, 1800)),
    st.floats(0, 0.6),
    st.floats(0, 0.6),
    st.floats(0.1, 0.4),
    st.floats(0.1, 0.4),
)


def test_every_family_has_its_vector() -> None:
    assert VECTORS.keys() == CODECS.keys()


@pytest.mark.parametrize("name", CODECS)
def test_the_worked_vector(name: str) -> None:
    family = codec(name)
    assert family.encode(OBJECT, SIZE, label="x") == VECTORS[name]
    parsed = family.parse(VECTORS[name], SIZE)
    assert parsed.status is BoxStatus.OK
    pixels = parsed.box.to_original(SIZE).coords
    if family.points:
        assert pixels == pytest.approx((1200, 600, 1200, 600))
    else:
        step = STEP.get(name, 0.001) * 2000
        assert pixels == pytest.approx(OBJECT.coords, abs=step)


def test_the_pixels_of_a_larger_server() -> None:
    assert smart_resize(SIZE) == (1288, 756)
    assert smart_resize(SIZE, max_tokens=16384) == (1988, 1204)


@pytest.mark.parametrize("name", CODECS)
@given(drawn=boxes)
def test_there_and_back(name: str, drawn: tuple[tuple[int, int], float, float, float, float]) -> None:
    size, x, y, width, height = drawn
    box = Box(x * size[0], y * size[1], (x + width) * size[0], (y + height) * size[1], Frame.ORIGINAL)
    family = codec(name)
    parsed = family.parse(family.encode(box, size), size)
    assert parsed.status is BoxStatus.OK
    if family.points:
        middle = parsed.box.to_original(size).coords[:2]
        assert middle == pytest.approx(((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2), abs=0.0006 * max(size))
        return
    tolerance = STEP.get(name, 0.001) * max(size) + 1
    if family.scale is None:
        tolerance += max(1.0, size[0] / family._scales(size)[0], size[1] / family._scales(size)[1])
    assert parsed.box.to_original(size).coords == pytest.approx(box.coords, abs=tolerance)


@pytest.mark.parametrize("name", CODECS)
@given(text=st.text())
def test_no_text_makes_it_raise(name: str, text: str) -> None:
    parsed = codec(name).parse(text, SIZE)
    assert all(0 <= n <= 1 for n in parsed.box.coords)


@pytest.mark.parametrize("name", CODECS)
def test_other_replies(name: str) -> None:
    family, vector = codec(name), VECTORS[name]
    assert family.parse("I cannot see it.", SIZE).status is BoxStatus.UNPARSABLE
    assert family.parse(f"It is here: {vector} as you see", SIZE).status is BoxStatus.REPAIRED
    other = family.encode(Box(100, 100, 300, 300, Frame.ORIGINAL), SIZE)
    assert family.parse(f"{vector} {other}", SIZE).status is BoxStatus.UNPARSABLE
    assert family.parse(f"{vector} {vector}", SIZE).box == family.parse(vector, SIZE).box


def test_edges_of_a_reply() -> None:
    qwen = codec("qwen3-vl")
    fenced = '```json\n[\n  {"bbox_2d": [500, 250, 700, 750], "label": "x"}\n]\n```'
    assert qwen.parse(fenced, SIZE).status is BoxStatus.OK
    assert qwen.parse('{"bbox_2d": [700, 250, 500, 750]}', SIZE).status is BoxStatus.REPAIRED
    assert qwen.parse('{"bbox_2d": [500, 250, 1020, 750]}', SIZE).box.to_original(SIZE).x1 == 2000
    assert qwen.parse('{"bbox_2d": [500, 250, 1400, 750]}', SIZE).status is BoxStatus.UNPARSABLE
    assert qwen.parse('{"bbox_2d": [500, 250, 500, 750]}', SIZE).status is BoxStatus.UNPARSABLE
    # A form without its special tokens, as servers that drop them reply.
    assert codec("qwen2-vl").parse("(500,250),(700,750)", SIZE).status is BoxStatus.OK


def test_the_padding_has_no_words() -> None:
    """The centre box of the padded square is higher than a wide image."""
    assert codec("qwen3-vl").encode(CENTER, (1000, 300)) == codec("qwen3-vl").encode(
        Box(250, 0, 750, 300, Frame.ORIGINAL), (1000, 300)
    )
    assert "[0, 250, 1000, 750]" in codec("gemini").encode(CENTER, (1000, 300))


def test_the_same_numbers_mean_other_places() -> None:
    seen = {
        name: codec(name).parse(codec(name).text.format(500, 250, 700, 750, label="x"), SIZE).box
        for name in ("qwen3-vl", "gemini", "qwen2.5-vl", "pixels")
    }
    assert iou(seen["qwen3-vl"], seen["gemini"]) < 0.5
    assert iou(seen["qwen3-vl"], seen["pixels"]) < 0.5


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


def test_viscots_own_boxes_are_read_as_everywhere_else() -> None:
    from viscot_core.boxes.geometry import parse_box

    for text in ("[0.142, 0.388, 0.96, 0.9333]", "[0.100, 0.200, 0.300, 0.400]", "[.1,.2,.3,.4]", "no"):
        assert codec("viscot").parse(text, SIZE) == parse_box(text)


def test_a_checkpoint_says_how_it_writes_boxes(tmp_path: Path) -> None:
    from viscot_core.engines.open import EngineOptions, codec_for
    from viscot_core.families.manifest import Manifest

    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    options = EngineOptions(str(tmp_path))
    assert codec_for(options).name == "viscot"
    Manifest(name="x", image_side=56, box_format="qwen2.5-vl").save(tmp_path)
    assert codec_for(options).name == "qwen2.5-vl"
    assert codec_for(EngineOptions(str(tmp_path), box_format="claude")).name == "claude"


LARGER = [family.name for family in CODECS.values() if family.scale != 1.0 and type(family) is Codec]


@pytest.mark.parametrize("name", LARGER)
def test_shares_in_a_larger_scale_are_no_tiny_box(name: str) -> None:
    """``[0.5, 0.25, 0.7, 0.75]`` of a 0-1000 or pixel family was read as two pixels, ``ok``."""
    family = codec(name)
    words = family.text.format("0.5", "0.25", "0.7", "0.75", label="region")
    if re.search(family.find, words):
        parsed = family.parse(words, (2000, 1200))
        assert (parsed.status, parsed.box) == (BoxStatus.UNPARSABLE, WHOLE)
    else:
        assert name in ("paligemma", "florence-2"), "whole numbers only"


def test_a_point_in_shares_is_no_point_in_percent() -> None:
    family = codec("molmo")
    words = family.text.format("0.5", "0.7", label="region")
    assert family.parse(words, (2000, 1200)).status is BoxStatus.UNPARSABLE
    assert (
        family.parse(family.text.format("0.5", "70.0", label="region"), (2000, 1200)).status is BoxStatus.OK
    )
