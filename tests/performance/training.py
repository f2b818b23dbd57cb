"""How little of a batch is padding, and how long a run of 2.4 million rows waits for its first batch.

Run it: ``python tests/performance/training.py [--shared ../shared] [--rows 2400000]``. Prints one JSON
object.

*Padding*: exact lengths (LLaMA's tokenizer, 576 tokens a picture) of real rows of three kinds - two-turn
chains, questions on one picture, RefCOCO expressions - and of as many rows without a picture, dealt to 8
processes of 16 rows in random order, grouped by modality and length as LLaVA-1.5 does, and packed (random
order, rows of 2048).

*First batch*: opening a made mixture, rough lengths of all rows, the order of an epoch, and one batch of 16
without pictures; CPU seconds, beyond loading the model. Lengths and order run once on every rank.
How fast the loader feeds: ``loader.py``.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from viscot_core.data.annotations import Conversation
from viscot_core.data.encode import encode
from viscot_core.data.packing import pack
from viscot_core.data.sampler import filled, length_order, modality_length_order
from viscot_core.models.tokenizer import load_tokenizer
from viscot_core.models.tokens import ChatTokenizer
from viscot_core.prompts import BOX_REQUEST, IMAGE, REFCOCO_AFTER, REFCOCO_BEFORE, TEMPLATES
from viscot_core.train.batch import Split
from viscot_core.train.feed import MixtureRows
from viscot_core.train.recipe import load_recipe

GOALS = {"packed": 0.95, "first_batch_s": 30.0}
PER_DEVICE, PROCESSES, CAPACITY = 16, 8, 2048
BOX = "[0.282, 0.316, 0.794, 0.738]"


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": "gpt" if n % 2 else "human", "value": text} for n, text in enumerate(texts)]


def real_rows(shared: Path, each: int) -> list[dict[str, Any]]:
    """Rows of the public annotation files as training conversations, ``each`` of every kind."""
    draw = random.Random(0)
    chains, questions, expressions = [], [], []
    for path in sorted((shared / "reference_data/metadata").glob("*.jsonl")):
        for row in map(json.loads, path.read_text().splitlines()):
            words = turns(f"{IMAGE}\n{row['question']} {BOX_REQUEST}", BOX, IMAGE, row["answer"])
            chains.append({"id": "0", "image": ["a", "a"], "conversations": words})
            questions.append(
                {
                    "id": "0",
                    "image": "a",
                    "conversations": turns(f"{IMAGE}\n{row['question']}", row["answer"]),
                }
            )
    for path in sorted((shared / "reference_data/refcoco").glob("*.jsonl")):
        for row in map(json.loads, path.read_text().splitlines()):
            asked = (
                f"{IMAGE}\n{REFCOCO_BEFORE}{row.get('expression') or row.get('sent') or ''}{REFCOCO_AFTER}"
            )
            expressions.append({"id": "0", "image": "a", "conversations": turns(asked, BOX)})
    texts = [{"id": "0", "conversations": turns(*_words(draw))} for _ in range(each)]
    return [row for kind in (chains, questions, expressions) for row in draw.sample(kind, each)] + texts


def _words(draw: random.Random) -> list[str]:
    return ["word " * draw.randrange(5, 60) for _ in range(2 * draw.randrange(1, 6))]


def shares(lengths: list[int]) -> dict[str, float]:
    """Non-padding share of the batches of one epoch, by order; lengths are negative without a picture."""
    sizes = [abs(length) for length in lengths]
    group = PER_DEVICE * PROCESSES
    random_order = filled(
        torch.randperm(len(sizes), generator=torch.Generator().manual_seed(0)).tolist(), group
    )
    torch.manual_seed(0)
    orders = {
        "random": random_order,
        "length": filled(length_order(sizes, PER_DEVICE, PROCESSES), group),
        "modality_length": filled(modality_length_order(lengths, PER_DEVICE, PROCESSES), group),
    }
    found = {name: _share([[sizes[i]] for i in order]) for name, order in orders.items()}
    places = tokens = 0
    for start in range(0, len(random_order), PER_DEVICE):
        own = [sizes[i] for i in random_order[start : start + PER_DEVICE]]
        rows = [sum(own[i] for i in row) for row in pack(own, CAPACITY)]
        places, tokens = places + max(rows) * len(rows), tokens + sum(rows)
    return {name: round(share, 4) for name, share in {**found, "packed": tokens / places}.items()}


def _share(rows: list[list[int]]) -> float:
    places = tokens = 0
    for start in range(0, len(rows), PER_DEVICE):
        batch = [sum(row) for row in rows[start : start + PER_DEVICE]]
        places, tokens = places + max(batch) * len(batch), tokens + sum(batch)
    return tokens / places


def first_batch(tokens: ChatTokenizer, count: int) -> dict[str, float]:
    """CPU seconds from a file's path to the first batch of ``count`` rows."""
    words = "The small round thing beside the tall one is what the question asks about. "
    kinds = [json.dumps({"id": "0", "conversations": turns(words * n, words)}) for n in range(1, 9)]
    kinds += [
        json.dumps({"id": "0", "image": "a", "conversations": turns(IMAGE + words * n, words)})
        for n in range(1, 9)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        with path.open("w") as file:
            file.writelines(kinds[n % len(kinds)] + "\n" for n in range(count))
        stage = load_recipe("7b-336").stage("finetune")
        times = [time.process_time()]
        rows = MixtureRows([path], Path(folder), tokens, TEMPLATES["vicuna_v1"], stage, side=336)
        times.append(time.process_time())
        order = rows.order(Split(PER_DEVICE, 1, PROCESSES), 0)
        times.append(time.process_time())
        texts = [index for index in order if index % len(kinds) < len(kinds) // 2][:PER_DEVICE]
        rows.collate([rows[index] for index in texts])
        times.append(time.process_time())
    names = ("open_s", "order_s", "batch_s")
    found = {name: round(b - a, 2) for name, a, b in zip(names, times, times[1:], strict=False)}
    return {**found, "first_batch_s": round(times[-1] - times[0], 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[2].parent / "shared")
    parser.add_argument("--rows", type=int, default=2_400_000)
    parser.add_argument("--each", type=int, default=2000)
    given = parser.parse_args()
    tokenizer = load_tokenizer(given.shared / "golden/llama_tokenizer", "v4.31")
    tokens = ChatTokenizer(tokenizer, image_tokens=576, turn_tokens="v4.31")
    lengths = []
    for row in real_rows(given.shared, given.each):
        conversation = Conversation.model_validate(row)
        length = len(encode(conversation, tokens, TEMPLATES["vicuna_v1"], max_length=CAPACITY).encoded.ids)
        lengths.append(length if conversation.image else -length)
    result = {"non_padding": shares(lengths), "first_batch": first_batch(tokens, given.rows), "goals": GOALS}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
