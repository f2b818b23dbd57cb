"""The registry of box conventions by model family, and which family a model's name makes certain."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from functools import cache, lru_cache

from viscot_core.boxes.formats import FOUR, NUMBER, Codec, GridCodec, PointCodec, Resize, SquareCodec
from viscot_core.boxes.geometry import Size
from viscot_core.errors import UsageError, nearest

QWEN_FACTOR = 28
QWEN_MAX_TOKENS = 1280
"""Images are sent with at most this many 28 x 28 patches: the least of the usual server settings, so that a
server with any larger limit leaves their pixels alone."""
QWEN_MIN_TOKENS = 4
CLAUDE_LONG_SIDE, CLAUDE_TOKENS, CLAUDE_PIXELS_PER_TOKEN = 1568, 1600, 750


def smart_resize(
    size: Size,
    *,
    max_tokens: int = QWEN_MAX_TOKENS,
    min_tokens: int = QWEN_MIN_TOKENS,
    step: int = QWEN_FACTOR,
) -> Size:
    """Qwen2-VL's resize: sides to multiples of ``step``, area between the limits of tokens.

    Its results are fixed points: a processor with these limits, or wider ones, leaves them alone. Where the
    limits are so close that rounding the sides misses them (Qwen's own goes to and fro there), it is the size
    within them whose shape comes nearest.
    """
    width, height = size
    patch = step**2
    across, down = (max(step, round(side / step) * step) for side in (width, height))
    if across * down > max_tokens * patch:
        # Rounded down, so that the result keeps the limit (and up below, for the least).
        shrink = math.sqrt(width * height / (max_tokens * patch))
        across, down = (max(step, math.floor(side / shrink / step) * step) for side in (width, height))
    elif across * down < min_tokens * patch:
        grow = math.sqrt(min_tokens * patch / (width * height))
        across, down = (math.ceil(side * grow / step) * step for side in (width, height))
    if not min_tokens * patch <= across * down <= max_tokens * patch:
        return _nearest_shape(width / height, min_tokens, max_tokens, step)
    return across, down


@lru_cache(maxsize=1024)
def _nearest_shape(shape: float, least: int, most: int, step: int) -> Size:
    """Of the sizes of ``least`` to ``most`` squares the one whose sides' ratio is nearest to ``shape``."""
    sizes: list[tuple[float, Size]] = []
    for across in range(1, most + 1):
        lowest, highest = -(-least // across), most // across
        if lowest <= highest:
            down = min(max(round(across / shape), lowest), highest)
            sizes.append((abs(math.log(across / down / shape)), (across * step, down * step)))
    return min(sizes)[1]


def claude_resize(size: Size) -> Size:
    """The largest size of this shape that Claude takes unchanged (1568 px, 1600 tokens)."""
    width, height = size
    limit = CLAUDE_TOKENS * CLAUDE_PIXELS_PER_TOKEN
    share = min(1.0, CLAUDE_LONG_SIDE / max(width, height), math.sqrt(limit / (width * height)))
    return max(1, math.floor(width * share)), max(1, math.floor(height * share))


_FENCE = r"(?:```(?:json)?\s*)?%s\s*(?:```)?"
_REF = r"(?:<ref>[^<]*</ref>)?"


def _json(key: str) -> tuple[str, str]:
    """Expressions for ``[{"KEY": [a, b, c, d], "label": ".."}]``: the numbers, and the whole reply."""
    find = rf'"{key}"\s*:\s*\[{FOUR}\]'
    label = r'\s*"label"\s*:\s*"[^"]*"\s*'
    return find, _FENCE % rf"\[?\s*\{{(?:{label},)?\s*%s\s*(?:,{label})?\}}\s*\]?"


_BBOX_2D, _BBOX_2D_WHOLE = _json("bbox_2d")
_BOX_2D, _BOX_2D_WHOLE = _json("box_2d")
_BRACKETS = rf"\[{FOUR}\]"
_DOUBLE = rf"\[\[{FOUR}\]\]"
_JSON_FORM = 'Answer with JSON only, in the form [{{"{key}": [{names}], "label": "region"}}], with {scale}.'

CODECS: dict[str, Codec] = {
    codec.name: codec
    # In this order: name, text, find, and `whole` where a clean reply is more than `find`.
    for codec in (
        SquareCodec("viscot", "[{0}, {1}, {2}, {3}]", _BRACKETS, scale=1.0, number=".3f"),
        SquareCodec(
            "llava-1.5", "[{0}, {1}, {2}, {3}]", _BRACKETS, scale=1.0, number=".2f", standing="unverified"
        ),
        Codec(
            "qwen-vl",
            "<ref>{label}</ref><box>({0},{1}),({2},{3})</box>",
            rf"<box>\({NUMBER},{NUMBER}\),\({NUMBER},{NUMBER}\)</box>",
            _REF + "%s",
            form="Answer in the form <ref>region</ref><box>(x1,y1),(x2,y2)</box>.",
        ),
        Codec(
            "qwen2-vl",
            "<|object_ref_start|>{label}<|object_ref_end|><|box_start|>({0},{1}),({2},{3})<|box_end|>",
            # A server that drops special tokens leaves the two pairs of brackets.
            rf"\({NUMBER},{NUMBER}\)\s*,\s*\({NUMBER},{NUMBER}\)",
            r"(?:<\|object_ref_start\|>.*<\|object_ref_end\|>)?(?:<\|box_start\|>)?%s(?:<\|box_end\|>)?",
            form="Answer in the form (x1,y1),(x2,y2) with whole numbers from 0 to 1000.",
        ),
        Codec(
            "qwen2.5-vl",
            '[{{"bbox_2d": [{0}, {1}, {2}, {3}], "label": "{label}"}}]',
            _BBOX_2D,
            _BBOX_2D_WHOLE,
            form=_JSON_FORM.format(key="bbox_2d", names="x1, y1, x2, y2", scale="pixels of the image"),
            # QwenLM/Qwen2.5-VL, cookbooks/spatial_understanding.ipynb
            own_request="Locate {what}, output its bbox coordinates using JSON format.",
            scale=None,
            resize=smart_resize,
        ),
        Codec(
            "qwen3-vl",
            '[{{"bbox_2d": [{0}, {1}, {2}, {3}], "label": "{label}"}}]',
            _BBOX_2D,
            _BBOX_2D_WHOLE,
            form=_JSON_FORM.format(
                key="bbox_2d",
                names="x1, y1, x2, y2",
                scale="whole numbers from 0 to 1000 of the image's sides",
            ),
            # QwenLM/Qwen3-VL, cookbooks/2d_grounding.ipynb, with one thing in the place of its categories
            own_request="Locate {what}. Report bbox coordinates in JSON format.",
        ),
        Codec(
            "internvl",
            "<ref>{label}</ref><box>[[{0}, {1}, {2}, {3}]]</box>",
            _DOUBLE,
            _REF + r"(?:<box>)?%s(?:</box>)?",
            form="Answer in the form <ref>region</ref><box>[[x1, y1, x2, y2]]</box>.",
            # OpenGVLab's model cards of InternVL: the prompt of their grounding figures
            own_request="Please provide the bounding box coordinate of the region this sentence describes: "
            "<ref>{what}</ref>",
        ),
        Codec(
            "cogvlm",
            "[[{0},{1},{2},{3}]]",
            _DOUBLE,
            form="Answer in the form [[x0,y0,x1,y1]].",
            number="03.0f",
            bins=True,
        ),
        GridCodec(
            "kosmos-2",
            "<phrase>{label}</phrase><object><patch_index_{0}><patch_index_{1}></object>",
            r"<patch_index_(\d{4})><patch_index_(\d{4})>",
            r"(?:<phrase>[^<]*</phrase>)?(?:<object>)?%s(?:</object>)?",
        ),
        Codec(
            "paligemma",
            "<loc{0}><loc{1}><loc{2}><loc{3}> {label}",
            r"<loc(\d{4})>" * 4,
            r"%s(?: [^<]*)?",
            scale=1024.0,
            order="yxyx",
            number="04.0f",
            bins=True,
            standing="unverified",
        ),
        Codec(
            "florence-2",
            "{label}<loc_{0}><loc_{1}><loc_{2}><loc_{3}>",
            r"<loc_(\d{1,3})>" * 4,
            r"[^<]*%s",
            bins=True,
            middle=True,
        ),
        Codec(
            "gemini",
            '[{{"box_2d": [{0}, {1}, {2}, {3}], "label": "{label}"}}]',
            _BOX_2D,
            _BOX_2D_WHOLE,
            form=_JSON_FORM.format(
                key="box_2d",
                names="ymin, xmin, ymax, xmax",
                scale="whole numbers from 0 to 1000 of the image's sides",
            ),
            order="yxyx",
            standing="documentation",
        ),
        Codec(
            "deepseek-vl2",
            "<|ref|>{label}<|/ref|><|det|>[[{0}, {1}, {2}, {3}]]<|/det|>",
            _DOUBLE,
            r"(?:<\|ref\|>.*<\|/ref\|>)?(?:<\|det\|>)?%s(?:<\|/det\|>)?",
            form="Answer in the form <|ref|>region<|/ref|><|det|>[[x1, y1, x2, y2]]<|/det|>.",
            scale=999.0,
            standing="author's word",
        ),
        Codec(
            "glm-4v",
            "<|begin_of_box|>[[{0},{1},{2},{3}]]<|end_of_box|>",
            _BRACKETS,
            r"(?:<\|begin_of_box\|>)?\[?%s\]?(?:<\|end_of_box\|>)?",
            form="Answer in the form [[x1,y1,x2,y2]] with whole numbers from 0 to 1000.",
        ),
        PointCodec(
            "molmo",
            '<point x="{0}" y="{1}" alt="{label}">{label}</point>',
            rf'x="{NUMBER}"\s+y="{NUMBER}"',
            r'<point %s(?:\s+alt="[^"]*")?>[^<]*</point>',
            form="Point to it.",
            scale=100.0,
            points=True,
        ),
        Codec(
            "claude",
            "[{0}, {1}, {2}, {3}]",
            _BRACKETS,
            form="Answer with [x1, y1, x2, y2] only, in pixels of the image.",
            scale=None,
            resize=claude_resize,
            standing="documentation",
        ),
        Codec(
            "pixels",
            "[{0}, {1}, {2}, {3}]",
            _BRACKETS,
            form="Answer with [x1, y1, x2, y2] only, in pixels of the image.",
            scale=None,
            standing="generic",
        ),
        Codec(
            "thousand",
            "[{0}, {1}, {2}, {3}]",
            _BRACKETS,
            form="Answer with [x1, y1, x2, y2] only, from 0 to 1000 of the image's width and height.",
            standing="generic",
        ),
        Codec(
            "unit",
            "[{0}, {1}, {2}, {3}]",
            _BRACKETS,
            form="Answer with [x1, y1, x2, y2] only, from 0.000 to 1.000 of the image's width and height.",
            scale=1.0,
            number=".3f",
            standing="generic",
        ),
        Codec("vstar", "[{0}, {1}, {2}, {3}]", _BRACKETS, scale=None, order="xywh"),
    )
}
"""Every convention by name; ``pixels``, ``thousand`` and ``unit`` serve models without an own form (GPT)."""

CERTAIN: tuple[tuple[str, str], ...] = (
    (r"viscot|visual-?cot", "viscot"),
    (r"qwen-?vl(?!\d|-?(?:max|plus|ocr))", "qwen-vl"),  # qwen-vl-max and -plus are names of changing models
    (r"qwen2-?vl", "qwen2-vl"),
    (r"qwen2\.5-?vl", "qwen2.5-vl"),
    (r"qwen3-?vl|qwen3\.5", "qwen3-vl"),
    (r"internvl-?[23]", "internvl"),
    (r"cogvlm|cogcom", "cogvlm"),
    (r"kosmos-?2", "kosmos-2"),
    (r"florence-?2", "florence-2"),
    (r"gemini", "gemini"),
    (r"deepseek-vl2", "deepseek-vl2"),
    (r"glm-4\.[1-6]v", "glm-4v"),
    (r"molmo(?!-?2)", "molmo"),  # Molmo 2 writes its points in other words
    (r"claude", "claude"),
)
"""Expressions that make a family certain; unverified conventions are left out and must be named."""


def codec(name: str) -> Codec:
    """The convention called ``name``.

    Where boxes are pixels of the size that a model sees, ``NAME@LEAST-MOST`` gives the limits of its
    processor, in image tokens (``qwen2.5-vl@4-16384``); without them they are the family's own.

    Raises:
        UsageError: there is none; the nearest names are suggested.
    """
    own, _, limits = name.partition("@")
    if own not in CODECS:
        raise UsageError(
            f"There is no box format '{name}'; there are {', '.join(CODECS)}.{nearest(name, CODECS)}"
        )
    found = CODECS[own]
    if not limits:
        return found
    numbers = re.fullmatch(r"(\d{1,6})-(\d{1,6})", limits)
    if numbers is None or found.resize is not smart_resize or not 0 < int(numbers[1]) <= int(numbers[2]):
        raise UsageError(
            f"'{name}' is no box format: only a format in pixels of a resized image takes limits, the least "
            "and the most image tokens, as in qwen2.5-vl@4-16384."
        )
    return replace(found, name=name, resize=_resize_within(int(numbers[1]), int(numbers[2])))


def limited(found: Codec, least: int, most: int) -> Codec:
    """``found`` for images of ``least`` to ``most`` tokens; unchanged where it names no such pixels."""
    if found.resize is not smart_resize or (least, most) == (QWEN_MIN_TOKENS, QWEN_MAX_TOKENS):
        return found
    return codec(f"{found.name}@{least}-{most}")


@cache
def _resize_within(least: int, most: int) -> Resize:
    def resize(size: Size) -> Size:
        return smart_resize(size, max_tokens=most, min_tokens=least)

    resize.__name__ = f"{smart_resize.__name__}@{least}-{most}"  # an engine's identity names it
    return resize


def codec_of_model(model: str) -> Codec:
    """The convention that a model's name makes certain.

    Raises:
        UsageError: the name fits no family, or several: the user is asked for --box-format.
    """
    fitting = dict.fromkeys(name for pattern, name in CERTAIN if re.search(pattern, model.lower()))
    if len(fitting) == 1:
        return CODECS[next(iter(fitting))]
    why = f"fits several families ({', '.join(fitting)})" if fitting else "tells no family"
    raise UsageError(
        f"How does '{model}' write boxes? Its name {why}: give --box-format ({', '.join(CODECS)}), "
        "or find out with 'viscot bench calibrate'."
    )
