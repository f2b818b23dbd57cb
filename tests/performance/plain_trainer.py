"""Training steps of viscot beside transformers' own Trainer on the same rows, in one process on a CPU.

    python tests/performance/plain_trainer.py [--rows 128] [--threads 1] [--width 192]

A small random model that reads images as LLaVA-1.5 does (576 tokens each) and made rows as long as those of
the published mixture, in its shares: 373 chains with two images, 1,400 boxes for a phrase, 625 talks about an
image and 40 without one. Chains and boxes have the lengths that the public annotation files give with LLaMA's
tokenizer (about 1,270 and 670 tokens; `training.py` counts them); talks, whose file is not public here, the
plan's spread of lengths (200 tokens of text on average, log-normal, 0.6).

*plain*: transformers' Trainer, rows padded to the longest of their batch in random order, the model's own
loss. *grouped*: the same with its option ``group_by_length``, which chooses other batches. *viscot*: the
worker as `viscot finetune` starts it: packed, each sample attends to itself only, and the head runs at
learned tokens. All read the same rows once, 16 to a step; the first step is not counted. Prints one JSON
object: real tokens a second of CPU time, the share of a batch that is not padding, the mean loss, and how
much of the ratio is padding and how much is computing a cell faster.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parents[1]), *sys.path, str(HERE)]

import torch  # noqa: E402
from PIL import Image  # noqa: E402
from training import BOX, IMAGES, ROWS, SETTINGS, WORDS, turns  # noqa: E402

from viscot_core.conversation import BOX_REQUEST, IMAGE  # noqa: E402
from viscot_core.train import worker  # noqa: E402
from viscot_core.train.loop.mixture_dataset import EncodedRow, MixtureDataset  # noqa: E402
from viscot_core.train.loop.throughput import Meter  # noqa: E402
from viscot_core.train.recipe.load import load_recipe  # noqa: E402
from viscot_core.train.recipe.schema import Recipe  # noqa: E402
from viscot_core.train.state.initial import load, open_run  # noqa: E402

GOAL = 1.3
BATCH = 16
TAKEN = ("input_ids", "attention_mask", "labels", "pixel_values")
SHARES = {"chain": 373, "box": 1400, "talk": 625, "text": 40}
"""Thousands of rows: the README of Visual-CoT (665 K of LLaVA-1.5, of them 40 K without an image)."""
SIDE, MOST = 336, 2048


# -- rows ----------------------------------------------------------------------------------------------------


def mixture(root: Path, count: int) -> None:
    """A data root of ``count`` rows in the shares of `SHARES`, in random order; eight shared images."""
    draw = random.Random(0)
    root.mkdir()
    for number in range(IMAGES):
        Image.new("RGB", (640, 480), (30 * number, 99, 180)).save(root / f"{number}.jpg")
    ends = {kind: share / sum(SHARES.values()) for kind, share in SHARES.items()}
    kinds = [kind for kind, share in ends.items() for _ in range(max(1, round(share * count)))]
    kinds = (kinds + ["box"] * count)[:count]
    draw.shuffle(kinds)
    rows = [_row(draw, kind, number) for number, kind in enumerate(kinds)]
    (root / ROWS).write_text(json.dumps(rows))


def _row(draw: random.Random, kind: str, number: int) -> dict[str, Any]:
    """One row; a word is a token, a box about 30."""
    image, text = f"{number % IMAGES}.jpg", {"id": str(number)}
    if kind == "chain":
        asked = f"{IMAGE}\n{_words(draw, 50 + draw.expovariate(0.1))} {BOX_REQUEST}"
        said = turns(asked, BOX, IMAGE, _words(draw, draw.randrange(1, 7)))
        return {**text, "image": [image, f"{image}###[{number % 300}, 40, 420, 200]"], "conversations": said}
    if kind == "box":
        return {
            **text,
            "image": image,
            "conversations": turns(f"{IMAGE}\n{_words(draw, 60 + draw.expovariate(0.2))}", BOX),
        }
    most = MOST - 576 - 40
    half = min(draw.lognormvariate(math.log(200) - 0.18, 0.6), most) / 2
    first = f"{IMAGE}\n" if kind == "talk" else ""
    said = turns(first + _words(draw, half), _words(draw, half))
    return {**text, **({"image": image} if first else {}), "conversations": said}


def _words(draw: random.Random, count: float) -> str:
    return " ".join(draw.choices(WORDS, k=max(1, round(count))))


def recipe_of(root: Path, width: int) -> Recipe:
    """Everything learns, fp32, one pass over the rows."""
    sets = [one for one in SETTINGS if "vision_" not in one and "llm_" not in one and "image_side" not in one]
    shape = {
        "image_side": SIDE, "vision_width": width // 2, "vision_layers": 3, "vision_heads": 4,
        "vision_mlp": 2 * width, "llm_width": width, "llm_layers": 4, "llm_heads": 4, "llm_mlp": 3 * width,
    }  # fmt: skip
    sets += [f"model.scratch.{name}={value}" for name, value in shape.items()]
    sets += ["stages.finetune.precision=fp32", "stages.finetune.workers=0"]
    sets += [f"data.root={root}", f"data.images={root}", "data.preflight=0", "report_to=[]"]
    sets += ["stages.finetune.packing=null", "model.attention=sdpa"]
    recipe = load_recipe("tiny", sets)
    return recipe.model_copy(update={"stages": (recipe.stage("finetune"),)})


# -- both trainers -------------------------------------------------------------------------------------------


def ours(recipe: Recipe, folder: Path) -> dict[str, float]:
    """tokens/s and mean loss as the log says them, the first step left out."""
    clock: list[float] = []
    read = Meter.read

    def clocked(meter: Meter, step: int) -> dict[str, float]:
        clock.append(time.process_time())
        return read(meter, step)

    Meter.read = clocked  # type: ignore[method-assign]
    worker.run(folder, recipe)
    Meter.read = read  # type: ignore[method-assign]
    (log,) = (folder / "stages").glob("*/log.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [line for line in lines if "tokens_per_second" in line]
    seconds = [BATCH / step["samples_per_second"] for step in steps]
    tokens = [step["tokens_per_second"] * took for step, took in zip(steps, seconds, strict=True)]
    return {
        "tokens_s": round(sum(tokens[1:]) / (clock[-1] - clock[0])),
        "non_padding": round(sum(s["non_padding"] for s in steps) / len(steps), 3),
        "loss": round(sum(step["loss"] for step in steps) / len(steps), 4),
    }


def plain(recipe: Recipe, folder: Path, *, grouped: bool = False) -> dict[str, float]:
    """The same rows and weights under transformers' Trainer."""
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.trainer_pt_utils import LengthGroupedSampler

    (stage,) = recipe.stages
    stage = stage.model_copy(update={"packing": False})
    run = open_run(folder, recipe)
    load(run, stage)
    for name, parameter in run.model.named_parameters():
        parameter.requires_grad = run.training.gets_gradient(name, run.model.config)
    files = [run.root / name for name in stage.data_files]
    rows = MixtureDataset(files, run.images, run.processor_for(stage), stage)
    tokens, places = [], []

    def collate(items: list[Any]) -> dict[str, Any]:
        batch = rows.collate(items)
        tokens.append(int(batch["attention_mask"].sum()))
        places.append(batch["attention_mask"].numel())
        return {name: batch[name] for name in TAKEN if name in batch}

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.process_time())

    class Grouped(Trainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            """As transformers does it for a data set that has a column of lengths."""
            return LengthGroupedSampler(BATCH, lengths=lengths(rows))

    args = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=BATCH, num_train_epochs=1, use_cpu=True,
        learning_rate=stage.learning_rate, lr_scheduler_type="cosine", warmup_steps=stage.warmup_ratio,
        remove_unused_columns=False, report_to=[], save_strategy="no", logging_steps=1, disable_tqdm=True,
        dataloader_drop_last=True, seed=recipe.seed,
    )  # fmt: skip
    kind = Grouped if grouped else Trainer
    trainer = kind(model=run.model, args=args, train_dataset=rows, data_collator=collate, callbacks=[Clock()])
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return {
        "tokens_s": round(sum(tokens[1 : len(ends)]) / (ends[-1] - ends[0])),
        "non_padding": round(sum(tokens) / sum(places), 3),
        "loss": round(sum(losses) / len(losses), 4),
    }


def lengths(rows: MixtureDataset) -> list[int]:
    """Tokens of each row."""
    found = [rows[number] for number in range(len(rows))]
    return [len(row.sample.encoded.ids) for row in found if isinstance(row, EncodedRow)]


def beside(plain: dict[str, float], viscot: dict[str, float]) -> dict[str, float]:
    """The ratio of tokens a second, and its two factors."""
    ratio, padding = viscot["tokens_s"] / plain["tokens_s"], viscot["non_padding"] / plain["non_padding"]
    return {"ratio": round(ratio, 2), "by_padding": round(padding, 2), "by_cell": round(ratio / padding, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--width", type=int, default=192, help="of the language model")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        mixture(root, given.rows)
        recipe = recipe_of(root, given.width)
        found = {
            "plain": plain(recipe, Path(folder) / "plain"),
            "viscot": ours(recipe, Path(folder) / "run"),
            "grouped": plain(recipe, Path(folder) / "grouped", grouped=True),
        }
    against = {name: beside(found[name], found["viscot"]) for name in ("plain", "grouped")}
    print(json.dumps({**found, "against": against, "goal": GOAL}, indent=1))


if __name__ == "__main__":
    main()
