"""What ``foreign_eye.py`` learns from: scenes as the model sees them, conversations about them, batches."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from eye.model import FACTOR, FORMAT, MAX_PIXELS, MIN_PIXELS, NUMBERS, REPLY
from viscot_core.boxes.registry import codec
from viscot_core.conversation import IMAGE, Message
from viscot_core.data.scenes import COLORS, Scene, draw_scene, make_scene
from viscot_core.data.synth import QUESTIONS
from viscot_core.families.generic.processor import GenericProcessor
from viscot_core.policies.wording import Wording

Batch = dict[str, torch.Tensor]
OPENING = REPLY.partition("{}")[0].replace("{{", "{")


@dataclass(frozen=True)
class Seen:
    """A scene as the model sees it: pixels ``uint8[H, W, 3]`` after its own resize."""

    scene: Scene
    pixels: Any

    @property
    def scale(self) -> tuple[float, float]:
        height, width = self.pixels.shape[:2]
        return width / self.scene.size[0], height / self.scene.size[1]

    def box(self, index: int) -> list[int]:
        """A thing's box in pixels of the seen image."""
        sx, sy = self.scale
        x0, y0, x1, y1 = self.scene.things[index].box
        return [round(x0 * sx), round(y0 * sy), round(x1 * sx), round(y1 * sy)]

    def cells(self) -> tuple[Any, Any]:
        """Per image token: colour class ``int64[n]`` (the last class: nothing) and box ``float32[n, 4]``."""
        rows, columns = self.pixels.shape[0] // FACTOR, self.pixels.shape[1] // FACTOR
        color = np.full((rows, columns), len(COLORS))
        box = np.zeros((rows, columns, 4), np.float32)
        names = list(COLORS)
        for index, thing in enumerate(self.scene.things):
            x0, y0, x1, y1 = self.box(index)
            top, bottom = round(y0 / FACTOR), max(round(y1 / FACTOR), round(y0 / FACTOR) + 1)
            left, right = round(x0 / FACTOR), max(round(x1 / FACTOR), round(x0 / FACTOR) + 1)
            color[top:bottom, left:right] = names.index(thing.color)
            box[top:bottom, left:right] = np.array([x0, y0, x1, y1]) / NUMBERS
        return color.ravel(), box.reshape(-1, 4)


def see(seed: int) -> Seen:
    """Draw a scene and resize it as the processor does."""
    from PIL import Image
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    scene = make_scene(seed)
    width, height = scene.size
    height, width = smart_resize(height, width, FACTOR, MIN_PIXELS, MAX_PIXELS)
    return Seen(scene, np.asarray(draw_scene(scene).resize((width, height), Image.Resampling.BICUBIC)))


def conversation(seen: Seen, rng: random.Random, turns: int) -> tuple[list[Message], list[str]]:
    """One image and requests for regions of it, worded as a benchmark words them, with the right boxes.

    Also the colour that each request asks for.
    """
    wording, said = Wording(codec(FORMAT)), []
    order = rng.sample(range(len(seen.scene.things)), len(seen.scene.things))[:turns]
    for number, index in enumerate(order):
        thing = seen.scene.things[index]
        question = rng.choice(QUESTIONS).format(color=thing.color, noun=thing.noun)
        asked = rng.choice(
            (
                lambda q=question: wording.detection(q),
                lambda q=question: wording.detection(q),
                lambda t=thing: wording.refcoco(t.expression),
            )
        )()[-1].text
        text = asked if number == 0 else asked.replace(f"{IMAGE}\n", "").replace(IMAGE, "")
        reply = REPLY.format(*seen.box(index))
        said += [Message("user", text), Message("assistant", reply)]
    return said, [seen.scene.things[index].color for index in order]


class Rows:
    """Batches of conversations about images of one grid."""

    def __init__(self, processor: GenericProcessor, scenes: list[Seen], turns: int) -> None:
        self.processor, self.turns = processor, turns
        self.hf = processor.hf
        self.buckets: dict[tuple[int, int], list[Seen]] = defaultdict(list)
        for seen in scenes:
            self.buckets[seen.pixels.shape[:2]].append(seen)
        tokenizer = self.hf.tokenizer
        self.start = tokenizer.convert_tokens_to_ids("<|im_start|>")
        self.end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        self.assistant = tokenizer.encode("assistant\n", add_special_tokens=False)
        self.image = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.numbers = tokenizer.convert_tokens_to_ids([str(number) for number in range(NUMBERS)])

    def batch(self, rng: random.Random, size: int) -> Batch:
        keys = list(self.buckets)
        key = rng.choices(keys, [len(self.buckets[k]) for k in keys])[0]
        seen = rng.choices(self.buckets[key], k=size)
        said, colors = zip(*(conversation(each, rng, self.turns) for each in seen), strict=True)
        slots = key[0] // FACTOR * (key[1] // FACTOR)
        texts = [self.processor._text(messages, False) for messages in said]
        texts = [text.replace("<|image_pad|>", "<|image_pad|>" * slots) for text in texts]
        tokens = self.hf.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
        ids = tokens["input_ids"]
        words = [self._words(tokens, row, text, colors[row]) for row, text in enumerate(texts)]
        names = list(COLORS)
        asked = [[names.index(color) for color in row] + [-1] * (self.turns - len(row)) for row in colors]
        pixels = self.hf.image_processor(
            images=[each.pixels for each in seen], do_resize=False, return_tensors="pt"
        )
        cells = [each.cells() for each in seen]
        return {
            "input_ids": ids,
            "attention_mask": tokens["attention_mask"],
            "mm_token_type_ids": (ids == self.image).long(),
            "pixel_values": pixels["pixel_values"],
            "image_grid_thw": pixels["image_grid_thw"],
            "labels": torch.tensor([self._labels(row) for row in ids.tolist()]),
            "color": torch.from_numpy(np.stack([c for c, _ in cells])),
            "box": torch.from_numpy(np.stack([b for _, b in cells])),
            "asked": torch.tensor(asked),
            "word": torch.tensor(words),
        }

    def _words(self, tokens: Any, row: int, text: str, colors: list[str]) -> list[int]:
        """Where each turn names its colour: a token's position, -1 where the row has no such turn."""
        found, begin = [], 0
        for color in colors:
            begin = text.index(color, begin)
            found.append(tokens.char_to_token(row, begin + len(color) - 1))
            begin = text.index(OPENING, begin)  # past what the question says after the colour
        return found + [-1] * (self.turns - len(found))

    def _labels(self, ids: list[int]) -> list[int]:
        """The assistant's tokens and the end of its turn; -100 elsewhere."""
        labels, mine = [-100] * len(ids), False
        for at, token in enumerate(ids):
            if token == self.start:
                mine = ids[at + 1 : at + 1 + len(self.assistant)] == self.assistant
                skip = at + len(self.assistant)
            elif mine and at > skip:
                labels[at] = token
                mine = token != self.end
        return labels


class Batches(torch.utils.data.Dataset[Batch]):
    """Batch number ``n`` of a run; workers make them beside the training step."""

    def __init__(self, rows: Rows, batch_size: int, steps: int) -> None:
        self.rows, self.batch_size, self.steps = rows, batch_size, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        torch.set_num_threads(1)
        return self.rows.batch(random.Random(step), self.batch_size)
