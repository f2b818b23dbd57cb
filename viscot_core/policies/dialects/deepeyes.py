"""The dialect of DeepEyes (arXiv 2505.14362; github.com/Visual-Agent/DeepEyes, 6c5e796)."""

from __future__ import annotations

import json
from collections.abc import Sequence

from viscot_core.boxes.numbers import Numbers
from viscot_core.conversation import IMAGE, Message
from viscot_core.policies.dialects.base import Dialect, Reading, Result, Rules, Situation
from viscot_core.policies.dialects.calls import between, json_call, last_answer

TOOL = "image_zoom_in_tool"

# SYSTEM_PROMPT_V2 of verl/workers/agent/envs/mm_process_engine/prompt.py; its schema requires "bbox",
# although the argument is "bbox_2d": models were trained with it.
_SYSTEM = (
    "You are a helpful assistant.\n\n# Tools\nYou may call one or more functions to assist with the user "
    "query.\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
    '{"type":"function","function":{"name":"image_zoom_in_tool","description":"Zoom in on a specific region '
    'of an image by cropping it based on a bounding box (bbox) and an optional object label.","parameters":'
    '{"type":"object","properties":{"bbox_2d":{"type":"array","items":{"type":"number"},"minItems":4,'
    '"maxItems":4,"description":"The bounding box of the region to zoom in, as [x1, y1, x2, y2], where '
    '(x1, y1) is the top-left corner and (x2, y2) is the bottom-right corner."},"label":{"type":"string",'
    '"description":"The name or label of the object in the specified bounding box (optional)."}},'
    '"required":["bbox"]}}}\n</tools>\n\n# How to call a tool\nReturn a json object with function name and '
    "arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>\n\n**Example**:  \n'
    '<tool_call>  \n{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [10, 20, 100, 200], "label": '
    '"the apple on the desk"}}  \n</tool_call>'
)
# USER_PROMPT_V2 of the same file: behind the question, and again behind every crop.
USER_PROMPT = (
    "\nThink first, call **image_zoom_in_tool** if needed, then answer. Format strictly as:  "
    "<think>...</think>  <tool_call>...</tool_call> (if tools needed)  <answer>...</answer> "
)


def _parse(text: str, images: int) -> Reading:
    answer = last_answer(text)
    calls = between(text, "<tool_call>", "</tool_call>")
    if answer is not None:
        ignored = "a call beside an answer is not made" if calls else ""
        return Reading(text, answer=answer, ignored=ignored)
    if not calls:
        return Reading(text, answer=text)
    # The last one counts, and always on the first image: the dialect has no word for another one.
    return Reading(text, (json_call(calls[-1], TOOL, lambda arguments: 0),))


def _observe(results: Sequence[Result], situation: Situation) -> tuple[Message, ...]:
    (result,) = results
    if result.refused:
        return (Message("user", f"Error: {result.refused}"),)
    return (Message("user", f"<tool_response>{IMAGE}\n{USER_PROMPT}</tool_response>"),)


def _call(numbers: Numbers, source: int, images: int) -> str:
    box = [round(number) for number in numbers]
    return f"<tool_call>{json.dumps({'name': TOOL, 'arguments': {'bbox_2d': box}})}</tool_call>"


DEEPEYES = Dialect(
    name="deepeyes",
    frame="pixels",
    system=_SYSTEM,
    parse=_parse,
    observe=_observe,
    call=_call,
    suffix=USER_PROMPT,
    answer=lambda text: f"<answer>{text}</answer>",
    # Training refuses sides up to 30 px and aspects over 100; evaluation resizes crops as Qwen2.5-VL does.
    rules=Rules(
        looks=11, least_side=31, most_aspect=100, step=28, least_pixels=4 * 28**2, most_pixels=16384 * 28**2
    ),
    sources="first",
    origin="github.com/Visual-Agent/DeepEyes 6c5e796",
)
