"""``viscot data synth``: an offline data set with the same files and layout as the real one.

Writes the layout of a data root : benchmark, benchmark_det, RefCOCO and metadata
files, training conversations with ``###`` crops, and the images. Training and held-out scenes come from
disjoint seeds. The same arguments give the same bytes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from viscot_core.boxes.geometry import Box, Frame, format_box
from viscot_core.conversation import (
    ANSWER_REQUEST,
    BOX_REQUEST,
    IMAGE,
    Message,
    cot_turns,
    detection_turns,
    direct_turns,
    refcoco_turns,
    to_disk,
)
from viscot_core.data.scenes import Scene, Thing, draw_scene, make_scene
from viscot_core.files import atomic_folder
from viscot_core.processes import worker_pool

DATASET = "synth"
QUESTIONS = (
    "What number is on the {color} {noun}?",
    "Which number does the {color} {noun} show?",
    "Read the number on the {color} {noun}.",
    "What is written on the {color} {noun}?",
    "Tell me the number of the {color} {noun}.",
    "What does the {color} {noun} say?",
)
Job = tuple[Callable[[], Image.Image], Path]
"""What draws an image, and the file it goes into."""
HELD_OUT_SEED = 2**62
"""Validation scenes use seeds from here on; training scenes of any 32-bit ``--seed`` stay below."""


def write_dataset(
    out: Path,
    *,
    train: int,
    val: int,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Write ``train`` and ``val`` scenes and every annotation file into ``out``; returns the row counts.

    ``val`` is also the number of held-out questions: one per scene. ``progress(done, total)`` is called as
    images are written. ``out`` appears only when complete.

    Raises:
        UsageError: ``out`` is not empty.
    """
    with atomic_folder(out) as root:
        return _write(root, train, val, seed, workers, progress)


def _write(
    out: Path, train: int, val: int, seed: int, workers: int, progress: Callable[[int, int], None] | None
) -> dict[str, int]:
    scenes = {
        "train": _scenes(seed * 10_000_000, train),
        "val": _scenes(HELD_OUT_SEED + seed * 10_000_000, val),
    }
    jobs: list[Job] = []
    for split, members in scenes.items():
        folder = out / "cot" / DATASET / split
        folder.mkdir(parents=True, exist_ok=True)
        jobs += [(partial(draw_scene, scene), out / image_path(split, i)) for i, scene in enumerate(members)]
    write_images(jobs, workers, progress)

    counts = {
        "train.json": write_json(out / "train.json", list(_train_rows(scenes["train"]))),
        "direct.json": write_json(out / "direct.json", list(_direct_rows(scenes["train"]))),
        "pretrain.json": write_json(out / "pretrain.json", list(_caption_rows(scenes["train"]))),
    }
    for split, members in scenes.items():
        items = list(_items(members, split))
        if split == "train":
            name = f"metadata/{DATASET}_cot_train.jsonl"
            counts[name] = write_jsonl(out / name, [i.metadata() for i in items])
        else:
            counts[f"benchmark/{DATASET}.json"] = write_json(
                out / "benchmark" / f"{DATASET}.json", [i.conversation() for i in items]
            )
            name = f"benchmark_det/{DATASET}.jsonl"
            counts[name] = write_jsonl(out / name, [i.detection() for i in items])
            name = f"refcoco/REC_refcoco_{DATASET}_val.jsonl"
            counts[name] = write_jsonl(out / name, list(_refcoco_rows(members)))
    rows = [
        {"image": image_path(split, i), **scene.to_json()}
        for split, members in scenes.items()
        for i, scene in enumerate(members)
    ]
    counts["scenes.jsonl"] = write_jsonl(out / "scenes.jsonl", rows)
    return counts


def image_path(split: str, index: int) -> str:
    """Path of a scene's image under the data root."""
    return f"cot/{DATASET}/{split}/{index:06d}.jpg"


def _scenes(first_seed: int, count: int) -> list[Scene]:
    return [make_scene(first_seed + i) for i in range(count)]


class _Item:
    """One question about one object of one scene, in every format on disk."""

    def __init__(
        self, question_id: int, image: str, scene: Scene, thing: Thing, split: str, rng: random.Random
    ):
        self.question_id = question_id
        self.image = image
        self.scene = scene
        self.thing = thing
        self.split = split
        self.question = rng.choice(QUESTIONS).format(color=thing.color, noun=thing.noun)

    @property
    def box_text(self) -> str:
        x0, y0, x1, y1 = self.thing.box
        box = Box(x0, y0, x1, y1, Frame.ORIGINAL)
        return format_box(box.to_square(self.scene.size))

    @property
    def crop_path(self) -> str:
        return f"{self.image}###{list(self.thing.box)}"

    def conversation(self) -> dict[str, Any]:
        turns = cot_turns(self.question, self.box_text, self.thing.text)
        return _row([self.image, self.crop_path], turns, self.question_id, split=self.split)

    def detection(self) -> dict[str, Any]:
        width, height = self.scene.size
        return {
            "img_path": self.image,
            "expression": self.question,
            "bbox": list(self.thing.box),
            "height": height,
            "width": width,
            "question_id": self.question_id,
            "split": self.split,
        }

    def metadata(self) -> dict[str, Any]:
        width, height = self.scene.size
        return {
            "question": self.question,
            "answer": self.thing.text,
            "image": f"{self.split}/{Path(self.image).name}",
            "width": width,
            "height": height,
            "bboxs": [list(self.thing.box)],
            "dataset": DATASET,
            "split": self.split,
        }


