"""``viscot data synth --kind search``: questions whose answer takes two or three looks, with the true looks.

A training row is a conversation with a box and a crop for each look: ``image`` names the scene, then every
crop by its box in pixels of the scene, and the assistant's boxes are in the padded square (0..1) of the image
that was shown last. Some rows are asked for the answer at once behind a crop, as a loop that may look no more
asks: with too few looks the number cannot be read there, and the row holds it all the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from viscot_core.boxes.geometry import Box, Frame, Size, Window, crop_window, format_box
from viscot_core.conversation import ANSWER_REQUEST, BOX_REQUEST, IMAGE, Message, cot_turns, to_disk
from viscot_core.data.search.lists import make_list_scene, walks_of
from viscot_core.data.search.scenes import SearchScene, SearchThing, draw_search_scene, make_search_scene
from viscot_core.data.synth import HELD_OUT_SEED, Job, write_images, write_json, write_jsonl
from viscot_core.files import atomic_folder
from viscot_core.processes import worker_pool

DATASET = "search"
Kind = Literal["mark", "bar", "deep", "list"]
ENDINGS = (
    "what number is on the {}?",
    "which number does the {} show?",
    "what does the {} say?",
    "tell me the number of the {}.",
)
BAR_ENDINGS = ("what number does the bar point to?", "read the number that the bar points to.")
LIST_ENDINGS = (
    "what number is on the first card with a bar?",
    "read the number of the first card that has a bar.",
)
ASKED_SHARE = 0.5
"""Share of training rows whose last crop comes with a request to answer."""
SHORT_SHARE = 0.06
"""Share of training rows that are asked to answer before the last look."""


@dataclass(frozen=True, slots=True)
class Search:
    """A question, the parts to look at one after the other, and the answer, the last one's number."""

    kind: Kind
    question: str
    chain: tuple[SearchThing, ...]

    @property
    def answer(self) -> str:
        return self.chain[-1].text

    def box_texts(self, size: Size) -> list[str]:
        """What a model says at each look: the part's box in the padded square of the last image shown."""
        window: Window = (0, 0, *size)
        texts = []
        for part in self.chain:
            texts.append(format_box(_inside(part.box, window)))
            window = crop_window(Box(*part.box, frame=Frame.ORIGINAL), size)
        return texts


def _inside(box: Window, window: Window) -> Box:
    """A box in pixels of the scene, in the padded square of what ``window`` shows; cut at its border."""
    left, top, right, bottom = window
    moved = Box(box[0] - left, box[1] - top, box[2] - left, box[3] - top, Frame.ORIGINAL)
    size = (right - left, bottom - top)
    return moved.clip(size).to_square(size)


def searches_of(scene: SearchScene, cards: int = 2, each: int = 2) -> list[Search]:
    """Questions about ``each`` marks on ``cards`` of the scene, and about the bars of these cards.

    Of a list: of each walk through it.
    """
    rng = random.Random(f"search-{scene.seed}")
    if not any(card.parts for card in scene.cards):
        return [
            Search("list", f"Below the {walk[0].name}, {rng.choice(LIST_ENDINGS)}", walk)
            for walk in walks_of(scene)
        ]
    found: list[Search] = []
    for card in rng.sample(scene.cards, min(cards, len(scene.cards))):
        chain = (card, rng.choice(card.parts)) if scene.deep else (card,)
        for mark in rng.sample(chain[-1].parts, min(each, len(chain[-1].parts))):
            before = ", ".join(f"on the {part.name}" for part in chain)
            question = f"{before}, {rng.choice(ENDINGS).format(mark.name)}"
            kind: Kind = "deep" if scene.deep else "mark"
            found.append(Search(kind, question.capitalize(), (*chain, mark)))
        if card.bar:
            named = next(mark for mark in card.parts if mark.color == card.bar)
            question = f"On the {card.name}, {rng.choice(BAR_ENDINGS)}"
            found.append(Search("bar", question, (card, named)))
    return found


def trace_turns(question: str, boxes: Sequence[str], answer: str, *, asked: bool) -> tuple[Message, ...]:
    """A conversation with a crop behind each of ``boxes``; ``asked``: the last crop comes with a request."""
    turns = [Message("user", f"{IMAGE}\n{question} {BOX_REQUEST}")]
    for box in boxes:
        turns += [Message("assistant", box), Message("user", IMAGE)]
    if asked:
        turns[-1] = Message("user", f"{IMAGE}\n{ANSWER_REQUEST} {question}")
    return (*turns, Message("assistant", answer))


