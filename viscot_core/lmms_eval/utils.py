"""The Visual CoT benchmark as rows of lmms-eval: questions, images, prompts; ``score/lmms.py`` scores.

The rows come from the data root that ``VISCOT_DATA`` names (``VISCOT_TASKS``: some of its data sets, with
commas), through the same reader as ``viscot bench cot``: same items, same order within a data set.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viscot_core.boxes.registry import codec
from viscot_core.conversation import IMAGE
from viscot_core.errors import UsageError
from viscot_core.images.reading import open_image
from viscot_core.images.view import view_of
from viscot_core.policies.base import Question, Step
from viscot_core.policies.two_turn import TwoTurn
from viscot_core.policies.wording import Wording
from viscot_core.rollout import replay
from viscot_core.tasks.base import Item
from viscot_core.tasks.visual_cot.task import load_visual_cot

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL import Image

DATA, TASKS = "VISCOT_DATA", "VISCOT_TASKS"
Doc = Mapping[str, Any]
Round = tuple[list["Image.Image"] | None, str | None, bool, list[str], None]
"""What lmms-eval's driver of several turns wants: images, text, whether to stop, what was said, nothing."""


def rows(_: Dataset) -> Dataset:
    """The benchmark's items in place of the packaged stand-in row (a task of lmms-eval must name a file)."""
    from datasets import Dataset

    root = os.environ.get(DATA)
    if not root:
        raise UsageError(
            f"Set {DATA} to a data root (the folder of 'viscot data fetch' or 'viscot data synth')."
        )
    names = [name for name in os.environ.get(TASKS, "").split(",") if name]
    return Dataset.from_list([_row(item) for item in load_visual_cot(Path(root), tasks=names).items])


def _row(item: Item) -> dict[str, Any]:
    assert item.box_square is not None
    return {
        "dataset": item.dataset,
        "question_id": str(item.question_id),
        "image": item.image,
        "path": str(item.path),
        "question": item.question,
        "reference": item.reference,
        "box_gt": list(item.box_square.coords),
        "width": item.size[0],
        "height": item.size[1],
    }


def doc_to_visual(doc: Doc) -> list[Image.Image]:
    """The stored image, as the annotated box knows it (no EXIF turn)."""
    return [open_image(doc["path"])]


def doc_to_text(doc: Doc, lmms_eval_specific_kwargs: Mapping[str, str] | None = None) -> str:
    """The question; for models other than viscot with the space that the paper's prompt has after it."""
    return str(doc["question"]) + (lmms_eval_specific_kwargs or {}).get("post_prompt", "")


def chain_to_text(
    doc: Doc,
    lmms_eval_specific_kwargs: Mapping[str, str] | None = None,
    previous_output: Sequence[str] | None = None,
    round_idx: int | None = None,
    previous_round_info: None = None,
) -> str | Round:
    """The chain's two turns for any model: the box request; image, crop, box and question; the end.

    lmms-eval drives several turns as messages of their own, so the second repeats what the first said. Both
    texts go back as one JSON answer, which ``score.lmms.chain_results`` takes apart.
    """
    wording = Wording(codec((lmms_eval_specific_kwargs or {}).get("box_format", "viscot")))
    # Stripped as an engine's text is: vLLM keeps the blank that stands before the first word.
    policy, said = TwoTurn(wording), [text.strip() for text in previous_output or ()]
    if not round_idx:
        return _flat(policy.start(Question(str(doc["question"]), ())))
    # The first turn's words give the box, and with it the crop to show now.
    if round_idx == 1:
        question = Question(str(doc["question"]), (view_of(open_image(doc["path"])),))
        steps, _ = replay(policy, question, said[:1])
        return [view.image for view in steps[-1].images], _flat(steps[-1]), False, said, None
    answer = {"box_text": said[0], "box_format": wording.codec.name, "answer": said[1]}
    return None, None, True, [json.dumps(answer, ensure_ascii=False)], None


def _flat(step: Step) -> str:
    """The step as one message without image marks: lmms-eval's classes put images in front by themselves."""
    return "\n".join(message.text.removeprefix(f"{IMAGE}\n") for message in step.messages)
