"""What a person or a program sees of an answer: drawn, as plain data, as detections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PIL import Image

from viscot_core.boxes.detections import detections_of
from viscot_core.boxes.geometry import BoxStatus
from viscot_core.images.drawing import draw_answer, draw_steps

if TYPE_CHECKING:
    import supervision

    from viscot_core.policies.base import Answer, Look


def draw_looks(answer: Answer, height: int) -> Image.Image:
    """The image with every look, question and answer below, as ``Answer.draw`` says; raises as it does."""
    lines = [answer.question, answer.text]
    if answer.messages or len(answer.looks) > 1:
        image = answer.image
        steps = [
            (image, look.box, look.crop, f"{number}. {look.text if answer.messages else _corners(look)}")
            for number, look in enumerate(answer.looks, 1)
            if look.image == 0
        ]
        return draw_steps(image, steps, lines, height=height)
    if (look := answer.look) is None:
        return draw_answer(answer.image, None, None, lines, height=height)
    lines.append(f"box {look.text} ({look.status or look.named_by})")
    box = None if look.status == BoxStatus.UNPARSABLE else look.box
    return draw_answer(answer.image, box, answer.crop, lines, height=height)


def detections(answer: Answer) -> supervision.Detections:
    """The boxes of the looks at the first image, as ``Answer.to_detections`` says; raises as it does."""
    read = {
        f"look {number}": look
        for number, look in enumerate(answer.looks, 1)
        if look.image == 0 and look.status != BoxStatus.UNPARSABLE
    }
    boxes = [look.box_pixels for look in read.values()]
    return detections_of(boxes, list(read), [answer.sure_of(look) for look in read.values()])


def plain_data(answer: Answer) -> dict[str, Any]:
    """An answer as ``Answer.to_dict`` says."""
    look = answer.look
    return {
        "strategy": "zoom" if answer.messages else "direct" if look is None else "cot",
        "answer": answer.text,
        "box": None if look is None else [round(c, 4) for c in look.box.coords],
        "box_pixels": None if look is None else [round(c, 1) for c in look.box_pixels.coords],
        "box_text": None if look is None else look.text,
        # A box that somebody gave had no words to read: nothing could be wrong with it.
        "box_status": None if look is None else (look.status or BoxStatus.OK).value,
        "crop": None if look is None else list(answer.crop),
        "width": answer.size[0],
        "height": answer.size[1],
        **({"page": answer.page} if answer.page is not None else {}),
        "seconds": round(answer.seconds, 4),
        # Named where they say something; most answers have neither of the first two.
        **({"truncated": True} if answer.truncated else {}),
        **({"thoughts": list(answer.thoughts)} if answer.thoughts else {}),
        **({"seen": list(answer.seen)} if answer.seen else {}),
        **answer.probability_facts,
        **({"looks": _looks(answer)} if answer.messages or len(answer.looks) > 1 else {}),
        **(_talk(answer) if answer.messages else {}),
    }


def _looks(answer: Answer) -> list[dict[str, Any]]:
    """Every look; ``image``, ``source`` and ``shown`` are those of a policy that may look often."""
    return [
        {
            "box_pixels": [round(c, 1) for c in look.box_pixels.coords],
            "crop": list(look.crop or ()),
            **(
                {"image": look.image, "source": look.source, "shown": list(look.shown or ())}
                if answer.messages
                else {"box": [round(c, 4) for c in look.box.coords]}
            ),
        }
        for look in answer.looks
    ]


def _talk(answer: Answer) -> dict[str, Any]:
    """What a policy that may look often adds: the refused calls, why it ended."""
    refused = [f"turn {refusal.turn}: {refusal.reason}" for refusal in answer.refusals]
    return {"refused": refused, "stop": answer.stop}


def _corners(look: Look) -> str:
    """Left, top, right, bottom in whole pixels."""
    return "box " + ", ".join(f"{c:.0f}" for c in look.box_pixels.coords)
