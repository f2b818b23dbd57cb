"""The reference's procedure, for `bench.py`: one process per pass, one prompt at a time, nothing kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from bench_data import WORDING

from viscot_core.boxes.geometry import crop_window, parse_box
from viscot_core.families.llava.pixels import preprocess
from viscot_core.images.reading import open_image
from viscot_core.images.view import View
from viscot_core.images.view import crop as crop_view
from viscot_core.models.load import LoadedModel, load_model
from viscot_core.policies.wording import Turns
from viscot_core.tasks.base import Item
from viscot_core.tasks.visual_cot.task import load_visual_cot


class Reference:
    """One prompt at a time: decode, encode, read, say; nothing is kept for the next."""

    def __init__(self, loaded: LoadedModel, new: int) -> None:
        self.loaded, self.new = loaded, new

    def say(self, turns: Turns, views: Sequence[View]) -> str:
        loaded, processor = self.loaded, self.loaded.processor
        sizes = [view.image.size for view in views]
        ids = torch.tensor([processor.render(turns, sizes, generate=True).ids])
        side = loaded.manifest.image_side
        pixels = torch.stack([torch.from_numpy(preprocess(view.image, side)) for view in views])
        with torch.inference_mode():
            out = loaded.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values=pixels,
                max_new_tokens=self.new,
                do_sample=False,
                eos_token_id=sorted(processor.stop_ids),
                pad_token_id=processor.pad_id,
                suppress_tokens=processor.suppress_tokens,
            )
        said = out[0, ids.shape[1] :].tolist()
        ends = [place for place, token in enumerate(said) if token in processor.stop_ids]
        return processor.text(said[: ends[0]] if ends else said)

    def detect(self, item: Item) -> str:
        return self.say(WORDING.detection(item.question), [_view(item)])

    def answer(self, item: Item, box_text: str) -> str:
        view = _view(item)
        window = crop_window(parse_box(box_text).box, view.image.size)
        return self.say(WORDING.answer(item.question, box_text), [view, crop_view(view, window)])

    def refer(self, item: Item) -> str:
        return self.say(WORDING.refcoco(item.question), [_view(item)])


def _view(item: Item) -> View:
    return View(open_image(item.path), str(item.path))


def one_pass(model: Path, root: Path, dataset: str, kind: str, file: Path, new: int) -> None:
    """One process of the reference: one data set, boxes or answers, into a file of one line an item."""
    items = load_visual_cot(root, tasks=[dataset]).items
    reference = Reference(load_model(model, device="cpu"), new)
    boxes = file.with_suffix(".boxes").read_text().splitlines() if kind == "answer" else []
    said = (reference.detect(i) for i in items) if kind == "detect" else map(reference.answer, items, boxes)
    target = file.with_suffix(".boxes" if kind == "detect" else ".answers")
    target.write_text("".join(text.replace("\n", " ") + "\n" for text in said))