def _items(scenes: list[Scene], split: str) -> Iterator[_Item]:
    for index, scene in enumerate(scenes):
        rng = random.Random(f"item-{scene.seed}")
        yield _Item(index, image_path(split, index), scene, rng.choice(scene.things), split, rng)


def _row(
    images: list[str], turns: tuple[Message, ...], question_id: int, *, split: str = "train"
) -> dict[str, Any]:
    return {
        "dataset": DATASET,
        "split": split,
        "question_id": question_id,
        "image": images if len(images) > 1 else images[0],
        "conversations": to_disk(turns),
    }


def _train_rows(scenes: list[Scene]) -> Iterator[dict[str, Any]]:
    """Per scene: all boxes in one conversation, two chains (training, benchmark prompts), direct answers."""
    number = 0
    for index, scene in enumerate(scenes):
        rng = random.Random(f"train-{scene.seed}")
        image = image_path("train", index)
        items = [_Item(0, image, scene, thing, "train", rng) for thing in scene.things]
        rng.shuffle(items)
        first, second, third = items[0], items[1 % len(items)], items[2 % len(items)]
        rows = [
            ([image], _all_boxes(items, rng)),
            ([image, first.crop_path], cot_turns(first.question, first.box_text, first.thing.text)),
            ([image, second.crop_path], _benchmark_chain(second)),
            ([third.crop_path], (*direct_turns(third.question), Message("assistant", third.thing.text))),
        ]
        if index % 4 == 0:
            rows.append(([image], (*direct_turns(first.question), Message("assistant", first.thing.text))))
        for images, turns in rows:
            yield _row(images, turns, number)
            number += 1


def _direct_rows(scenes: list[Scene]) -> Iterator[dict[str, Any]]:
    """The training file of the control model: every object's question, answered without a crop."""
    number = 0
    for index, scene in enumerate(scenes):
        rng = random.Random(f"direct-{scene.seed}")
        for thing in scene.things:
            image = image_path("train", index)
            question = rng.choice(QUESTIONS).format(color=thing.color, noun=thing.noun)
            yield _row([image], (*direct_turns(question), Message("assistant", thing.text)), number)
            number += 1


def _benchmark_chain(item: _Item) -> tuple[Message, ...]:
    """A chain whose second question uses the benchmark's prompt instead of only ``<image>``."""
    turns = cot_turns(item.question, item.box_text, item.thing.text)
    asked = Message("user", f"{IMAGE}\n{ANSWER_REQUEST}{item.question}")
    return (*turns[:2], asked, turns[3])


def _all_boxes(items: list[_Item], rng: random.Random) -> tuple[Message, ...]:
    """One image and a box turn for up to four objects, with training, benchmark and RefCOCO prompts."""
    turns: list[Message] = []
    for item in items[:4]:
        wordings = (
            f"{IMAGE}\n{item.question} {BOX_REQUEST}",
            detection_turns(item.question)[0].text,
            refcoco_turns(item.thing.expression)[0].text,
        )
        asked = rng.choice(wordings)
        turns.append(Message("user", asked if not turns else asked.removeprefix(f"{IMAGE}\n")))
        turns.append(Message("assistant", item.box_text))
    return tuple(turns)


def _caption_rows(scenes: list[Scene]) -> Iterator[dict[str, Any]]:
    """Stage 1: an image and a caption of its objects, from left to right."""
    for index, scene in enumerate(scenes):
        things = sorted(scene.things, key=lambda t: t.box[0])
        caption = ", ".join(f"a {t.color} {t.noun}" for t in things)
        turns = (Message("user", f"{IMAGE}\nWhat is in the image?"), Message("assistant", caption + "."))
        yield _row([image_path("train", index)], turns, index)


def _refcoco_rows(scenes: list[Scene]) -> Iterator[dict[str, Any]]:
    sent_id = 0
    for index, scene in enumerate(scenes):
        width, height = scene.size
        for thing in scene.things:
            yield {
                "img_path": image_path("val", index),
                "expression": thing.expression,
                "bbox": list(thing.box),
                "dataset_name": DATASET,
                "height": height,
                "width": width,
                "image_id": index,
                "sent_id": sent_id,
                "split": "val",
            }
            sent_id += 1


def write_images(jobs: Sequence[Job], workers: int, progress: Callable[[int, int], None] | None) -> None:
    """Draw and write every image as JPEG."""

    def report(done: int) -> None:
        if progress and (done % 100 == 0 or done == len(jobs)):
            progress(done, len(jobs))

    if workers <= 1:
        for done, job in enumerate(jobs, 1):
            _write_image(job)
            report(done)
        return
    with worker_pool(workers) as pool:
        for done, _ in enumerate(pool.map(_write_image, jobs, chunksize=32), 1):
            report(done)


def _write_image(job: Job) -> None:
    draw, path = job
    draw().save(path, "JPEG", quality=90)


def write_json(path: Path, rows: Sequence[dict[str, Any]]) -> int:
    """A JSON list, a row a line; returns the number of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(row) for row in rows)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    return len(rows)


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> int:
    """A row a line; returns the number of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return len(rows)
