"""A data root of made images, and an engine whose replies have realistic lengths."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from on_gpu.made import QUESTIONS, REFERRED
from on_gpu.viscot_side import BOX, box_request


def make_images(folder: Path, size: tuple[int, int], count: int, name: str) -> list[Path]:
    """``count`` JPEG files; at most four are different."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    for number in range(count):
        path = folder / f"{name}_{number}.jpg"
        if number < 4:
            noise = np.random.default_rng(number).integers(0, 255, (size[1] // 5, size[0] // 5, 3), np.uint8)
            Image.fromarray(noise).resize(size).save(path, quality=85)
        else:
            os.link(made[number % 4], path)
        made.append(path)
    return made


def make_data(root: Path, size: tuple[int, int], images: int, expressions: int = 0) -> Path:
    """A data root of one question an image, or of ``expressions`` referring ones."""
    name, (width, height), draw = "made", size, random.Random(0)
    for folder in ("benchmark", "benchmark_det", "refcoco"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    questions, regions, referring = [], [], []
    for number, path in enumerate(make_images(root / "images", size, images, root.name)):
        image = f"images/{path.name}"
        box = [draw.randrange(width // 2), draw.randrange(height // 2)]
        box += [box[0] + width // 3, box[1] + height // 3]
        question = QUESTIONS[number % 3]
        spoken = [f"<image>\n{question} {box_request()}", BOX, "<image>", "yes"]
        turns = [{"from": "gpt" if n % 2 else "human", "value": text} for n, text in enumerate(spoken)]
        questions.append(
            {"dataset": name, "question_id": number, "image": [image, image], "conversations": turns}
        )
        region = {"img_path": image, "bbox": box, "height": height, "width": width}
        regions.append({**region, "expression": question, "question_id": number})
        referring += [
            {**region, "expression": REFERRED.format(n), "sent_id": number * expressions + n}
            for n in range(expressions)
        ]
    (root / "benchmark" / f"{name}.json").write_text(json.dumps(questions))
    for path_, rows in ((f"benchmark_det/{name}", regions), (f"refcoco/REC_refcoco_{name}_val", referring)):
        (root / f"{path_}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


class Capped:
    """An engine whose boxes and answers have realistic lengths, and whose boxes can be read."""

    def __init__(self, engine: Any, box: int, answer: int) -> None:
        self.engine, self._box, self._answer = engine, box, answer
        self._draw = random.Random(1)
        self.counts = {"requests": 0, "tokens": 0}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def generate(self, requests: Sequence[Any], *rest: Any, **more: Any) -> list[Any]:
        capped = [
            replace(r, max_new_tokens=self._box if len(r.images) == 1 else self._answer) for r in requests
        ]
        said = self.engine.generate(capped, *rest, **more)
        self.counts["requests"] += len(said)
        self.counts["tokens"] += sum(one.tokens for one in said)
        return [
            replace(one, text=self._words()) if len(r.images) == 1 and one.error is None else one
            for r, one in zip(requests, said, strict=True)
        ]

    def _words(self) -> str:
        x, y = self._draw.uniform(0.05, 0.5), self._draw.uniform(0.15, 0.5)
        return f"[{x:.3f}, {y:.3f}, {x + 0.3:.3f}, {y + 0.3:.3f}]"
