"""Talks of the zoom loop, one of each dialect, with the rectangles that its authors' code cuts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from PIL import Image
from scripted_engine import ScriptedEngine

from viscot_core.boxes.geometry import Window
from viscot_core.conversation import ToolCall, with_calls
from viscot_core.images.view import View, view_of
from viscot_core.policies.base import Answer, Question
from viscot_core.policies.dialects.known import dialect
from viscot_core.policies.zoom import Zoom
from viscot_core.rollout import run


def noise(width: int, height: int, seed: int = 1) -> View:
    """Every pixel differs from its neighbours, so a rectangle that is off by one has another hash."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return view_of(Image.fromarray(pixels))


VIEW = noise(1000, 800)


def json_call(**arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': 'image_zoom_in_tool', 'arguments': arguments})}\n</tool_call>"


def native(arguments: str, id: str = "call_9", name: str = "zoom") -> str:
    return with_calls("", [ToolCall(id, name, arguments)])


# Two looks each, the second one in the first crop where the dialect has words for it.
XML = (
    "<tool_call>\n<function=image_zoom_in_tool>\n<parameter=bbox_2d>\n{box}\n</parameter>\n<parameter=label>\n"
    "the sign\n</parameter>\n<parameter=img_idx>\n{image}\n</parameter>\n</function>\n</tool_call>"
)
CROP = (
    '<tool_call>\n{{"name": "crop_image_normalized", "arguments": {{"bbox_2d": {}, "target_image": {}}}}}\n'
    "</tool_call>"
)
TALKS: dict[str, tuple[list[str], str, list[Window], list[tuple[int, int]]]] = {
    # said, answer, rectangles of the original, sizes shown
    "viscot": (
        ["[0.500, 0.500, 1.000, 1.000]", "[0.000, 0.000, 0.500, 0.500]", "a fox"],
        "a fox",
        [(500, 300, 1000, 800), (500, 300, 750, 550)],
        [(500, 500), (250, 250)],
    ),
    "qwen3-vl": (
        [
            json_call(bbox_2d=[500, 250, 1000, 750], label="sign", img_idx=0),
            json_call(bbox_2d=[0, 0, 500, 500], label="sign", img_idx=1),
            "a fox",
        ],
        "a fox",
        [(500, 200, 1000, 600), (500, 200, 750, 400)],
        [(576, 480), (576, 480)],
    ),
    "qwen3.5": (
        [
            XML.format(box="[500, 250, 1000, 750]", image=0),
            XML.format(box="[0, 0, 500, 500]", image=1),
            "a fox",
        ],
        "a fox",
        [(500, 200, 1000, 600), (500, 200, 750, 400)],
        [(576, 480), (576, 480)],
    ),
    "deepeyes": (
        [
            f"<think>where?</think> {json_call(bbox_2d=[500, 200, 1000, 600], label='sign')}",
            f"<think>closer</think> {json_call(bbox_2d=[500, 200, 610, 310])}",
            "<think>I see</think> <answer>a fox</answer>",
        ],
        "a fox",
        [(500, 200, 1000, 600), (500, 200, 610, 310)],
        [(504, 392), (112, 112)],
    ),
    "mini-o3": (
        [
            '<think>where?</think><grounding>{"bbox_2d": [0.5, 0.25, 1.0, 0.75], "source": "original_image"}',
            '<think>closer</think><grounding>{"bbox_2d": [0.0, 0.0, 0.5, 0.5], "source": "observation_1"}',
            "<think>I see</think><answer>a fox</answer>",
        ],
        "a fox",
        # Corners are at most the last pixel, which is left out: the authors clip to w - 1.
        [(500, 200, 999, 600), (500, 200, 749, 400)],
        [(499, 400), (249, 200)],
    ),
    "pixel-reasoner": (
        [
            "Let me look closer.\n" + CROP.format([0.5, 0.25, 0.9, 0.75], 1),
            CROP.format([0.2, 0.2, 0.5, 0.5], 2),
            "It is a \\boxed{red {fox}}.",
        ],
        "red {fox}",
        # A tenth of the source's sides is added on each side.
        [(400, 120, 1000, 680), (460, 176, 760, 456)],
        [(588, 560), (476, 448)],
    ),
    "openai-tools": (
        [
            native('{"bbox_2d": [500, 250, 1000, 750], "image": 0}'),
            native('{"bbox_2d": [0, 0, 500, 500], "image": 1}'),
            "a fox",
        ],
        "a fox",
        [(500, 200, 1000, 600), (500, 200, 750, 400)],
        [(500, 400), (250, 200)],
    ),
}


def talk(name: str, *replies: str, view: View = VIEW, looks: int = 6, **more: Any) -> Answer:
    engine = ScriptedEngine(*replies)
    (answer,) = run(Zoom(dialect(name), looks, **more), engine, [Question("What is it?", (view,))])
    assert answer.error is None
    return answer
