"""The dialect ``viscot``: Visual CoT's own words, as often as it takes.

A training row in LLaVA's layout, with two looks (n looks: n boxes, n + 1 images)::

    {"image": ["a.jpg", "a.jpg###[b1]", "a.jpg###[b2]"], "conversations": [
      {"from": "human", "value": "<image>\\nQUESTION BOX_REQUEST"},
      {"from": "gpt",   "value": "[0.282, 0.316, 0.794, 0.738]"},
      {"from": "human", "value": "<image>"},
      {"from": "gpt",   "value": "[0.100, 0.250, 0.600, 0.500]"},
      {"from": "human", "value": "<image>"},
      {"from": "gpt",   "value": "ANSWER"}]}

- A box is in the padded square (0..1, three decimals) **of the last image shown**: the first of the original,
  the next one of the crop before it. A small model can name only what it sees in front of it; to name a part
  of a crop in the original's frame it would have to do arithmetic on its own earlier words.
- The crop is the paper's window (``CropPolicy.PAPER``: square, at least 224 px, shifted inside) about the
  box in pixels of the original, always cut from the original. So ``###[x0, y0, x1, y1]`` in a row is the
  box in pixels of the original image, and the row shows in training what the loop shows.
- After the last crop that is allowed, the user's message is ``<image>\\nANSWER_REQUEST QUESTION``: some rows
  should end so, with a look or more left out before, or the model never learns to answer when it must.
- A reply that begins with ``[`` is a call; any other one is the answer. A call that is refused is answered
  by ``REFUSED`` without an image.

``BOX_REQUEST`` and ``ANSWER_REQUEST`` are those of ``conversation``.
"""

from __future__ import annotations

from collections.abc import Sequence

from viscot_core.boxes.geometry import BoxStatus, parse_box
from viscot_core.boxes.numbers import Numbers
from viscot_core.conversation import ANSWER_REQUEST, BOX_REQUEST, IMAGE, Message
from viscot_core.policies.dialects.base import Call, Dialect, Reading, Result, Rules, Situation
from viscot_core.policies.wording import suffix_of

REFUSED = "This region cannot be shown: {reason}."


def _parse(text: str, images: int) -> Reading:
    if not text.startswith("["):
        return Reading(text, answer=text)
    parsed = parse_box(text)
    if parsed.status is BoxStatus.UNPARSABLE:
        fault = "a box is four numbers between 0 and 1, [x0, y0, x1, y1]"
        return Reading(text, (Call(text, status=parsed.status, fault=fault),))
    return Reading(text, (Call(text, parsed.box.coords, status=parsed.status),))


def _observe(results: Sequence[Result], situation: Situation) -> tuple[Message, ...]:
    (result,) = results
    seen = REFUSED.format(reason=result.refused) if result.refused else IMAGE
    if situation.last:
        return (Message("user", f"{seen}\n{ANSWER_REQUEST} {situation.question}"),)
    # As in two turns: a suffix that asks for a form of answer stands behind the crop.
    return (Message("user", f"{seen}{suffix_of(situation.question)}"),)


def _call(numbers: Numbers, source: int, images: int) -> str:
    return "[{:.3f}, {:.3f}, {:.3f}, {:.3f}]".format(*numbers)


VISCOT = Dialect(
    name="viscot",
    frame="square",
    parse=_parse,
    observe=_observe,
    call=_call,
    suffix=f" {BOX_REQUEST}",
    sources="last",
    bare=True,
    keeps_thoughts=False,
    rules=Rules(looks=3, window="paper", turn_tokens=128),
    origin="arXiv 2403.16999, section 3",
)
