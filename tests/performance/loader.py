"""How many training samples a core prepares: viscot's loader beside the reference's procedure, in one run.

Run it: ``python tests/performance/loader.py [--rows N] [--side 336]``. Four-turn rows (image, crop, box,
answer) on drawn pages of 1700 x 2200 and photos of 500 to 1024 px, JPEG on disk, one thread. Both make ids,
labels and normalised pixels. Prints one JSON object; times are CPU time, the best of several rounds taken in
turns.

The reference's procedure, in our words: the row is copied from a parsed list; each of its images is opened
and decoded by itself, cropped, padded, and given to transformers' CLIP processor (Pillow); the prompt is
tokenized, and each round twice more to find the mask. Its silent replacement of unreadable samples costs
time too and is left out, and its slow tokenizer is given today's fast one.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

import numpy as np
import torch
from made_processors import processor_of
from PIL import Image, ImageDraw, ImageFont

from viscot_core.boxes.geometry import Box, Frame, crop_window, format_box
from viscot_core.conversation import IMAGE, cot_turns, to_disk
from viscot_core.data.annotations import split_crop
from viscot_core.families.llava.pixels import PAD_COLOR, quick_square_pixels, square_pixels
from viscot_core.families.llava.processor import ChatProcessor, ChatTokenizer
from viscot_core.families.llava.template import EOS, TEMPLATES
from viscot_core.models.checkpoint import open_checkpoint
from viscot_core.models.zoo import resolve
from viscot_core.train.loop.mixture_dataset import EncodedRow, MixtureDataset
from viscot_core.train.recipe.load import load_recipe

GOAL = 3.0
TEMPLATE = TEMPLATES["vicuna_v1"]
SIZES = {
    "document 1700 x 2200": (1700, 2200),
    "photo 1024 x 768": (1024, 768),
    "photo 768 x 1024": (768, 1024),
    "photo 640 x 480": (640, 480),
    "photo 500 x 375": (500, 375),
}


def page(size: tuple[int, int], draw: random.Random) -> Image.Image:
    """A scanned page: lines of small dark words on noisy paper."""
    image = Image.new("RGB", size, (250, 249, 246))
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=26)
    for y in range(80, size[1] - 80, 38):
        words = ("".join(draw.choices("abcdefghij0123456789", k=draw.randrange(2, 10))) for _ in range(16))
        pen.text((90, y), " ".join(words), fill=(25, 25, 30), font=font)
    return noisy(image, draw, 3)


def photo(size: tuple[int, int], draw: random.Random) -> Image.Image:
    """Smooth patches of colour of several sizes, and grain."""
    rng = np.random.default_rng(draw.randrange(1 << 30))
    total = np.zeros((size[1], size[0], 3))
    for scale in (8, 30, 120):
        small = rng.integers(0, 256, (size[1] // scale + 2, size[0] // scale + 2, 3), dtype=np.uint8)
        total += np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)) / 3
    return noisy(Image.fromarray(total.astype(np.uint8)), draw, 4)


def noisy(image: Image.Image, draw: random.Random, amount: float) -> Image.Image:
    rng = np.random.default_rng(draw.randrange(1 << 30))
    values = np.asarray(image) + rng.normal(0, amount, (image.height, image.width, 1))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def write_rows(root: Path, name: str, count: int) -> Path:
    """``count`` rows on images of one kind; returns their JSON list."""
    draw, size, rows = random.Random(name), SIZES[name], []
    for number in range(count):
        file = f"{name.replace(' ', '_')}_{number}.jpg"
        (page if name.startswith("document") else photo)(size, draw).save(root / file, "JPEG", quality=88)
        left, top = draw.randrange(size[0] // 2), draw.randrange(size[1] // 2)
        box = Box(left, top, left + size[0] // 8, top + size[1] // 12, Frame.ORIGINAL)
        turns = cot_turns(
            "What is written next to the number?", format_box(box.to_square(size)), "a few words"
        )
        pixels = [int(value) for value in box.coords]
        rows.append({"id": number, "image": [file, f"{file}###{pixels}"], "conversations": to_disk(turns)})
    path = root / f"{name.replace(' ', '_')}.json"
    path.write_text(json.dumps(rows))
    return path


class Reference:
    """The reference's procedure for one row (see the module's docstring)."""

    def __init__(self, path: Path, root: Path, tokens: ChatTokenizer, side: int) -> None:
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        self.rows, self.root, self.tokens = json.loads(path.read_text()), root, tokens
        sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
        self.processor = CLIPImageProcessorPil(**sizes)

    def __call__(self, index: int) -> tuple[list[int], list[int], list[torch.Tensor]]:
        row = copy.deepcopy(self.rows[index])
        pixels = [self.image(name) for name in row["image"]]
        return *self.words(row["conversations"]), pixels

    def image(self, name: str) -> torch.Tensor:
        path, box = split_crop(name)
        image = Image.open(self.root / path).convert("RGB")
        if box:
            image = image.crop(crop_window(box, image.size))
        side = max(image.size)
        square = Image.new("RGB", (side, side), PAD_COLOR)
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        found: torch.Tensor = self.processor.preprocess(square, return_tensors="pt")["pixel_values"][0]
        return found

    def words(self, talk: list[dict[str, str]]) -> tuple[list[int], list[int]]:
        rounds = [
            f"USER: {asked['value']} ASSISTANT: {told['value']}{EOS}"
            for asked, told in zip(talk[::2], talk[1::2], strict=True)
        ]
        ids = self.ids(TEMPLATE.system + " " + "".join(rounds))
        labels = list(ids)
        for text in rounds:
            whole, asked = self.ids(text), self.ids(text.split("ASSISTANT: ")[0] + "ASSISTANT: ")
            labels[: len(asked)] = [-100] * len(asked) + labels[len(whole) : len(whole)]
        return ids, labels[: len(ids)]

    def ids(self, text: str) -> list[int]:
        found: list[int] = []
        for number, part in enumerate(text.split(IMAGE)):
            found += [-200] * bool(number) + self.tokens.hf(part)["input_ids"]
        return found


def cpu_ms(work: Callable[[int], Any], count: int) -> float:
    start = time.process_time()
    for index in range(count):
        work(index)
    return (time.process_time() - start) / count * 1000


def difference(path: Path, root: Path, side: int) -> tuple[int, float]:
    """How far the loader's pixels are from the exact ones: most, and the share that differs at all."""
    most, differ, seen = 0, 0, 0
    for row in json.loads(path.read_text())[:4]:
        image = Image.open(root / row["image"][0])
        apart = np.abs(quick_square_pixels(image, side).astype(int) - square_pixels(image, side))
        most, differ, seen = max(most, int(apart.max())), differ + int((apart > 0).sum()), seen + apart.size
    return most, differ / seen


