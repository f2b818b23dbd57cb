"""The dialect of Mini-o3 (arXiv 2509.07969; github.com/Mini-o3/Mini-o3, 8654dbf)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from viscot_core.boxes.geometry import BoxStatus
from viscot_core.boxes.numbers import Numbers
from viscot_core.conversation import IMAGE, Message
from viscot_core.policies.dialects.base import Call, Dialect, Reading, Result, Rules, Situation
from viscot_core.policies.dialects.calls import between, box_numbers, last_answer, parsed

# TOOL_CROP_SYSTEM_PROMPT, TOOL_CALL_CROP_MULTI_TRUN_PROMPT and ERROR_INFO_MULTI_TURN_PROMPT of
# verl/trainer/constants.py, with their spelling.
_SYSTEM = (
    "You are a helpful assistant. Answer the user's question based on the image provided. Output your "
    "thinking process within the <think> and </think> tags. Whenever you find anything unclear, you can zoom "
    'in a specific region in the given image to see more clearly by outputing <grounding>{"bbox_2d": [x0, '
    'y0, x1, y1], "source": "original_image"}</grounding>, where (x0, y0) and (x1, y1) are the top-left and '
    "bottom-right coordinates of the region that you want to zoom in, respectively (suppose the width and "
    "height of the image are 1.0), and 'source' refers to the image that you zoom in and could be either "
    "'original_image' or 'observation_i'. Once the final answer is confirmed, put it within <answer> and "
    "</answer>."
)
_OBSERVATION = (
    "After the above Action {action}, here is the the zoom-in image (Observation {observation}):\n"
    + IMAGE
    + ".\nContinue your reasoning process inside <think> and </think>. If needed, you can continue to zoom "
    "in on the original image or any of the observations, by outputting <grounding> and </grounding> as "
    "before. If the final answer is confirmed, put your final answer inside <answer> and </answer>."
)
_ERROR = (
    "ERROR occurs during grounding. Error Information: {reason}.\nPlease analyze the error information "
    "obtained from the function tool and adjust your response. Countinue your reasoning process inside "
    "<think> and </think>."
)
_STOP = "</grounding>"


def _source(arguments: Mapping[str, Any], images: int) -> int:
    """``original_image`` is the first image, ``observation_0`` too; later ones are the crops in order."""
    source = arguments.get("source")
    match = re.fullmatch(r"original_image|observation_(\d{1,4})", str(source))
    if match is None:
        raise ValueError("source is 'original_image' or 'observation_i'")
    number = int(match[1] or 0)
    return images - 1 + number if number else 0


def _parse(text: str, images: int) -> Reading:
    calls = between(text, "<grounding>", _STOP)
    answer = last_answer(text)
    if answer is not None:
        return Reading(text, answer=answer, ignored="a call beside an answer is not made" if calls else "")
    if not calls:
        return Reading(text, answer=text)
    # The stop text ends a turn and is no part of what an engine returns; the model's words have it. A server
    # that does not stop there may go on: the first call counts, and what follows it was never asked for.
    said = text.split(_STOP)[0] + _STOP
    try:
        arguments = parsed(calls[0])
        if not isinstance(arguments, dict):
            raise ValueError("the call is no JSON object")
        numbers, status = box_numbers(arguments.get("bbox_2d"))
        return Reading(said, (Call(calls[0], numbers, _source(arguments, images), status),))
    except ValueError as error:
        return Reading(said, (Call(calls[0], fault=str(error), status=BoxStatus.UNPARSABLE),))


def _observe(results: Sequence[Result], situation: Situation) -> tuple[Message, ...]:
    (result,) = results
    if result.refused:
        return (Message("user", _ERROR.format(reason=result.refused)),)
    # The authors count turns, from 0, not crops: after an error the numbers run ahead of the observations.
    said = _OBSERVATION.format(action=situation.turn - 1, observation=situation.turn)
    return (Message("user", said),)


def _call(numbers: Numbers, source: int, images: int) -> str:
    name = "original_image" if source == 0 else f"observation_{source - images + 1}"
    box = [round(number, 4) for number in numbers]
    return f"<grounding>{json.dumps({'bbox_2d': box, 'source': name})}{_STOP}"


MINI_O3 = Dialect(
    name="mini-o3",
    frame="unit",
    parse=_parse,
    observe=_observe,
    call=_call,
    origin="github.com/Mini-o3/Mini-o3 8654dbf",
    answer=lambda text: f"<answer>{text}</answer>",
    system=_SYSTEM,
    stop=(_STOP,),
    # 12 rounds in evaluation, the answer's included.
    rules=Rules(looks=11, rounding="down", least_pixels=40_000, most_pixels=2_000_000, resample="lanczos"),
)
