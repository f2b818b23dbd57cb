"""One item of a run folder, shown whole: question, box, crop, the exact prompts, answer; and drawn.

The prompts are not on record: they are made again by running the strategy's policy on the recorded words.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from viscot_core.boxes.geometry import Box
from viscot_core.data.traces.showing import draw_trace
from viscot_core.data.traces.trace import trace_in
from viscot_core.engines.open import recorded_prompt
from viscot_core.errors import UsageError, nearest
from viscot_core.images.drawing import check_ending, draw_answer, save_image
from viscot_core.images.reading import open_image
from viscot_core.images.view import View
from viscot_core.policies.base import Question
from viscot_core.policies.given_box import GivenBox
from viscot_core.rollout import replay
from viscot_core.runs.records import Prediction, RunInfo, read_predictions, read_run
from viscot_core.tasks.base import wording_of
from viscot_core.tasks.image_files import find_image
from viscot_core.tasks.registry import TASKS


@dataclass(frozen=True)
class Replay:
    """A prediction with the prompts that led to it and its image's place (which may be gone by now)."""

    prediction: Prediction
    prompts: tuple[str, ...]
    image: Path

    def draw(self) -> Image.Image:
        """Image, box and crop, question and answer. Raises ImageError where the image is gone."""
        p = self.prediction
        image = open_image(self.image)
        box = Box(*p.box) if p.box else None
        if p.trace is not None:
            return draw_trace(trace_in(p.trace), [image])
        lines = (
            p.question,
            f"{p.strategy}: {p.answer or p.box_text or p.error}",
            f"reference: {p.reference or '-'}",
        )
        return draw_answer(image, box, p.crop, lines)

    def save(self, target: Path) -> None:
        """Write the drawing atomically. Raises UsageError for an ending that Pillow does not write."""
        check_ending(target)
        save_image(self.draw(), target)


def replay_item(folder: Path | str, name: str, *, strategy: str | None = None) -> list[Replay]:
    """What a run holds of the item ``DATASET:ID``, under every strategy or one.

    Raises:
        UsageError: no run folder, or no such item in it.
    """
    info = read_run(folder)
    predictions = read_predictions(folder)
    dataset, _, question_id = name.rpartition(":")
    found = [p for p in predictions if p.dataset == dataset and str(p.question_id) == question_id]
    if not found:
        names = [f"{p.dataset}:{p.question_id}" for p in predictions]
        example = f" An item is named like {names[0]}." if names else ""
        raise UsageError(f"{folder} has no item '{name}'.{nearest(name, names) or example}")
    if strategy is not None:
        chosen = [p for p in found if p.strategy == strategy]
        if not chosen:
            raise UsageError(
                f"'{name}' was asked under {', '.join(p.strategy for p in found)}, not '{strategy}'."
            )
        found = chosen
    return [Replay(p, prompts(info, p), find_image(Path(info.data), p.image)) for p in found]


def prompts(info: RunInfo, prediction: Prediction) -> tuple[str, ...]:
    """What was sent, step by step; nothing for a strategy that this version does not have.

    Of a search the last step: the calls that found its region are not on record.
    """
    task = TASKS.get(info.kind)
    strategy = task.all_strategies.get(prediction.strategy) if task else None
    shown = strategy is not None and (strategy.region is not None or strategy.searches)
    if strategy is None or (shown and prediction.box is None):
        return ()
    prompt = recorded_prompt(info.settings.get("engine", {}))
    if prediction.trace is not None:
        turns = trace_in(prediction.trace).turns
        return tuple(prompt(turns[:n]) for n, turn in enumerate(turns) if turn.role == "assistant")
    said = strategy.said(prediction.box_text, prediction.answer)
    policy = GivenBox(wording_of(info.settings)) if strategy.searches else strategy.policy(info.settings)
    steps, _ = replay(policy, _question(prediction), said)
    return tuple(prompt(step.messages) for step in steps)


def _question(p: Prediction) -> Question:
    """The question as it was; the words alone decide the prompts, so a blank image of its size will do."""
    blank = View(Image.new("1", (max(1, p.width), max(1, p.height))), p.image)
    return Question(p.question, (blank,), Box(*p.box) if p.box else None, p.box_text)
