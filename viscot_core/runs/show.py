"""One item of a run folder, told whole: question, box, crop, the exact prompts, answer; and drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from viscot_core.boxes.geometry import Box
from viscot_core.boxes.registry import codec
from viscot_core.errors import UsageError, nearest
from viscot_core.families.llava.template import TEMPLATES, render
from viscot_core.images.drawing import check_ending, draw_answer, save_image
from viscot_core.images.reading import open_image
from viscot_core.policies.wording import PROTOCOLS, Turns, Wording
from viscot_core.runs.records import Prediction, RunInfo, read_predictions, read_run
from viscot_core.tasks.image_files import REFCOCO_FOLDERS, find_image
from viscot_core.tasks.strategies import REFCOCO_STRATEGY, STRATEGIES


@dataclass(frozen=True)
class Shown:
    """A prediction with the prompts that led to it and its image's place (which may be gone by now)."""

    prediction: Prediction
    prompts: tuple[str, ...]
    image: Path

    def draw(self) -> Image.Image:
        """Image, box and crop, question and answer. Raises ImageError where the image is gone."""
        p = self.prediction
        image = open_image(self.image)
        box = Box(*p.box) if p.box else None
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


def show_item(folder: Path | str, name: str, *, strategy: str | None = None) -> list[Shown]:
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
    return [_shown(info, prediction) for prediction in found]


def _shown(info: RunInfo, prediction: Prediction) -> Shown:
    engine = info.settings.get("engine", {})
    template = TEMPLATES.get(str(engine.get("template")), TEMPLATES["vicuna_v1"])
    protocol = next((name for name in PROTOCOLS if name == info.settings.get("protocol")), PROTOCOLS[0])
    if info.kind == "vqa" and prediction.strategy == "direct":
        protocol = "native"
    wording = Wording(codec(str(info.settings.get("box_format", "viscot"))), protocol)
    folders = REFCOCO_FOLDERS if info.kind == "refcoco" else ("",)
    return Shown(
        prediction,
        tuple(render(turns, template, generate=True).text for turns in _turns(wording, prediction)),
        find_image(Path(info.data), prediction.image, folders),
    )


def _turns(wording: Wording, p: Prediction) -> list[Turns]:
    """The conversations that were sent, in order."""
    if p.strategy == REFCOCO_STRATEGY:
        return [wording.refcoco(p.question)]
    if p.strategy not in STRATEGIES:
        return []
    strategy = STRATEGIES[p.strategy]
    if strategy.box_from == "nobody":
        return [wording.direct(p.question)]
    first = [wording.detection(p.question)] if strategy.box_from == "model" else []
    if p.box_text is None:
        return first
    last = wording.answer if strategy.shows_crop else wording.without_crop
    return [*first, last(p.question, p.box_text)]
