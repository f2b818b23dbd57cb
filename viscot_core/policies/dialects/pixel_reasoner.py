"""The dialect of Pixel Reasoner (arXiv 2505.15966; github.com/TIGER-AI-Lab/Pixel-Reasoner, a3a6c3a)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from viscot_core.boxes.numbers import Numbers
from viscot_core.conversation import IMAGE, Message
from viscot_core.policies.dialects.base import Dialect, Reading, Result, Rules, Situation
from viscot_core.policies.dialects.calls import between, index, json_call, without_thoughts

TOOL = "crop_image_normalized"
_END = "</tool_call>"

# The system prompt of its data and demonstration. The tool for videos is in it because the model was trained
# with both; a call of it is refused.
_SYSTEM = (
    "You are a helpful assistant.\n\n# Tools\n\nYou may call one or more functions to assist with the user "
    "query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
    '{"type": "function", "function": {"name": "crop_image_normalized", "description": "Zoom in on the image '
    'based on the bounding box coordinates.", "parameters": {"type": "object", "properties": {"bbox_2d": '
    '{"type": "array", "description": "normalized coordinates for bounding box of the area you want to zoom '
    'in. Values within [0.0,1.0].", "items": {"type": "number"}}, "target_image": {"type": "number", '
    '"description": "The index of the image to crop. Index from 1 to the number of images. Choose 1 to '
    'operate on original image."}}, "required": ["bbox_2d", "target_image"]}}}\n'
    '{"type": "function", "function": {"name": "select_frames", "description": "Select frames from a video.",'
    ' "parameters": {"type": "object", "properties": {"target_frames": {"type": "array", "description": '
    '"List of frame indices to select from the video (no more than 8 frames in total).", "items": {"type": '
    '"integer", "description": "Frame index from 1 to 16."}}}, "required": ["target_frames"]}}}\n</tools>\n\n'
    "For each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": '
    "<args-json-object>}\n</tool_call>"
)
# templates["vcot"] of curiosity_driven_rl/openrlhf/datasets/prompts_dataset.py, behind two line breaks of
# the caller and two of its own.
_SUFFIX = (
    "\n\n\n\nGuidelines: Understand the given visual information and the user query. Determine if it is "
    "beneficial to employ the given visual operations (tools). For a video, we can look closer by "
    "`select_frames`. For an image, we can look closer by `crop_image`. Reason with the visual information "
    "step by step, and put your final answer within \\boxed{}."
)


def _source(arguments: Mapping[str, Any]) -> int:
    number = index(arguments, "target_image")
    if number < 1:  # -1 must not count from the end
        raise ValueError("target_image counts from 1")
    return number - 1


def _parse(text: str, images: int) -> Reading:
    calls = between(text, "<tool_call>", _END)
    # Only a call at the end of the turn is made, and only the last one.
    if calls and text.rstrip().endswith(_END):
        return Reading(text, (json_call(calls[-1].strip(), TOOL, _source),))
    answer = boxed(without_thoughts(text))
    ignored = "a call that does not end the turn is not made" if calls else ""
    return Reading(text, answer=text if answer is None else answer, ignored=ignored)


def boxed(text: str) -> str | None:
    """What stands in the last ``\\boxed{}``, braces inside included; None where there is none."""
    _, mark, rest = text.rpartition("\\boxed{")
    if not mark:
        return None
    depth = 1
    for place, letter in enumerate(rest):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return rest[:place].strip()
    return rest.strip()


def _observe(results: Sequence[Result], situation: Situation) -> tuple[Message, ...]:
    (result,) = results
    if result.refused:
        return (Message("user", f"\nExecution error:\n{result.refused}\n"),)
    width, height = result.size
    return (Message("user", f"\nHere is the cropped image (Image Size: {width}x{height}):{IMAGE}"),)


def _call(numbers: Numbers, source: int, images: int) -> str:
    box = [round(number, 4) for number in numbers]
    arguments = {"bbox_2d": box, "target_image": source + 1}
    return f"<tool_call>\n{json.dumps({'name': TOOL, 'arguments': arguments})}\n{_END}"


PIXEL_REASONER = Dialect(
    name="pixel-reasoner",
    # A corner at exactly 1.0 turns all four into pixels: a box of one pixel, which is refused as too small.
    frame="unit-or-pixels",
    parse=_parse,
    observe=_observe,
    call=_call,
    origin="github.com/TIGER-AI-Lab/Pixel-Reasoner a3a6c3a",
    answer=lambda text: f"\\boxed{{{text}}}",
    suffix=_SUFFIX,
    system=_SYSTEM,
    rules=Rules(
        looks=4,
        least_side=29,
        margin=0.1,
        step=28,
        least_pixels=256 * 28**2,
        most_pixels=5120 * 28**2,
    ),
)
