"""How little of a batch is padding, and how long a run of 2.4 million rows waits for its first step.

Run it: ``python tests/performance/training.py [--shared ../shared] [--rows 2400000] [--work DIR]``. Prints
one JSON object.

*Padding*: exact lengths (LLaMA's tokenizer, 576 tokens an image) of real rows of three kinds - two-turn
chains, questions on one image, RefCOCO expressions - and of as many rows without an image, dealt to 8
processes of 16 rows in random order, grouped by modality and length as LLaVA-1.5 does, and packed (random
order, rows of 2048).

*First step*: ``viscot finetune`` as a command of its own, with a small model of the tiny recipe, on a made
JSON list of as many rows as the published mixture: checks, index, preflight, rough lengths, an epoch's order
grouped by modality and length, loader workers, one step of 16 rows on one CPU process. The same command on
512 rows is subtracted: it loads the model too. All but the preflight runs alike on every rank.
How fast the loader feeds: ``loader.py``.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

import torch
from made_processors import processor_of
from PIL import Image

from viscot_core.conversation import BOX_REQUEST, IMAGE, REFCOCO_AFTER, REFCOCO_BEFORE
from viscot_core.data.annotations import Conversation
from viscot_core.data.encode import encode
from viscot_core.data.packing import pack
from viscot_core.data.sampler import filled, length_order, modality_length_order
from viscot_core.families.llava.processor import ChatTokenizer
from viscot_core.families.llava.tokenizer import load_tokenizer

GOALS = {"packed": 0.95, "beyond_loading_s": 30.0}
PER_DEVICE, PROCESSES, CAPACITY = 16, 8, 2048
IMAGES, ROWS = 8, "rows.json"
WORDS = "the small round thing beside a tall one is what this question asks about and where".split()  # noqa: SIM905
SETTINGS = [
    f"stages.finetune.files=[{ROWS}]", "stages.finetune.max_steps=null", "stages.finetune.epochs=1",
    "stages.finetune.global_batch_size=16", "stages.finetune.group_by=modality_length",
    "stages.finetune.max_length=2048", "model.scratch.max_positions=2048", "stages.finetune.compile=false",
    "stages.finetune.log_steps=1", "stages.finetune.token_weights=null", "stages.finetune.save_steps=100000",
    "stages.finetune.guide_attention=null", "model.scratch.image_side=56", "model.scratch.vision_width=24",
    "model.scratch.vision_heads=2", "model.scratch.llm_width=24", "model.scratch.llm_heads=2",
]  # fmt: skip
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
    """Non-padding share of the batches of one epoch, by order; lengths are negative without an image."""
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


def made_data(root: Path, count: int) -> None:
    """A data root of ``count`` rows as one JSON list, about as long as the published file's (1.1 KB a row):
    one in sixteen without an image, half with two turns, half chains of four; eight images, shared.
    """
    draw = random.Random(0)
    root.mkdir()
    for number in range(IMAGES):
        Image.new("RGB", (640, 480), (30 * number, 99, 180)).save(root / f"{number}.jpg")
    kinds = [json.dumps(_made_row(draw, number)) for number in range(64)]
    with (root / ROWS).open("w") as file:
        file.write("[" + kinds[0])
        file.writelines(",\n" + kinds[number % len(kinds)] for number in range(1, count))
        file.write("]")


def _made_row(draw: random.Random, number: int) -> dict[str, Any]:
    image = f"{number % IMAGES}.jpg"
    words = [" ".join(draw.choices(WORDS, k=draw.randrange(20, 70))) for _ in range(4)]
    if number % 16 == 0:
        return {"id": str(number), "conversations": turns(*words)}
    if number % 2:
        return {
            "id": str(number),
            "image": image,
            "conversations": turns(f"{IMAGE}\n{words[0]}", *words[1:]),
        }
    crop = f"{image}###[{number}, 40, {number + 120}, 200]"
    said = turns(f"{IMAGE}\n{words[0]} {BOX_REQUEST}", BOX, IMAGE, f"{words[1]} {words[2]}")
    return {"id": str(number), "image": [image, crop], "conversations": said}


def first_step(data: Path, run: Path) -> dict[str, float]:
    """Start ``viscot finetune`` on ``data`` and stop it behind its first step: seconds, and its GiB then."""
    command = [sys.executable, "-m", "viscot_cli.app", "finetune", "--recipe", "tiny", "--data", str(data)]
    command += ["--out", str(run), "--gpus", "0", *(word for text in SETTINGS for word in ("--set", text))]
    log, begun = run / "stages/1-finetune/log.jsonl", time.monotonic()
    with run.with_suffix(".log").open("wb") as said:
        child = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
    try:
        while not (log.exists() and '"loss"' in log.read_text()):
            if child.poll() is not None:
                raise SystemExit(run.with_suffix(".log").read_text()[-2000:])
            time.sleep(0.05)
        seconds, own = time.monotonic() - begun, _own_gib(child.pid)
    finally:
        child.kill()
        child.wait()
    return {"seconds": round(seconds, 1), "own_gib": round(own, 2)}


def _own_gib(process: int) -> float:
    """Memory that belongs to the process alone: the mapped rows are the system's cache."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    kib = sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))
    return kib / 2**20


def first_steps(folder: Path, count: int) -> dict[str, Any]:
    """Seconds from the command to the end of its first step, with ``count`` rows and with few.

    *again* is a second start on the same data: a resume, another run, another rank.
    """
    made_data(folder / "few", 512)
    made_data(folder / "many", count)
    size = (folder / "many" / ROWS).stat().st_size
    first_step(folder / "few", folder / "warm-run")  # the libraries are read from disk once
    found = {"few": first_step(folder / "few", folder / "few-run")}
    found |= {name: first_step(folder / "many", folder / f"{name}-run") for name in ("many", "again")}
    beyond = {name: found[name]["seconds"] - found["few"]["seconds"] for name in ("many", "again")}
    return {
        "rows": count,
        "file_gb": round(size / 1e9, 2),
        **found,
        "beyond_loading_s": {name: round(seconds, 1) for name, seconds in beyond.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[2].parent / "shared")
    parser.add_argument("--rows", type=int, default=2_400_000, help="rows of the made mixture")
    parser.add_argument(
        "--each", type=int, default=2000, help="real rows of each kind whose padding is counted"
    )
    parser.add_argument("--work", type=Path, help="where the made mixture is put (3 GB; removed afterwards)")
    given = parser.parse_args()
    tokenizer = load_tokenizer(given.shared / "golden/llama_tokenizer", "v4.31")
    processor = processor_of(ChatTokenizer(tokenizer, image_tokens=576, turn_tokens="v4.31"))
    lengths = []
    for row in real_rows(given.shared, given.each):
        conversation = Conversation.model_validate(row)
        length = len(encode(conversation, processor, max_length=CAPACITY).encoded.ids)
        lengths.append(length if conversation.image else -length)
    result: dict[str, Any] = {"non_padding": shares(lengths)}
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        result["first_step"] = first_steps(Path(folder), given.rows)
    print(json.dumps({**result, "goals": GOALS}, indent=1))


if __name__ == "__main__":
    main()
