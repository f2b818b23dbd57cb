"""Rows and images to train any family on: chains with a crop, questions about one image, text alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from viscot_core.conversation import BOX_REQUEST, IMAGE
from viscot_core.train.recipe.load import validate
from viscot_core.train.recipe.schema import Recipe

SIZES = ((90, 60), (120, 200), (100, 100))
COLORS = ("red", "green", "blue", "yellow")


def write_rows(root: Path, count: int = 12, *, text_only: bool = True) -> Path:
    """``rows.json`` and its images in ``root``: every third row a chain, every third without an image."""
    root.mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(SIZES):
        Image.effect_noise(size, 60).convert("RGB").save(root / f"{number}.png")
    rows = [_row(number, text_only) for number in range(count)]
    (root / "rows.json").write_text(json.dumps(rows))
    return root


def _row(number: int, text_only: bool) -> dict[str, Any]:
    color, image = COLORS[number % 4], f"{number % len(SIZES)}.png"
    kind = number % 3 if text_only else number % 2
    if kind == 0:
        said = [
            f"{IMAGE}\nwhere is the {color} card? {BOX_REQUEST}",
            "[0.100, 0.250, 0.500, 0.750]",
            IMAGE,
            color,
        ]
        images = [image, f"{image}###[10, 10, 50, 50]"]
    elif kind == 1:
        said, images = [f"{IMAGE}\nwhich number is on the {color} card?", f"{color} {number}"], [image]
    else:
        said, images = [f"how many {color} cards?", f"{color}", "and what number", "the red number"], []
    turns = [{"from": "gpt" if n % 2 else "human", "value": text} for n, text in enumerate(said)]
    return {"id": number, "image": images, "conversations": turns}


def family_recipe(checkpoint: Path, root: Path, model: dict[str, Any] | None = None, **stage: Any) -> Recipe:
    """One stage of fine-tuning on `write_rows`' rows: everything learns, fp32."""
    fields = {
        "kind": "finetune",
        "files": ["rows.json"],
        "train": ["projector", "llm", "vision_tower"],
        "max_steps": 20,
        "global_batch_size": 4,
        "learning_rate": 3e-3,
        "precision": "fp32",
        "workers": 0,
        "max_length": 512,
        "group_by": "none",
        "save_steps": 10,
        **stage,
    }
    raw = {
        "name": "made",
        "model": {"checkpoint": str(checkpoint), **(model or {})},
        "data": {"root": str(root), "images": str(root)},
        "report_to": [],
        "stages": [fields],
    }
    return validate(raw)


def losses(run: Path) -> list[float]:
    """The logged losses of the only stage of ``run``, by step; of a step logged twice the last."""
    (log,) = (run / "stages").glob("*/log.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    found = {line["step"]: line["loss"] for line in lines if "loss" in line}
    return [found[step] for step in sorted(found)]
