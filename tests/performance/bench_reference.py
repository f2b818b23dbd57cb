"""The reference's procedure, for `bench.py`: one process per pass, one prompt at a time, nothing kept; and
the same in batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
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
    """Decode, encode, read, say; nothing is kept for the next. ``together`` prompts make a left-padded batch:
    1 is the reference's way, more are what a script around transformers' ``generate`` would do.
    """

    def __init__(self, loaded: LoadedModel, new: int, together: int = 1) -> None:
        self.loaded, self.new, self.together = loaded, new, together

    def say(self, prompts: Iterable[tuple[Turns, Sequence[View]]]) -> list[str]:
        """``prompts`` are made a batch at a time, their images opened for it."""
        said: list[str] = []
        waiting = iter(prompts)
        while some := list(islice(waiting, self.together)):
            said += self._batch(some)
        return said

    def _batch(self, prompts: Sequence[tuple[Turns, Sequence[View]]]) -> list[str]:
        loaded, processor = self.loaded, self.loaded.processor
        rows = [
            processor.render(turns, [view.image.size for view in views], generate=True).ids
            for turns, views in prompts
        ]
        longest = max(map(len, rows))
        ids = torch.tensor([[processor.pad_id] * (longest - len(row)) + row for row in rows])
        real = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        side = loaded.manifest.image_side
        shown = [torch.from_numpy(preprocess(view.image, side)) for _, views in prompts for view in views]
        with torch.inference_mode():
            out = loaded.model.generate(
                input_ids=ids,
                attention_mask=real,
                pixel_values=torch.stack(shown),
                max_new_tokens=self.new,
                do_sample=False,
                eos_token_id=sorted(processor.stop_ids),
                pad_token_id=processor.pad_id,
                suppress_tokens=processor.suppress_tokens,
            )
        return [self._text(row[longest:].tolist()) for row in out]

    def _text(self, said: list[int]) -> str:
        stops = self.loaded.processor.stop_ids
        ends = [place for place, token in enumerate(said) if token in stops]
        return self.loaded.processor.text(said[: ends[0]] if ends else said)

    def detect(self, items: Sequence[Item]) -> list[str]:
        return self.say((WORDING.detection(item.question), [_view(item)]) for item in items)

    def answer(self, items: Sequence[Item], boxes: Sequence[str]) -> list[str]:
        def prompt(item: Item, box: str) -> tuple[Turns, Sequence[View]]:
            view = _view(item)
            window = crop_window(parse_box(box).box, view.image.size)
            return WORDING.answer(item.question, box), [view, crop_view(view, window)]

        return self.say(map(prompt, items, boxes))

    def refer(self, items: Sequence[Item]) -> list[str]:
        return self.say((WORDING.refcoco(item.question), [_view(item)]) for item in items)


def _view(item: Item) -> View:
    return View(open_image(item.path), str(item.path))


def one_pass(model: Path, root: Path, dataset: str, kind: str, file: Path, new: int) -> None:
    """One process of the reference: one data set, boxes or answers, into a file of one line an item."""
    items = load_visual_cot(root, tasks=[dataset]).items
    reference = Reference(load_model(model, device="cpu"), new)
    boxes = file.with_suffix(".boxes").read_text().splitlines() if kind == "answer" else []
    said = reference.detect(items) if kind == "detect" else reference.answer(items, boxes)
    target = file.with_suffix(".boxes" if kind == "detect" else ".answers")
    target.write_text("".join(text.replace("\n", " ") + "\n" for text in said))