def measure(root: Path, name: str, asked: argparse.Namespace, tokens: ChatTokenizer) -> dict[str, Any]:
    path = write_rows(root, name, asked.rows)
    stage = load_recipe("7b-336").stages[-1]
    ours = MixtureDataset([path], root, processor_of(tokens, TEMPLATE.name, asked.side), stage)
    reference = Reference(path, root, tokens, asked.side)

    def mine(index: int) -> None:
        item = ours[index]
        assert isinstance(item, EncodedRow), item
        ours.collate([item])

    rounds = [(cpu_ms(reference, asked.rows), cpu_ms(mine, asked.rows)) for _ in range(asked.rounds)]
    theirs_ms, ours_ms = (min(times) for times in zip(*rounds, strict=True))
    most, share = difference(path, root, asked.side)
    return {
        "reference_ms": round(theirs_ms, 2),
        "viscot_ms": round(ours_ms, 2),
        "samples_per_s_per_core": round(1000 / ours_ms, 1),
        "times": round(theirs_ms / ours_ms, 2),
        "most_of_255": most,
        "share_that_differs": round(share, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=336)
    parser.add_argument(
        "--tokenizer", default=None, help="a model's name or folder; the bundled one otherwise"
    )
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = open_checkpoint(resolve(asked.tokenizer))
    processor = found.family.processor(found)
    assert isinstance(processor, ChatProcessor)
    tokens = ChatTokenizer(processor.tokens.hf, image_tokens=(asked.side // 14) ** 2)
    with tempfile.TemporaryDirectory() as temporary:
        found = {name: measure(Path(temporary), name, asked, tokens) for name in SIZES}
    met = {name: one["times"] >= GOAL for name, one in found.items()}
    print(json.dumps({"side": asked.side, "results": found, "goal_times": GOAL, "met": met}, indent=1))


if __name__ == "__main__":
    main()
