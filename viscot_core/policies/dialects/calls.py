"""Reading a tool call as data: JSON objects and lists of numbers, and one sentence for whatever is none.

Nothing here evaluates a text, and nothing raises, whatever a model wrote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from viscot_core.boxes.geometry import BoxStatus
from viscot_core.boxes.numbers import Numbers
from viscot_core.conversation import CLOSING, THOUGHT_MARKS
from viscot_core.policies.dialects.base import Call

LONGEST = 10_000
"""Characters of a call that are read; a longer one is no call."""
_THOUGHT = re.compile(
    "|".join(rf"{re.escape(begin)}.*?(?:{re.escape(end)}|\Z)" for begin, end in THOUGHT_MARKS), re.DOTALL
)
SourceOf = Callable[[Mapping[str, Any]], int | None]
"""The number of a call's image in the talk, from its arguments. Raises ValueError with a reason."""


def between(text: str, start: str, end: str) -> list[str]:
    """What stands between the marks, each from a ``start`` to the next ``end`` or ``start``, or the end."""
    return [part.split(end)[0] for part in text.split(start)[1:]]


def without_thoughts(text: str) -> str:
    """What is said and not thought, whichever comes first; a thought that has no end reaches to the end."""
    said = _THOUGHT.sub("", text)
    # What is left of the marks closes a thought that the prompt opened.
    return said[max((said.rfind(close) + len(close) for close in CLOSING if close in said), default=0) :]


def last_answer(text: str) -> str | None:
    """What stands in the last ``<answer>`` outside thoughts; None where there is none that is closed."""
    said, found, place = without_thoughts(text), None, 0
    # Not by a pattern: thousands of marks without an end would take minutes.
    while (start := said.find("<answer>", place)) >= 0 and (end := said.find("</answer>", start)) >= 0:
        found, place = said[start + len("<answer>") : end].strip(), end + len("</answer>")
    return found


def json_call(text: str, name: str, source_of: SourceOf, *, id: str = "") -> Call:
    """The call in ``{"name": .., "arguments": {..}}``; arguments may be a JSON text, as servers send them."""
    try:
        data = parsed(text)
        if not isinstance(data, dict):
            raise ValueError("the call is no JSON object")
        arguments = data.get("arguments")
        if isinstance(arguments, str):
            arguments = parsed(arguments)
    except ValueError as error:
        return Call(text, fault=str(error), id=id, status=BoxStatus.UNPARSABLE)
    return arguments_call(text, data.get("name"), arguments, name, source_of, id=id)


def arguments_call(
    text: str, called: object, arguments: object, name: str, source_of: SourceOf, *, id: str = ""
) -> Call:
    """The call of ``called`` with ``arguments``, which should be ``name`` with ``bbox_2d``."""
    try:
        if called != name:
            raise ValueError(f"there is no tool {str(called)[:60]!r}; the tool is {name}")
        if not isinstance(arguments, dict):
            raise ValueError("the arguments are no JSON object")
        numbers, status = box_numbers(arguments.get("bbox_2d"))
        return Call(text, numbers, source_of(arguments), status, id=id)
    except ValueError as error:
        return Call(text, fault=str(error), id=id, status=BoxStatus.UNPARSABLE)


def box_numbers(value: object) -> tuple[Numbers, BoxStatus]:
    """Four numbers from a JSON value; repaired where they are written as a text.

    Raises:
        ValueError: it is anything else.
    """
    status = BoxStatus.OK
    if isinstance(value, str):
        value, status = parsed(value), BoxStatus.REPAIRED
    if not isinstance(value, list) or len(value) != 4:
        raise ValueError("bbox_2d is a list of four numbers, [x1, y1, x2, y2]")
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in value):
        raise ValueError("bbox_2d is a list of four numbers, [x1, y1, x2, y2]")
    try:
        x0, y0, x1, y1 = map(float, value)
    except OverflowError as error:
        raise ValueError("the numbers of the box are too large") from error
    return (x0, y0, x1, y1), status


def index(arguments: Mapping[str, Any], name: str) -> int:
    """A whole number in the arguments. Raises ValueError."""
    value = arguments.get(name)
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,6}\s*", value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 10**6:
        raise ValueError(f"{name} is the whole number of an image")
    return value


def parsed(text: str) -> Any:
    """A JSON value. Raises ValueError with a reason for a model."""
    if len(text) > LONGEST:
        raise ValueError(f"the call has more than {LONGEST} characters")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("the call is no valid JSON") from error
