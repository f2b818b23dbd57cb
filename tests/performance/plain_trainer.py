"""Training steps of viscot beside transformers' own Trainer on the same rows, in one process on a CPU.

    python tests/performance/plain_trainer.py [--rows 192] [--threads 1] [--width 256]

A random model (64 tokens an image) and rows of the lengths that real ones have: a sixteenth without an image,
half chains of four turns, half questions. *Plain*: transformers' Trainer, rows padded to the longest of their
batch in random order, the model's own loss. *viscot*: the worker as `viscot finetune` starts it; packed, and
the head at learned tokens only. Both read the same rows once, 16 to a step; the first step is not counted.
Prints one JSON object: real tokens a second of CPU time, their ratio, and the mean loss of both.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parents[1]), *sys.path, str(HERE)]

import torch  # noqa: E402
from training import SETTINGS, made_data  # noqa: E402

from viscot_core.train import worker  # noqa: E402
from viscot_core.train.loop.mixture_dataset import MixtureDataset  # noqa: E402
from viscot_core.train.loop.throughput import Meter  # noqa: E402
from viscot_core.train.recipe.load import load_recipe  # noqa: E402
from viscot_core.train.recipe.schema import Recipe  # noqa: E402
from viscot_core.train.state.initial import load, open_run  # noqa: E402

GOAL = 1.3
BATCH = 16
TAKEN = ("input_ids", "attention_mask", "labels", "pixel_values")


def recipe_of(root: Path, width: int) -> Recipe:
    """Everything learns, fp32, one pass over the rows."""
    sets = [one for one in SETTINGS if "vision_" not in one and "llm_" not in one and "image_side" not in one]
    sets += ["model.scratch.image_side=112", f"model.scratch.vision_width={width // 2}"]
    sets += [
        "model.scratch.vision_layers=3",
        "model.scratch.vision_heads=4",
        f"model.scratch.llm_width={width}",
    ]
    sets += [
        f"model.scratch.vision_mlp={2 * width}",
        "model.scratch.llm_layers=4",
        "model.scratch.llm_heads=4",
    ]
    sets += [
        f"model.scratch.llm_mlp={3 * width}",
        "stages.finetune.precision=fp32",
        "stages.finetune.workers=0",
    ]
    sets += [f"data.root={root}", f"data.images={root}", "data.preflight=0", "report_to=[]"]
    sets += ["stages.finetune.packing=null", "model.attention=sdpa"]
    recipe = load_recipe("tiny", sets)
    return recipe.model_copy(update={"stages": (recipe.stage("finetune"),)})


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


def plain(recipe: Recipe, folder: Path) -> dict[str, float]:
    """The same rows and weights under transformers' Trainer."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

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

    args = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=BATCH, num_train_epochs=1, use_cpu=True,
        learning_rate=stage.learning_rate, lr_scheduler_type="cosine", warmup_steps=stage.warmup_ratio,
        remove_unused_columns=False, report_to=[], save_strategy="no", logging_steps=1, disable_tqdm=True,
        dataloader_drop_last=True, seed=recipe.seed,
    )  # fmt: skip
    trainer = Trainer(
        model=run.model, args=args, train_dataset=rows, data_collator=collate, callbacks=[Clock()]
    )
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return {
        "tokens_s": round(sum(tokens[1 : len(ends)]) / (ends[-1] - ends[0])),
        "non_padding": round(sum(tokens) / sum(places), 3),
        "loss": round(sum(losses) / len(losses), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=192)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--width", type=int, default=256, help="of the language model")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        made_data(root, given.rows)
        recipe = recipe_of(root, given.width)
        found = {"plain": plain(recipe, Path(folder) / "plain"), "viscot": ours(recipe, Path(folder) / "run")}
    ratio = found["viscot"]["tokens_s"] / found["plain"]["tokens_s"]
    print(json.dumps({**found, "ratio": round(ratio, 2), "goal": GOAL}, indent=1))


if __name__ == "__main__":
    main()
