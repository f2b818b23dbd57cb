"""What each process of the multi-process tests runs: the same tiny training in several modes.

``torchrun --nproc_per_node=2 tests/made_job.py DATA OUT MODE...`` writes each mode's run to ``OUT/MODE``. A
mode is ``ddp``, ``zero1`` .. ``zero3``; ``mixed-`` before it trains on rows of which some have no image,
packed, in random order, so that one rank's batch has images and the other's has none; ``base-`` trains the
golden Vicuna and CLIP of the folder ``VISCOT_TEST_GOLDEN`` instead; ``tune-`` runs its last stage only, in
bf16 where ``bf16-`` follows, on adapters with ``lora-``, with a frozen projector with ``frozen-``; ``eval-``
continues the bundled model on ``chain.jsonl`` and evaluates it on ``held_out.jsonl``, every second step.
``VISCOT_TEST_STEPS`` is the number of steps of each stage.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from made_training import golden_recipe

from viscot_core.data.convert import convert
from viscot_core.data.synth import write_dataset
from viscot_core.models.zoo import resolve
from viscot_core.processes import die_with_parent
from viscot_core.train import ranks, worker
from viscot_core.train.recipe.load import load_recipe, validate
from viscot_core.train.recipe.schema import LoraSpec, Recipe

SHAPE = [
    "model.scratch.image_side=56", "model.scratch.vision_width=24", "model.scratch.vision_layers=2",
    "model.scratch.vision_heads=2", "model.scratch.vision_mlp=48", "model.scratch.llm_width=24",
    "model.scratch.llm_layers=2", "model.scratch.llm_heads=2", "model.scratch.llm_mlp=48",
]  # fmt: skip
STEPS = int(os.environ.get("VISCOT_TEST_STEPS", "4"))


def recipe_of(mode: str, data: Path) -> Recipe:
    """The tiny recipe's alignment and fine-tuning stages in a smaller shape."""
    zero = int(mode[-1]) if mode[-1].isdigit() else 0
    if mode.startswith("eval-"):
        return evaluated(data, zero)
    if mode.startswith(("base-", "tune-")):
        return _golden(zero, set(mode.split("-")))
    fields = {"max_steps": STEPS, "save_steps": 2, "global_batch_size": 4, "log_steps": 1, "workers": 0}
    fields |= {"compile": "false", "precision": "fp32", "zero_stage": zero, "learning_rate": 2e-3}
    sets = [
        f"stages.{kind}.{name}={value}" for kind in ("pretrain", "finetune") for name, value in fields.items()
    ]
    sets += [f"data.root={data}", f"data.images={data}", "report_to=[]", *SHAPE]
    if mode.startswith("mixed-"):
        sets += ["stages.finetune.packing=true", "stages.finetune.files=[mixed.json]", "data.preflight=4"]
        sets += ["stages.finetune.guide_attention=null", "stages.finetune.token_weights=null"]
    recipe = load_recipe("tiny", sets)
    kinds = ("finetune",) if mode.startswith("mixed-") else ("pretrain", "finetune")
    return recipe.model_copy(update={"stages": tuple(s for s in recipe.stages if s.kind in kinds)})


def _golden(zero: int, words: set[str]) -> Recipe:
    recipe = golden_recipe(Path(os.environ["VISCOT_TEST_GOLDEN"]))
    change: dict[str, Any] = {"max_steps": STEPS, "epochs": None, "save_steps": 2, "zero_stage": zero}
    if "tune" not in words:
        stages = tuple(stage.model_copy(update=change) for stage in recipe.stages)
        return recipe.model_copy(update={"stages": stages})
    lora = "lora" in words
    parts = ["llm"] + ["projector"] * ("frozen" not in words) + ["vision_tower"] * (not lora)
    change |= {"precision": "bf16" if "bf16" in words else "fp32", "train": tuple(parts)}
    change |= {"lora": LoraSpec(rank=4, alpha=8.0, dropout=0.0)} if lora else {}
    return recipe.model_copy(update={"stages": (recipe.stages[-1].model_copy(update=change),)})


def evaluated(data: Path, zero: int = 0, **change: Any) -> Recipe:
    """The bundled model goes on learning, with figures of held-out rows while it does."""
    stage: dict[str, Any] = {
        "kind": "finetune", "files": ["chain.jsonl"], "train": ["projector", "llm"], "max_steps": STEPS,
        "global_batch_size": 4, "learning_rate": 2e-3, "precision": "fp32", "max_length": 512, "workers": 0,
        "save_steps": 2, "zero_stage": zero,
        "eval": {"file": "held_out.jsonl", "steps": 2, "questions": 6, "best": "iou", "max_new_tokens": 32},
    }  # fmt: skip
    raw = {
        "name": "evaluated",
        "model": {"checkpoint": str(resolve(None)), "template": "tiny"},
        "data": {"root": str(data), "images": str(data), "preflight": 4},
        "report_to": [],
        "stages": [{**stage, **change}],
    }
    return validate(raw)


def held_out_data(root: Path, *, train: int = 12, held_out: int = 7) -> Path:
    """A made data root whose chains are divided into ``chain.jsonl`` and ``held_out.jsonl``."""
    write_dataset(root, train=train + held_out, val=1, seed=9)
    convert([root / "metadata/synth_cot_train.jsonl"], root / "all.jsonl")
    rows = (root / "all.jsonl").read_text().splitlines(keepends=True)
    (root / "held_out.jsonl").write_text("".join(rows[:held_out]))
    (root / "chain.jsonl").write_text("".join(rows[held_out:]))
    return root


def losses(run: Path, stage: str) -> list[float]:
    """The losses of one stage's steps, from its log."""
    (log,) = (run / "stages").glob(f"*-{stage}/log.jsonl")
    lines = map(json.loads, log.read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def job(processes: int, data: Path, out: Path, modes: list[str], *, launched: bool = False) -> None:
    """Run this file: by itself for one process that is not ``launched``, under torchrun for others."""
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone"]
    argv = [sys.executable, *(launcher if processes > 1 or launched else []), __file__, str(data), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*argv, *modes], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def main(data: Path, out: Path, modes: list[str]) -> None:
    """Every mode, with the frameworks' global state cleared in between."""
    from accelerate.state import AcceleratorState, GradientState

    if "RANK" in os.environ:
        die_with_parent()
    ranks.join()
    for mode in modes:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        run = out / mode
        run.mkdir(parents=True, exist_ok=True)
        worker.run(run, recipe_of(mode, data))
    ranks.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
