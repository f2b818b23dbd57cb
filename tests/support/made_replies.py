"""Short stages of preferences and reinforcement of the bundled model, and their pairs.

``torchrun --nproc_per_node=2 made_replies.py DATA OUT MODE...`` writes each mode's run to ``OUT/MODE``:
``dpo-ddp``, ``grpo-zero2``, with ``lora-`` before it on adapters, with ``short-`` where every other pair is
too long to be learned, with ``two-`` where a forward pass has two pairs or questions instead of one. With
``few-`` a step of reinforcement asks more often than there are questions.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from viscot_core.models.zoo import resolve
from viscot_core.train.preferences.pairs import PairMessage, PreferencePair
from viscot_core.train.recipe.load import validate
from viscot_core.train.recipe.schema import Recipe

STEPS = 4
QUESTION = "<image>\nwhat number is on the red card?. Please provide the bounding box coordinate"
ANSWERING = "<image>\nNow answer."
REINFORCE = {
    "rewards": {"iou": 1.0, "format": 0.1}, "group": 3, "temperature": 1.2, "kl": 0.01, "max_new_tokens": 40,
}  # fmt: skip


def recipe_for(kind: str, data: Path, checkpoint: str | None = None, **change: Any) -> Recipe:
    """A stage of ``kind`` (dpo or grpo) of the bundled model, four steps of two rows each."""
    stage: dict[str, Any] = {
        "kind": kind, "train": ["projector", "llm"], "max_steps": STEPS, "global_batch_size": 2,
        "learning_rate": 1e-4, "precision": "fp32", "max_length": 512, "workers": 0, "save_steps": 2,
        "group_by": "none", "gradient_checkpointing": False,
    }  # fmt: skip
    raw = {
        "name": f"made-{kind}",
        "model": {"checkpoint": checkpoint or str(resolve(None)), "template": "tiny"},
        "data": {"root": str(data), "images": str(data), "preflight": 2, "allow_bad": 9},
        "report_to": [],
        "stages": [{**stage, **change}],
    }
    return validate(raw)


def pairs_in(data: Path) -> list[PreferencePair]:
    """Pairs about the images of ``data``: prompts of one image and of two, as turn 1 and turn 2 have them."""
    images = sorted(path.relative_to(data).as_posix() for path in data.rglob("*.jpg"))[:4]
    found = []
    for number, image in enumerate(images):
        prompt = [PairMessage(role="user", content=QUESTION)]
        shown, replies = [image], ("[0.100, 0.200, 0.300, 0.400]", "[0.500, 0.500, 0.900, 0.910]")
        if number % 2:
            prompt.append(PairMessage(role="assistant", content=replies[0]))
            prompt.append(PairMessage(role="user", content=ANSWERING))
            shown, replies = [image, f"{image}###[10, 10, 90, 90]"], ("7", "42")
        chosen, rejected = (PairMessage(role="assistant", content=text) for text in replies)
        found.append(
            PreferencePair(images=tuple(shown), prompt=tuple(prompt), chosen=(chosen,), rejected=(rejected,))
        )
    return found


def recipe_of(mode: str, data: Path) -> Recipe:
    """The recipe of a mode; ``one`` in the place of ``ddp`` is the same for one process."""
    words = mode.split("-")
    kind = "dpo" if "dpo" in words else "grpo"
    change: dict[str, Any] = {"per_device_batch_size": 1, "max_steps": 3}
    change["zero_stage"] = int(mode[-1]) if mode[-1].isdigit() else 0
    if "lora" in words:
        change |= {"lora": {"rank": 4, "alpha": 8, "dropout": 0.0}, "learning_rate": 1e-3}
    if "two" in words:
        change |= {"per_device_batch_size": 2}
    if "few" in words:
        change |= {"global_batch_size": 16}
    if "short" in words:
        change |= {"max_length": 120}
    if kind == "grpo":
        change |= {"files": ["chain.jsonl"], "reinforce": REINFORCE}
    return recipe_for(kind, data, **change)


def main(data: Path, out: Path, modes: list[str]) -> None:
    """Every mode, with the frameworks' global state cleared in between."""
    from accelerate.state import AcceleratorState, GradientState

    from viscot_core.processes import die_with_parent
    from viscot_core.train import ranks, worker

    die_with_parent()
    ranks.join()
    for mode in modes:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        (out / mode).mkdir(parents=True, exist_ok=True)
        worker.run(out / mode, recipe_of(mode, data))
    ranks.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
