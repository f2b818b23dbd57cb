"""The zoom tool of Qwen-Agent as Qwen3-VL calls it (JSON), and as Qwen3.5 and later do (XML).

The tool: github.com/QwenLM/Qwen-Agent, qwen_agent/tools/image_zoom_in_qwen3vl.py at 31a4d36. How it is
described, called and answered: the chat templates of both models, whose system block is quoted here, so that
a server needs no tool parser. ``tests/policies/test_dialects.py`` compares both with the templates.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from viscot_core.boxes.numbers import Numbers
from viscot_core.conversation import IMAGE, Message, split_thought
from viscot_core.policies.dialects.base import Call, Dialect, Reading, Result, Rules, Situation
from viscot_core.policies.dialects.calls import (
    arguments_call,
    between,
    index,
    json_call,
    last_answer,
    parsed,
)

TOOL = "image_zoom_in_tool"
SCHEMA: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": TOOL,
        "description": "Zoom in on a specific region of an image by cropping it based on a bounding box "
        "(bbox) and an optional object label",
        "parameters": {
            "type": "object",
            "properties": {
                "bbox_2d": {
                    "type": "array",
                    "items": {"type": "number"},
                    "minItems": 4,
                    "maxItems": 4,
                    "description": "The bounding box of the region to zoom in, as [x1, y1, x2, y2], where "
                    "(x1, y1) is the top-left corner and (x2, y2) is the bottom-right corner",
                },
                "label": {
                    "type": "string",
                    "description": "The name or label of the object in the specified bounding box",
                },
                "img_idx": {
                    "type": "number",
                    "description": "The index of the zoomed-in image (starting from 0)",
                },
            },
            "required": ["bbox_2d", "label", "img_idx"],
        },
    },
}
_JSON_SYSTEM = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with "
    f"function signatures within <tools></tools> XML tags:\n<tools>\n{json.dumps(SCHEMA)}\n</tools>\n\nFor "
    "each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": '
    "<args-json-object>}\n</tool_call>"
)
_XML_SYSTEM = (
    f"# Tools\n\nYou have access to the following functions:\n\n<tools>\n{json.dumps(SCHEMA)}\n</tools>\n\n"
    "If you choose to call a function ONLY reply in the following format with NO suffix:\n\n<tool_call>\n"
    "<function=example_function_name>\n<parameter=example_parameter_1>\nvalue_1\n</parameter>\n"
    "<parameter=example_parameter_2>\nThis is the value for the second parameter\nthat can span\nmultiple "
    "lines\n</parameter>\n</function>\n</tool_call>\n\n<IMPORTANT>\nReminder:\n- Function calls MUST follow "
    "the specified format: an inner <function=...></function> block must be nested within "
    "<tool_call></tool_call> XML tags\n- Required parameters MUST be specified\n- You may provide optional "
    "reasoning for your function call in natural language BEFORE the function call, but NOT after\n- If "
    "there is no function call available, answer the question like normal with your current knowledge and do "
    "not tell the user about function calls\n</IMPORTANT>"
)


def _source(arguments: Any) -> int:
    return index(arguments, "img_idx")


def _json(part: str) -> Call:
    return json_call(part.strip(), TOOL, _source)


_FUNCTION = re.compile(r"<function=([^>\n]{1,100})>(.*?)(?:</function>|$)", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\n]{1,100})>(.*?)(?:</parameter>|(?=<parameter=)|$)", re.DOTALL)


def _xml(part: str) -> Call:
    """``<function=NAME><parameter=NAME>VALUE</parameter>..``; a value is JSON or plain text."""
    text = part.strip()
    if len(text) > 10_000 or (match := _FUNCTION.search(text)) is None:
        return json_call(text, TOOL, _source)  # no XML at all: JSON is read too, anything else is refused
    arguments: dict[str, Any] = {}
    for name, value in _PARAMETER.findall(match[2]):
        try:
            arguments[name.strip()] = parsed(value.strip())
        except ValueError:
            arguments[name.strip()] = value.strip()
    return arguments_call(text, match[1].strip(), arguments, TOOL, _source)


def _parse(text: str, images: int, *, xml: bool) -> Reading:
    parts = between(text.rpartition("</think>")[2], "<tool_call>", "</tool_call>")
    if not parts:
        words = split_thought(text).text  # an answer that a thought weighs is none
        answer = last_answer(words)
        return Reading(text, answer=words if answer is None else answer)
    # Qwen-Agent runs all calls of a turn.
    return Reading(text, tuple((_xml if xml else _json)(part) for part in parts))


def _observe(results: Sequence[Result], situation: Situation) -> tuple[Message, ...]:
    """One message for all calls of a turn, as the templates join the replies of tools."""
    said = []
    for result in results:
        # An engine takes the line break behind an image away, so there are two.
        shown = f"Tool Execution Error {result.refused}\n" if result.refused else f"{IMAGE}\n\n"
        said.append(f"<tool_response>\n{shown}</tool_response>")
    return (Message("user", "\n".join(said)),)


def _arguments(numbers: Numbers, source: int) -> dict[str, Any]:
    return {"bbox_2d": [round(number) for number in numbers], "label": "region", "img_idx": source}


def _json_call(numbers: Numbers, source: int, images: int) -> str:
    call = {"name": TOOL, "arguments": _arguments(numbers, source)}
    return f"<tool_call>\n{json.dumps(call)}\n</tool_call>"


def _xml_call(numbers: Numbers, source: int, images: int) -> str:
    said = "".join(
        f"<parameter={name}>\n{value if isinstance(value, str) else json.dumps(value)}\n</parameter>\n"
        for name, value in _arguments(numbers, source).items()
    )
    return f"<tool_call>\n<function={TOOL}>\n{said}</function>\n</tool_call>"


# Boxes under 32 px grow; crops have sides of 32 px, at least 256 of such squares, and smart_resize's most.
_RULES = Rules(
    looks=19, least_side=32, grows=True, step=32, least_pixels=256 * 32 * 32, most_pixels=12_845_056
)
_ORIGIN = "github.com/QwenLM/Qwen-Agent 31a4d36; chat template of the model"

QWEN3_VL = Dialect(
    name="qwen3-vl",
    frame="thousand",
    parse=partial(_parse, xml=False),
    observe=_observe,
    call=_json_call,
    origin=_ORIGIN,
    system=_JSON_SYSTEM,
    rules=_RULES,
)
QWEN3_5 = Dialect(
    name="qwen3.5",
    frame="thousand",
    parse=partial(_parse, xml=True),
    observe=_observe,
    call=_xml_call,
    origin=_ORIGIN,
    system=_XML_SYSTEM,
    rules=_RULES,
)
