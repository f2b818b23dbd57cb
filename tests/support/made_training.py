"""Recipes that several training tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from viscot_core.train.recipe.load import validate
from viscot_core.train.recipe.schema import Recipe


def golden_recipe(golden: Path, **finetune: Any) -> Recipe:
    """Both stages as the reference ran them on its tiny model (`golden_train_run_stage*.json`, argv)."""
    common = {
        "files": ["golden_train_run_data.json"],
        "template": "vicuna_v1",
        "epochs": 1,
        "global_batch_size": 4,
        "precision": "fp32",
        "workers": 0,
    }
    raw = {
        "name": "golden",
        "model": {
            "base_llm": str(golden / "tiny_vicuna"),
            "vision_tower": str(golden / "tiny_clip"),
            "projector": str(golden / "tiny_projector.bin"),
            "turn_tokens": "legacy",
        },
        "data": {"root": str(golden), "images": str(golden / "images")},
        "report_to": [],
        "stages": [
            {"kind": "pretrain", "train": ["projector"], "learning_rate": 1e-2, **common},
            {
                "kind": "finetune",
                "train": ["projector", "llm", "vision_tower"],
                "learning_rate": 2e-3,
                **common,
                **finetune,
            },
        ],
    }
    return validate(raw)