def write_search(
    out: Path,
    *,
    train: int,
    val: int,
    seed: int = 0,
    workers: int = 1,
    train_images: bool = True,
    lists: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Write ``train`` and ``val`` scenes and their rows into ``out``; returns the row counts.

    ``val`` is also the number of held-out questions. A share ``lists`` of the scenes has a list to walk.
    Without ``train_images`` the training scenes are only described (``scenes.jsonl``): `viscot train --recipe
    tiny-zoom` draws what it reads of them.

    Raises:
        UsageError: ``out`` is not empty.
    """
    with atomic_folder(out) as root:
        scenes = {
            "train": _scenes(seed * 10_000_000, train, workers, lists),
            "val": _scenes(HELD_OUT_SEED + seed * 10_000_000, val, workers, lists),
        }
        jobs: list[Job] = []
        for split, members in scenes.items():
            if split == "train" and not train_images:
                continue
            (root / image_path(split, 0)).parent.mkdir(parents=True, exist_ok=True)
            jobs += [
                (partial(draw_search_scene, s), root / image_path(split, i)) for i, s in enumerate(members)
            ]
        write_images(jobs, workers, progress)
        rows = list(training_rows(scenes["train"]))
        held_out = list(_held_out(scenes["val"]))
        described = [
            {"image": image_path(split, number), **scene.to_json()}
            for split, members in scenes.items()
            for number, scene in enumerate(members)
        ]
        return {
            "train.json": write_json(root / "train.json", rows),
            "traces.json": write_json(root / "traces.json", [trace for _, _, trace in held_out]),
            f"benchmark/{DATASET}.json": write_json(
                root / "benchmark" / f"{DATASET}.json", [item for item, _, _ in held_out]
            ),
            f"benchmark_det/{DATASET}.jsonl": write_jsonl(
                root / "benchmark_det" / f"{DATASET}.jsonl", [region for _, region, _ in held_out]
            ),
            "scenes.jsonl": write_jsonl(root / "scenes.jsonl", described),
        }


def image_path(split: str, index: int) -> str:
    """Path of a scene's image under the data root."""
    return f"cot/{DATASET}/{split}/{index:06d}.jpg"


def _scenes(first_seed: int, count: int, workers: int, lists: float = 0.0) -> list[SearchScene]:
    seeds = range(first_seed, first_seed + count)
    make = partial(_scene, lists=lists)
    if workers <= 1 or count < 100:
        return list(map(make, seeds))
    with worker_pool(workers) as pool:
        return list(pool.map(make, seeds, chunksize=64))


def _scene(seed: int, lists: float) -> SearchScene:
    # Of the other seeds nothing changes: scenes without lists stay what a model was trained on.
    is_list = random.Random(f"kind-{seed}").random() < lists
    return make_list_scene(seed) if is_list else make_search_scene(seed)


def training_rows(scenes: Sequence[SearchScene]) -> Iterator[dict[str, Any]]:
    """One conversation for each question about each scene."""
    number = 0
    for index, scene in enumerate(scenes):
        rng = random.Random(f"ends-{scene.seed}")
        for search in searches_of(scene):
            looks = len(search.chain)
            short = rng.random() < SHORT_SHARE
            shown = rng.randint(1, looks - 1) if short else looks
            asked = short or rng.random() < ASKED_SHARE
            yield _row(image_path("train", index), scene, search, number, shown, "train", asked=asked)
            number += 1


def _row(
    image: str, scene: SearchScene, search: Search, number: int, looks: int, split: str, *, asked: bool
) -> dict[str, Any]:
    crops = [f"{image}###{list(part.box)}" for part in search.chain[:looks]]
    turns = trace_turns(search.question, search.box_texts(scene.size)[:looks], search.answer, asked=asked)
    return {
        "dataset": DATASET,
        "split": split,
        "question_id": number,
        "kind": search.kind,
        "image": [image, *crops],
        "conversations": to_disk(turns),
    }


def held_out_rows(
    first_seed: int, count: int, workers: int = 1
) -> tuple[dict[str, SearchScene], list[dict[str, Any]]]:
    """Held-out scenes by image path, and the true trace of one question about each."""
    scenes = _scenes(first_seed, count, workers)
    named = {image_path("val", index): scene for index, scene in enumerate(scenes)}
    return named, [trace for _, _, trace in _held_out(scenes)]


def _held_out(
    scenes: Sequence[SearchScene],
) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """One question for each scene: the benchmark's row, its region and the true trace."""
    for index, scene in enumerate(scenes):
        image = image_path("val", index)
        search = random.Random(f"item-{scene.seed}").choice(searches_of(scene))
        trace = _row(image, scene, search, index, len(search.chain), "val", asked=False)
        last, (width, height) = search.chain[-1].box, scene.size
        box = format_box(Box(*last, frame=Frame.ORIGINAL).to_square(scene.size))
        item = {
            **trace,
            "image": [image, trace["image"][-1]],
            "conversations": to_disk(cot_turns(search.question, box, search.answer)),
        }
        region = {
            "img_path": image,
            "expression": search.question,
            "bbox": list(last),
            "height": height,
            "width": width,
            "question_id": index,
            "split": "val",
        }
        yield item, region, trace
