"""Messages with image slots, and every word of the protocol, quoted once.

The words are the reference's (UPSTREAM, protocol), so that figures compare. How a family joins messages into
tokens is its own business (``families/``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

IMAGE = "<image>"

BOX_REQUEST = (
    "Please provide the bounding box coordinate of the region that can help you answer the question better."
)
ANSWER_REQUEST = "Please answer the question based on the original image and local detail image."
REFCOCO_BEFORE = "Locate the region this sentence describes: "
REFCOCO_AFTER = ". Please provide the bounding box coordinates."


ROLES = {"human": "user", "gpt": "assistant"}
"""LLaVA's names of the roles, as files have them, and ours."""
_ON_DISK = {role: name for name, role in ROLES.items()}


@dataclass(frozen=True, slots=True)
class Message:
    """One message; ``role`` is ``user`` or ``assistant``; ``<image>`` in a user's text is an image slot.

    Rows may also have ``system`` and ``tool`` messages, which a family renders or refuses. ``learned`` is for
    training: an assistant's message without it is read and not learned.
    """

    role: str
    text: str
    learned: bool = True


def to_disk(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages in LLaVA's layout, ``{"from", "value"}`` each; a role that has no name there keeps its own."""
    return [{"from": _ON_DISK.get(message.role, message.role), "value": message.text} for message in messages]


def detection_turns(question: str) -> tuple[Message, ...]:
    """Turn 1 of the benchmark: where to look. The question is lower-cased and followed by a full stop."""
    return (Message("user", f"{IMAGE}\n{question.lower()}. {BOX_REQUEST}"),)


def answer_turns(question: str, box_text: str) -> tuple[Message, ...]:
    """Turn 2 of the benchmark: question, the box in the assistant's words, then the crop and the request."""
    return (
        Message("user", f"{IMAGE}\n{question}"),
        Message("assistant", box_text),
        Message("user", f"{IMAGE}\n{ANSWER_REQUEST}{question} "),
    )


def direct_turns(question: str) -> tuple[Message, ...]:
    """The baseline without a box: question, answer."""
    return (Message("user", f"{IMAGE}\n{question} "),)


def text_only_turns(question: str, box_text: str) -> tuple[Message, ...]:
    """The no-image baseline (paper Table 6): the box as words, no second image, an empty second message."""
    request = Message("user", f"{IMAGE}\n{question} {BOX_REQUEST}")
    return (request, Message("assistant", box_text), Message("user", ""))


def refcoco_turns(expression: str) -> tuple[Message, ...]:
    """Referring expression comprehension (RefCOCO, +, g); the expression is lower-cased."""
    return (Message("user", f"{IMAGE}\n{REFCOCO_BEFORE}{expression.lower()}{REFCOCO_AFTER}"),)


def cot_turns(question: str, box_text: str, answer: str) -> tuple[Message, ...]:
    """A training sample on disk: question + box request, box, bare ``<image>``, answer."""
    return (
        Message("user", f"{IMAGE}\n{question} {BOX_REQUEST}"),
        Message("assistant", box_text),
        Message("user", IMAGE),
        Message("assistant", answer),
    )


class ToolCall(NamedTuple):
    """A call that a server sent apart from the text; ``arguments`` are the model's own words."""

    id: str
    name: str
    arguments: str


def with_calls(text: str, calls: Sequence[ToolCall]) -> str:
    """A reply as one text: its words, then a line for each call, which ``split_calls`` reads again."""
    # "<" is escaped, so that no word of a call can end it.
    lines = [json.dumps(call._asdict()).replace("<", "\\u003c") for call in calls]
    return "\n".join([text, *(f"{_CALL}{line}{_CALL_END}" for line in lines)]).strip()


def split_calls(said: str) -> tuple[str, tuple[ToolCall, ...]]:
    """The words of a reply, and the calls that ``with_calls`` wrote behind them."""
    words: list[str] = []
    calls: list[ToolCall] = []
    for line in said.split("\n"):
        call = _call_in(line)
        if call is None:
            words.append(line)
        else:
            calls.append(call)
    return "\n".join(words) if calls else said, tuple(calls)


_CALL, _CALL_END = "<native_call>", "</native_call>"


def _call_in(line: str) -> ToolCall | None:
    if not (line.startswith(_CALL) and line.endswith(_CALL_END)):
        return None
    try:
        call = ToolCall(**json.loads(line[len(_CALL) : -len(_CALL_END)]))
    except (ValueError, TypeError, RecursionError):
        return None
    return call if all(isinstance(part, str) for part in call) else None


THOUGHT_MARKS = (
    ("<think>", "</think>"),  # Qwen, DeepSeek, GLM and most others
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),  # Kimi
    ("[THINK]", "[/THINK]"),  # Mistral
    ("<|channel>thought", "<channel|>"),  # Gemma 4
)
"""What stands before and after a reasoning model's thought."""
OPENING, CLOSING = (tuple(marks) for marks in zip(*THOUGHT_MARKS, strict=True))
"""The marks before and those after."""
THOUGHTS = 16
"""A thought counts as reply: where one may come, so many times the tokens of an answer are allowed."""
_ANSWER = ("<answer>", "</answer>")
"""What GLM's thinking models write around their answers (THUDM/GLM-4.1V-9B-Thinking)."""
_FINAL = ("<|begin_of_box|>", "<|end_of_box|>")
"""What GLM writes around the part of an answer that counts, and around boxes."""


