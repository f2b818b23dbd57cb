"""Every family's box words: the worked vector, the way back, and what is not one box."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from viscot_core.boxes.formats import Codec
from viscot_core.boxes.geometry import CENTER, WHOLE, Box, BoxStatus, Frame, iou
from viscot_core.boxes.registry import CODECS, codec, smart_resize

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
    several = family.parse(f"{vector} {other}", SIZE)
    if name == "viscot":  # the paper's figures depend on its own rule
        assert several.status is BoxStatus.UNPARSABLE
    else:
        assert (several.status, several.count) == (BoxStatus.REPAIRED, 2)
        assert several.box == family.parse(vector, SIZE).box, "the first"
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


def test_viscots_own_boxes_are_read_as_everywhere_else() -> None:
    from viscot_core.boxes.geometry import parse_box

    for text in ("[0.142, 0.388, 0.96, 0.9333]", "[0.100, 0.200, 0.300, 0.400]", "[.1,.2,.3,.4]", "no"):
        assert codec("viscot").parse(text, SIZE) == parse_box(text)


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


REPAIRED = {
    "qwen2.5-vl": [
        "[{'bbox_2d': [644, 189, 902, 567], 'label': 'x'}]",
        '{"bbox": [644, 189, 902, 567]}',
        '[{"bbox_2D": [644, 189, 902, 567], "label": "x"}]',
        "[644, 189, 902, 567]",
        "[[644, 189, 902, 567]]",
        "[[644, 189], [902, 567]]",
        '[{"bbox_2d": [644，189，902，567], "label": "x"}]',
        "【644、189、902、567】",
        '[{"bbox_2d": ["644", "189", "902", "567"], "label": "x"}]',
        '[{\\"bbox_2d\\": [644, 189, 902, 567], \\"label\\": \\"x\\"}]',
        '"[{\\n\\"bbox_2d\\": [\\n644, 189, 902, 567]}]"',
        "<|box_start|>(644,189),(902,567)<|box_end|>",
        '{"x1": 644, "y1": 189, "x2": 902, "y2": 567}',
        "The sign stands at [644, 189, 902, 567], left of tree 3.",
    ],
    "qwen3-vl": ["[500, 250, 700, 750]", "{'bbox': [500, 250, 700, 750]}", "500, 250, 700, 750"],
    "qwen2-vl": ["[500, 250, 700, 750]", "It is at (500, 250), (700, 750)."],
    "qwen-vl": ["(500,250),(700,750)", "x(500,250),(700,750)", "[500, 250, 700, 750]"],
    "gemini": [
        "[250, 500, 750, 700]",
        '{"box": [250, 500, 750, 700]}',
        "{'ymin': 250, 'xmin': 500, 'ymax': 750, 'xmax': 700}",
    ],
    "internvl": [
        "<box>[500, 250, 700, 750]</box>",
        "[500, 250, 700, 750]",
        '[{"bbox_2d": [500, 250, 700, 750], "label": "x"}]',
    ],
    "glm-4v": ['{"bbox_2d": [500, 250, 700, 750]}', "(500, 250, 700, 750)"],
    "pixels": ["(1000, 300, 1400, 900)", "1000 300 1400 900", '{"bbox": [1000.0, 300.0, 1400.0, 900.0]}'],
    "claude": ["(707, 212, 990, 636)"],
    "thousand": ["(500, 250, 700, 750)"],
    "unit": ["[.5, .25, .7, .75]", "0.5, 0.25, 0.7, 0.75", "(0.5, 0.25, 0.7, 0.75)", "Here: .5 .25 .7 .75."],
    "cogvlm": ["[500,250,700,750]"],
    "deepseek-vl2": ["[500, 250, 699, 749]"],
    "paligemma": ["[256, 512, 768, 716]"],
    "vstar": ["(1000, 300, 400, 600)"],
    "molmo": [
        "<point x='60.0' y='50.0'>x</point>",
        '{"x": 60.0, "y": 50.0}',
        "(60.0, 50.0)",
        '<points x1="60.0" y1="50.0" x2="10.0" y2="20.0" alt="x">x</points>',
    ],
}
"""Four numbers in the family's scale and order, in other words than its own."""


@pytest.mark.parametrize(
    ("name", "words"), [(name, each) for name, all_ in REPAIRED.items() for each in all_]
)
def test_other_words_of_the_same_box_are_repaired(name: str, words: str) -> None:
    family = codec(name)
    parsed = family.parse(words, SIZE)
    assert parsed.status is BoxStatus.REPAIRED
    assert parsed.box.coords == pytest.approx(family.parse(VECTORS[name], SIZE).box.coords, abs=0.001)


@pytest.mark.parametrize(
    "words",
    [
        "[100, 200, 300]",
        "[100, 200, 300, 400, 500]",
        "100, 200, 300, 400, 500",
        "[100, 200, 300, 4",  # cut within its last number
        "[1e2, 2e2, 3e2, 4e2]",
        "[10%, 20%, 30%, 40%]",
        "In 2019 the 2 dogs ate 3 of 4 bones.",
        '{"ymin": 200, "xmin": 100, "ymax": 400, "xmax": 300}',  # names in another order than the family's
        '{"x": 100, "y": 200, "width": 50, "height": 60}',
        '[{"point_2d": [100, 200], "label": "a"}, {"point_2d": [300, 400], "label": "b"}]',
        "[[0.1, 0.2], [0.3, 0.4]]",
        "Qwen2.5-VL has 3B, 7B and 72B parameters.",
    ],
)
@pytest.mark.parametrize("name", ["qwen2.5-vl", "qwen3-vl", "thousand", "pixels"])
def test_what_is_no_box_stays_unparsable(name: str, words: str) -> None:
    assert codec(name).parse(words, SIZE).status is BoxStatus.UNPARSABLE


DRESSES = (
    "[{0}, {1}, {2}, {3}]",
    "({0},{1},{2},{3})",
    "({0}, {1}), ({2}, {3})",
    "[[{0}, {1}, {2}, {3}]]",
    "{0} {1} {2} {3}",
    "{{'box': ['{0}', '{1}', '{2}', '{3}']}}",
    "｛{0}，{1}，{2}，{3}｝",
    "```json\n[{0}, {1}, {2}, {3}]\n```",
)


@pytest.mark.parametrize("name", [n for n, c in CODECS.items() if type(c) is Codec])
@given(
    numbers=st.tuples(*[st.integers(2, 450)] * 2, *[st.integers(500, 990)] * 2),
    dress=st.sampled_from(DRESSES),
    around=st.sampled_from(("{}", "It is at {}.", "I see it:\n{}\nDone", "{} as you see")),
)
def test_any_dress_shows_the_same_numbers(
    name: str, numbers: tuple[int, int, int, int], dress: str, around: str
) -> None:
    family, size = codec(name), (1000, 1000)
    first = [n / 1000 for n in numbers] if family.scale == 1 else numbers
    if family.order == "xywh":
        first = [*first[:2], *(b - a for a, b in zip(first[:2], first[2:], strict=True))]
    plain = family.parse("[{}, {}, {}, {}]".format(*first), size)
    parsed = family.parse(around.format(dress.format(*first)), size)
    assert parsed.status is not BoxStatus.UNPARSABLE
    assert parsed.box == plain.box
