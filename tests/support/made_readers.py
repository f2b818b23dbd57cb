"""Engines that read a code painted into an image: what they use of a crop is known by construction."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from viscot_core.boxes.geometry import Box, Frame, format_box
from viscot_core.conversation import BOX_REQUEST, IMAGE, Message
from viscot_core.engines.base import Generation, Request, Traits

SIDE = 448
CROP = 224
"""The paper's window about a small box: a quarter of the image."""
Reads = Callable[[Request, str], bool]


def painted(folder: Path, number: int) -> tuple[Path, list[int], str]:
    """Number 0 to 55: a grey image with a square of one strong colour; its box, and what the colour says.

    The engines see the whole image too: a code is read only where the square fills a tenth of what is shown,
    which it does in the crop alone.
    """
    rng = random.Random(f"painted/{number}")
    left, top = rng.randrange(8, SIDE - 108), rng.randrange(8, SIDE - 108)
    image = Image.new("RGB", (SIDE, SIDE), (115, 115, 115))
    # Red is 200 and more, as in no grey, and another one in each image.
    image.paste((200 + number, 10, 10), (left, top, left + 100, top + 100))
    path = folder / f"{number}.png"
    image.save(path)
    return path, [left, top, left + 100, top + 100], f"code {number}"


def code_in(image: Image.Image) -> str | None:
    """The code of a crop; None where no painted square fills a tenth of the image."""
    pixels = np.asarray(image.convert("RGB")).astype(int)
    marked = (pixels[..., 0] > 190) & (pixels[..., 1] < 60)
    if marked.mean() < 0.1:
        return None
    return f"code {round(float(np.median(pixels[..., 0][marked]))) - 200}"


class ReadingEngine:
    """Names the painted square, then says the code of the crop, if ``reads`` says that it looks there.

    An engine that does not look says a code that it guesses from the question; the guess is always wrong.
    """

    def __init__(self, boxes: dict[str, str], reads: Reads) -> None:
        self.name = "reading"
        self.identity = {"engine": "reading", "weights": "0"}
        self.traits = Traits(batch=4)
        self.requests: list[Request] = []
        self._boxes, self._reads = boxes, reads

    def prompt(self, messages: Sequence[Message]) -> str:
        return "\n".join(f"{message.role}: {message.text}" for message in messages)

    def reset(self) -> None:
        """Nothing is kept between calls."""

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        self.requests += requests
        return [Generation(self._say(request), 5, True) for request in requests]

    def _say(self, request: Request) -> str:
        words = request.messages[0].text
        question = next(name for name in self._boxes if name in words)
        asks_where = BOX_REQUEST in words and not any(m.role == "assistant" for m in request.messages)
        if asks_where:
            return self._boxes[question]
        guess = f"guess {question}"
        if not self._reads(request, question):
            return guess
        return code_in(request.images[-1].image) or guess


def always(request: Request, question: str) -> bool:
    """It reads every crop."""
    return True


def never(request: Request, question: str) -> bool:
    """It reads none."""
    return False


def half(request: Request, question: str) -> bool:
    """It reads the crops of half of the questions."""
    return hashlib.sha256(question.encode()).digest()[0] % 2 == 0


def write_painted_root(root: Path, count: int) -> tuple[Path, dict[str, str]]:
    """A data root of ``count`` painted images with a question each; and each question's box in words."""
    folder = root / "cot" / "painted"
    folder.mkdir(parents=True)
    rows, regions, boxes = [], [], {}
    for number in range(count):
        path, box, code = painted(folder, number)
        question, image = f"Which code has sheet {number:03}?", f"cot/painted/{path.name}"
        words = format_box(Box(*map(float, box), frame=Frame.ORIGINAL).to_square((SIDE, SIDE)))
        boxes[question] = words
        said = [f"{IMAGE}\n{question} {BOX_REQUEST}", words, IMAGE, code]
        turns = [{"from": "gpt" if n % 2 else "human", "value": text} for n, text in enumerate(said)]
        rows.append({"question_id": number, "image": [image, f"{image}###{box}"], "conversations": turns})
        regions.append(
            {"img_path": image, "expression": question, "bbox": box, "height": SIDE, "width": SIDE,
             "question_id": number}
        )  # fmt: skip
    (root / "benchmark").mkdir()
    (root / "benchmark_det").mkdir()
    (root / "benchmark" / "painted.json").write_text(json.dumps(rows))
    (root / "benchmark_det" / "painted.jsonl").write_text("".join(json.dumps(row) + "\n" for row in regions))
    return root, boxes
