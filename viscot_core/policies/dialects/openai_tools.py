"""The dialect ``openai-tools``: the tool calls of OpenAI's protocol, for any server that has them.

A server gets the tool with the request and sends calls apart from the text, each with an id. The protocol
wants a message of the role ``tool`` with this id for every call, and text alone in it: the crops follow in
one message of the user.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from viscot_core.boxes.numbers import Numbers
from viscot_core.conversation import IMAGE, Message, ToolCall, split_calls, with_calls
from viscot_core.policies.dialects.base import Call, Dialect, Reading, Result, Rules, Situation
from viscot_core.policies.dialects.calls import arguments_call, index, parsed

TOOL = "zoom"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": TOOL,
            "description": "Shows a region of an image larger, in the detail of the original file. Use it "
            "when something is too small to be certain of; a crop can be zoomed into again.",
            "parameters": {
                "type": "object",
                "properties": {
                    "bbox_2d": {
                        "type": "array",
                        "items": {"type": "number"},
                        "minItems": 4,
                        "maxItems": 4,
                        "description": "[x1, y1, x2, y2]: the upper left and the lower right corner, each "
                        "from 0 to 1000 of the width and the height of the image.",
                    },
                    "image": {
                        "type": "integer",
                        "description": "The number of the image, from 0: first those of the question, then "
                        "every crop in the order in which it was shown.",
                    },
                },
                "required": ["bbox_2d", "image"],
            },
        },
    }
]
_SYSTEM = (
    "Answer the question about the image. Where a detail is too small to be certain of, look at it with the "
    "tool first; then answer in a few words."
)


def _source(arguments: Mapping[str, Any]) -> int:
    return index(arguments, "image")


def _call_of(call: ToolCall) -> Call:
    text = with_calls("", [call])
    try:
        arguments = parsed(call.arguments)
    except ValueError as error:
        return Call(text, fault=str(error), id=call.id)
    return arguments_call(text, call.name, arguments, TOOL, _source, id=call.id)


def _parse(text: str, images: int) -> Reading:
    words, calls = split_calls(text)
    return Reading(text, tuple(map(_call_of, calls)), "" if calls else words)


def _observe(results: Sequence[Result], situation: Situation) -> tuple[Message, ...]:
    replies = [
        Message("tool", f"Error: {result.refused}" if result.refused else f"Image {result.number} follows.")
        for result in results
    ]
    shown = "\n".join(f"Image {result.number}:\n{IMAGE}" for result in results if not result.refused)
    return (*replies, Message("user", shown)) if shown else tuple(replies)


def _call(numbers: Numbers, source: int, images: int) -> str:
    arguments = json.dumps({"bbox_2d": [round(number) for number in numbers], "image": source})
    # In training data only; a server makes ids of its own.
    return with_calls("", [ToolCall(f"call_{source}", TOOL, arguments)])


OPENAI_TOOLS = Dialect(
    name="openai-tools",
    frame="thousand",
    parse=_parse,
    observe=_observe,
    call=_call,
    origin="platform.openai.com/docs/guides/function-calling",
    system=_SYSTEM,
    tools=json.dumps(TOOLS),
    rules=Rules(least_side=4),
)
