"""The command line's options applied to a recipe: which stages, the user's own data, adapters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from viscot_core.errors import UsageError
from viscot_core.files import expanded
from viscot_core.train.recipe.load import load_recipe
from viscot_core.train.recipe.schema import Recipe, StageKind

Want = Literal["all", "pretrain", "finetune", "dpo", "grpo"]
LORA_RATES = {"learning_rate": "2e-4", "projector_lr": "2e-5"}
"""From LLaVA-1.5's ``scripts/v1_5/finetune_lora.sh``: adapters start at 0 and may learn faster."""


@dataclass(frozen=True, slots=True)
class EvalChoice:
    """What ``--eval-data``, ``--eval-split`` and ``--eval-steps`` say; None where they are not given."""

    data: str | Path | None = None
    split: float | None = None
    steps: int | None = None

    def overrides(self, stage: str) -> list[str]:
        """As settings of the stage of that kind."""
        found: dict[str, object] = {"split": self.split, "steps": self.steps}
        if self.data is not None:
            path = expanded(self.data).absolute()
            if not path.exists():
                raise UsageError(f"There is no file {path}; --eval-data is one of held-out rows.")
            found["file"] = json.dumps(str(path))
        return [f"stages.{stage}.eval.{name}={value}" for name, value in found.items() if value is not None]


@dataclass(frozen=True, slots=True)
class DataChoice:
    """Where rows and images are: a data root, or one file of rows and the folder of its images."""

    root: Path
    images: Path
    file: str | None = None


def choose_data(recipe: Recipe, data: str | Path | None, images: str | Path | None) -> DataChoice:
    """``--data`` (a root or a JSON/JSONL file) and ``--images``, else the recipe's own; absolute paths.

    `UsageError` where neither names the data.
    """
    given = data or recipe.data.root
    if given is None:
        raise UsageError("The data root is not known; give --data DIR (or set data.root in the recipe).")
    path = expanded(given).absolute()
    folder = images or recipe.data.images
    if path.is_file():
        root = path.parent
        return DataChoice(root, expanded(folder).absolute() if folder else root, path.name)
    return DataChoice(path, expanded(folder).absolute() if folder else path)


def overrides(
    recipe: Recipe,
    want: Want,
    data: DataChoice,
    *,
    lora: int | None = None,
    load_in: str | None = None,
    allow_bad: int | None = None,
    report_to: str | None = None,
    evaluation: EvalChoice | None = None,
) -> list[str]:
    """The command line's options as ``a.b=c`` overrides, so that all settings are validated in one place."""
    kinds = [stage.kind for stage in recipe.stages]
    found: list[str] = []
    own = kinds[-1] if want == "all" else want  # the stage that reads the user's own rows
    if data.file and own in kinds:
        found.append(f"stages.{own}.files={json.dumps([data.file])}")
    if (lora or load_in) and "finetune" in kinds:
        rank = lora or 128
        # alpha is twice the rank, as in LLaVA-1.5's LoRA recipe (128 and 256).
        found += [f"stages.finetune.lora.rank={rank}", f"stages.finetune.lora.alpha={2 * rank}"]
        # Adapters train the language model; the tower stays as it is, as in LLaVA-1.5's LoRA recipe.
        found.append("stages.finetune.train=[projector, llm]")
        found += ["stages.finetune.vision_tower_lr=null", "stages.finetune.vision_layer_decay=null"]
        found += [f"stages.finetune.{name}={rate}" for name, rate in LORA_RATES.items()]
        if load_in:
            # Quantised weights cannot be divided, so ZeRO-3 is out (`checks.py`).
            found += [f"stages.finetune.lora.load_in={load_in}", "stages.finetune.zero_stage=2"]
    if evaluation is not None and (asked := evaluation.overrides(own)):
        if own not in kinds:
            raise UsageError(f"The recipe has no {own} stage to evaluate; leave the --eval options out.")
        found += asked
    if allow_bad is not None:
        found.append(f"data.allow_bad={allow_bad}")
    if report_to is not None:
        found.append(f"report_to=[{report_to}]")
    return found


def choose_stages(recipe: Recipe, want: Want, *, keep_projector: bool = False) -> tuple[Recipe, list[str]]:
    """The recipe with the stages that will run, and notes on what else changes.

    With a projector in the recipe ``viscot train`` skips pretraining. ``viscot pretrain`` ignores it and
    trains a new one, unless ``keep_projector``.
    """
    if want != "all":
        stage = recipe.stage(want)
        if want == "pretrain" and recipe.model.projector and not keep_projector:
            given = recipe.model.projector
            note = f"a new projector is trained (--set model.projector={given} continues from the recipe's)"
            model = recipe.model.model_copy(update={"projector": None})
            return recipe.model_copy(update={"stages": (stage,), "model": model}), [note]
        if want == "finetune" and recipe.model.base_llm and not recipe.model.projector:
            raise UsageError(
                "Fine-tuning needs a projector: give --set model.projector=RUN/projector.safetensors "
                "(viscot pretrain makes one), or run viscot train for both stages."
            )
        return recipe.model_copy(update={"stages": (stage,)}), []
    kinds: list[StageKind] = [stage.kind for stage in recipe.stages]
    if recipe.model.projector and "pretrain" in kinds and len(kinds) > 1:
        kept = tuple(stage for stage in recipe.stages if stage.kind != "pretrain")
        note = f"pretrain is skipped: the projector comes from {recipe.model.projector}"
        return recipe.model_copy(update={"stages": kept}), [f"{note} (--set model.projector=null trains one)"]
    return recipe, []


def before_evaluation(sets: Sequence[str]) -> list[str]:
    """``--set`` without settings of ``eval``, which only make sense with what ``--eval-data`` says."""
    return [text for text in sets if ".eval." not in text.partition("=")[0]]


def resolve(
    name: str | Path,
    sets: Sequence[str],
    want: Want,
    data: str | Path | None,
    images: str | Path | None,
    *,
    lora: int | None = None,
    load_in: str | None = None,
    allow_bad: int | None = None,
    report_to: str | None = None,
    evaluation: EvalChoice | None = None,
) -> tuple[Recipe, DataChoice, list[str]]:
    """The recipe that will run, where its data is, and notes on what the options changed."""
    recipe = load_recipe(name, before_evaluation(sets))
    place = choose_data(recipe, data, images)
    extra = overrides(
        recipe, want, place, lora=lora, load_in=load_in, allow_bad=allow_bad, report_to=report_to,
        evaluation=evaluation,
    )  # fmt: skip
    # --set stands last and so wins over what the other options set.
    recipe = load_recipe(name, [*extra, *sets]) if extra or sets else recipe
    given_projector = any(text.partition("=")[0].strip() == "model.projector" for text in sets)
    recipe, notes = choose_stages(recipe, want, keep_projector=given_projector)
    if (lora or load_in) and "finetune" not in [stage.kind for stage in recipe.stages]:
        raise UsageError("--lora and --load-in change the finetune stage, which does not run here.")
    if lora or load_in:
        rates = ", ".join(f"{name} {rate}" for name, rate in LORA_RATES.items())
        notes.append(f"--lora takes the rates of LLaVA-1.5's LoRA recipe, unless --set changes them: {rates}")
    where = recipe.data.model_copy(update={"root": str(place.root), "images": str(place.images)})
    return recipe.model_copy(update={"data": where}), place, notes
