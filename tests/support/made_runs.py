"""Small made-up run folders for the tests of scoring and reports."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from viscot_core.runs.records import Prediction, RunInfo

STRATEGIES = ("cot", "direct", "gt-box")


def prediction(**changes: object) -> Prediction:
    """One finished prediction with sensible fields; ``changes`` replace any of them."""
    fields: dict[str, object] = {
        "strategy": "cot",
        "dataset": "synth",
        "question_id": 1,
        "status": "done",
        "width": 640,
        "height": 480,
        "question": "What number is on the red card?",
        "reference": "42",
        "answer": "42",
        "box_text": "[0.100, 0.200, 0.300, 0.400]",
        "box_status": "ok",
        "box": (0.1, 0.2, 0.3, 0.4),
        "box_gt": (0.1, 0.2, 0.3, 0.4),
        "crop": (0, 0, 224, 224),
        "iou": 1.0,
        "seconds": 0.1,
    }
    fields["image"] = f"cot/synth/val/{changes.get('question_id', 1)}.jpg"
    return Prediction.model_validate(fields | changes)


def talk(number: int, looks: int, *, refused: int = 0, stop: str = "answer") -> Prediction:
    """An item of the zoom loop: so many looks, and calls that were refused."""
    image = f"cot/synth/val/{number}.jpg"
    said = [f"[0.{n}00, 0.100, 0.900, 0.900]" for n in range(1, looks + 1)]
    messages = [{"role": "user", "content": "<image>\nWhat number is on the red card?"}]
    for words in said:
        messages += [{"role": "assistant", "content": words}, {"role": "user", "content": "<image>"}]
    row: dict[str, Any] = {
        "images": [image],
        "messages": [*messages, {"role": "assistant", "content": "42"}],
        "looks": [
            {"box": [10 * n, 20, 300, 400], "crop": [10 * n, 20, 300, 400], "turn": n, "image": 0}
            for n in range(1, looks + 1)
        ],
        "errors": [{"turn": 1, "reason": "no area"}] * refused,
        "stop": stop,
        "tokens": 10 * (looks + 1),
        "seconds": 0.5,
    }
    return prediction(strategy="zoom", question_id=number, trace=row)


def write_run(
    folder: Path, predictions: Iterable[Prediction], planned: dict[str, dict[str, int]] | None = None
) -> Path:
    """Write a run folder holding ``predictions``; what is planned defaults to what is there."""
    rows = list(predictions)
    if planned is None:
        planned = {}
        for row in rows:
            sets = planned.setdefault(row.strategy, {})
            sets[row.dataset] = sets.get(row.dataset, 0) + 1
    folder.mkdir(parents=True, exist_ok=True)
    kind = "refcoco" if rows and rows[0].strategy == "refcoco" else "cot"
    RunInfo(kind=kind, model="viscot-tiny", planned=planned).save(folder)
    (folder / "predictions.jsonl").write_bytes(b"".join(row.to_line() for row in rows))
    return folder


def sample_run(
    folder: Path,
    *,
    items: int = 40,
    strategies: Sequence[str] = STRATEGIES,
    datasets: Sequence[str] = ("synth",),
    seed: int = 0,
) -> Path:
    """A run with right and wrong answers and boxes: cot mostly right, direct mostly wrong."""
    rng = random.Random(seed)
    rows = []
    for dataset in datasets:
        for number in range(items):
            for strategy in strategies:
                right = rng.random() < {"cot": 0.8, "direct": 0.3}.get(strategy, 0.9)
                hit = rng.random() < 0.7
                boxed = strategy == "cot"
                rows.append(
                    prediction(
                        strategy=strategy,
                        dataset=dataset,
                        question_id=number,
                        question=f"What number is on card {number}?",
                        reference=str(number),
                        answer=f"{number}." if right else f"no {number}",
                        box_text="[0.100, 0.200, 0.300, 0.400]" if boxed else None,
                        box_status="ok" if boxed else None,
                        iou=(0.8 if hit else 0.1) if boxed else None,
                        image=f"{number}.jpg",
                    )
                )
    return write_run(folder, rows)
