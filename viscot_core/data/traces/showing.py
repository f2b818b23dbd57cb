"""A trace for people: its looks as numbered lines, and drawn as numbered steps."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image

from viscot_core.boxes.geometry import Box, Frame
from viscot_core.images.drawing import draw_steps

if TYPE_CHECKING:
    from viscot_core.data.traces.trace import Trace, TraceLook

LONGEST = 600
"""Letters of a turn that are printed: a thought can be pages long."""


def talk_lines(trace: Trace) -> list[str]:
    """The whole talk: the question, what was said in each turn and what came of it, the answer."""
    images = len(trace.images)
    lines = [f"image      {path}" for path in trace.images]
    lines += [f"question   {trace.question}", f"dialect    {trace.dialect}, crops from {trace.crop_from}"]
    said = [message.content for message in trace.messages if message.role == "assistant"]
    number = 0
    for turn, words in enumerate(said, 1):
        text = " ".join(words.split())
        lines.append(f"turn {turn}     {text if len(text) <= LONGEST else text[:LONGEST] + '...'}")
        for look in trace.looks:
            if look.turn == turn:
                number += 1
                lines.append(f"  look {number}   {_look(look, images)}")
        lines += [f"  refused  {error.reason}" for error in trace.errors if error.turn == turn]
    lines.append(f"answer     {trace.answer}" if trace.stop == "answer" else f"ended      {_ending(trace)}")
    if trace.reference is not None:
        lines.append(f"reference  {trace.reference}")
    return lines


def look_lines(trace: Trace) -> list[str]:
    """One line for each look and each refused call, and how the talk ended."""
    lines = [
        f"look {number}     {_look(look, len(trace.images))}" for number, look in enumerate(trace.looks, 1)
    ]
    lines += [f"refused    turn {error.turn}: {error.reason}" for error in trace.errors]
    if trace.stop != "answer":
        lines.append(f"ended      {_ending(trace)}")
    return lines


ENDINGS = {
    "looks": "without an answer: it went on calling when no look was left",
    "refusals": "without an answer: too many of its calls were refused",
    "length": "the token limit cut it",
    "error": "the model could not be asked to the end",
}
"""What the stop reasons of a trace mean."""


def _ending(trace: Trace) -> str:
    return ENDINGS.get(trace.stop, trace.stop)


def _look(look: TraceLook, images: int) -> str:
    box = ", ".join(f"{number:.0f}" for number in look.box)
    crop = ", ".join(map(str, look.crop))
    where = f"image {look.image}" if look.source < images else f"crop {look.source - images + 1}"
    shown = f", shown as {look.shown[0]} x {look.shown[1]}" if look.shown else ""
    cost = "" if look.tokens is None else f", {look.tokens} tokens, {look.seconds or 0:.2f} s"
    return f"in {where}: box {box}, crop {crop}{shown}{cost}"


def draw_trace(trace: Trace, images: Sequence[Image.Image], *, height: int = 420) -> Image.Image:
    """Each look as a step, its box and crop on the image it is of; question and answer below."""
    said = [message.content for message in trace.messages if message.role == "assistant"]
    steps = [
        (
            images[look.image],
            Box(*look.box, frame=Frame.ORIGINAL).to_square(images[look.image].size),
            look.crop,
            f"{number}. {said[look.turn - 1] if look.turn <= len(said) else ''}",
        )
        for number, look in enumerate(trace.looks, 1)
    ]
    lines = [trace.question, trace.answer or f"({_ending(trace)})"]
    if trace.reference is not None:
        lines.append(f"reference: {trace.reference}")
    return draw_steps(images[0], steps, lines, height=height)


def trace_html(trace: Trace, drawn: Image.Image | None = None) -> str:
    """The talk for a notebook: in words, below the drawing where there is one."""
    words = f"<pre style='white-space: pre-wrap'>{html.escape(chr(10).join(talk_lines(trace)))}</pre>"
    if drawn is None:
        return words
    file = io.BytesIO()
    drawn.save(file, "JPEG", quality=90)
    data = base64.b64encode(file.getvalue()).decode()
    return f"<img alt='its looks' style='max-width: 100%' src='data:image/jpeg;base64,{data}'>{words}"