class Spoken(NamedTuple):
    """What a model said: its answer, the thought before it, and whether that thought came to its end."""

    text: str
    thought: str = ""
    ended: bool = True


def split_thought(said: str) -> Spoken:
    """A reasoning model's answer without the thought that stands before it.

    Templates often write the opening mark into the prompt: then only the closing one comes. A thought without
    an end leaves no answer. A text without marks is the answer, letter by letter.
    """
    end = thought_end(said)
    if not end:
        return Spoken(said)
    thought, ended = _without_marks(said[:end]), said[:end].rstrip().endswith(CLOSING)
    return Spoken(unwrapped(said[end:].strip()), thought, ended)


def opened_thought(prompt: str) -> str:
    """The mark that a prompt ends in, so that what the model says begins inside a thought; else nothing."""
    return next((mark for mark in OPENING if prompt.rstrip().endswith(mark)), "")


def final_words(answer: str) -> str:
    """An answer without the marks that some models write around what counts; other texts are unchanged."""
    if not any(mark in answer for mark in _FINAL):
        return answer
    for mark in _FINAL:
        answer = answer.replace(mark, "")
    return answer.strip()


def unwrapped(answer: str) -> str:
    """What a thinking model wrote between the marks of its answer; the closing one may be cut off."""
    begin, end = _ANSWER
    return answer.removeprefix(begin).removesuffix(end).strip() if answer.startswith(begin) else answer


def thought_end(said: str) -> int:
    """How many characters of a text are its thought and marks; all where it has no end, 0 without one."""
    end = max((said.rfind(close) + len(close) for close in CLOSING if close in said), default=0)
    return len(said) if said[end:].lstrip().startswith(OPENING) else end


def may_begin_thought(said: str) -> bool:
    """Whether a text that is still growing is, so far, the beginning of a thought's opening mark."""
    begun = said.strip()
    return any(begin.startswith(begun) for begin in OPENING)


def answer_so_far(said: str) -> str | None:
    """The answer in a text that is still growing; None while a thought goes on, or its mark may begin."""
    spoken = split_thought(said)
    if not spoken.ended or may_begin_thought(spoken.text):
        return None
    # Half a mark may become a whole one, which is no part of the answer.
    marks = (*_ANSWER, *_FINAL)
    begun = (size for mark in marks for size in range(1, len(mark)) if spoken.text.endswith(mark[:size]))
    return spoken.text[: len(spoken.text) - max(begun, default=0)].rstrip()


def _without_marks(thought: str) -> str:
    for mark in (*OPENING, *CLOSING):
        thought = thought.replace(mark, "")
    return thought.strip()
