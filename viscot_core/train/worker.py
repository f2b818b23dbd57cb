"""The training process: ``python -m viscot_core.train.worker --run RUN_DIR``.

Reads ``RUN_DIR/recipe.yaml`` (resolved; ``data.root`` set) and runs its stages in order. A finished stage leaves its
model in ``RUN_DIR/stages/N-KIND/model``; the last one also in ``RUN_DIR`` itself, which is then a checkpoint like
any other. Started again, it goes on behind the last finished stage, from the last checkpoint of the next.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from viscot_core.data.encode import training_turns
from viscot_core.data.scenes import Scene
from viscot_core.data.views import PixelCache, cached_pixels
from viscot_core.errors import UsageError
from viscot_core.models.manifest import Manifest
from viscot_core.models.scratch import build_model, train_tokenizer
from viscot_core.models.tokens import ChatTokenizer
from viscot_core.prompts import TEMPLATES, Template, render
from viscot_core.train.foundation import FoundationModel, whiten_projector
from viscot_core.train.rows import ChainRows, FoundationRows, read_conversations, read_scenes
from viscot_core.train.schema import Recipe, StageSpec
from viscot_core.train.stages import freeze_for
from viscot_core.train.trainer import StageTrainer

log = logging.getLogger(__name__)

DEFAULT_FILES = {"foundation": ("train.json",), "pretrain": ("pretrain.json",), "finetune": ("train.json",)}
TOKENIZER_ROWS = 4000
"""Rows whose words the scratch tokenizer is trained on."""


@dataclass
class Run:
    """What all stages share."""

    folder: Path
    recipe: Recipe
    root: Path
    tokens: ChatTokenizer
    model: Any

    @property
    def grid(self) -> int:
        vision = self.model.config.vision_config
        return int(vision.image_size // vision.patch_size)

    def manifest(self) -> Manifest:
        model = self.recipe.model
        return Manifest(
            name=self.recipe.name,
            template=model.template,
            turn_tokens=model.turn_tokens,
            image_side=self.model.config.vision_config.image_size,
        )


def run(folder: Path, recipe: Recipe) -> Path:
    """Run every stage that is not finished; returns the folder of the trained checkpoint."""
    root = Path(recipe.data.root or "")
    state = _start(folder, recipe, root)
    for number, stage in enumerate(recipe.stages, 1):
        out = folder / "stages" / f"{number}-{stage.kind}"
        if (out / "model" / "config.json").exists():
            log.info("stage %s is finished; going on", out.name)
            _load_weights(state.model, out / "model")
            continue
        _run_stage(state, stage, out)
    _save_checkpoint(state, state.model, folder)
    return folder


def _start(folder: Path, recipe: Recipe, root: Path) -> Run:
    """Tokenizer and initial weights: from nothing, the same on every start."""
    scratch = recipe.model.scratch
    if scratch is None:
        raise UsageError(
            "This worker starts from `model.scratch` only; base models come with the next release."
        )
    template = TEMPLATES[recipe.model.template]
    tokenizer_dir = folder / "tokenizer"
    if tokenizer_dir.exists():
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    else:
        tokenizer = _make_tokenizer(recipe, root, template)
        tokenizer.save_pretrained(tokenizer_dir)
    model = build_model(
        scratch, tokenizer, feature_layer=recipe.model.feature_layer, attention=recipe.model.attention,
        seed=recipe.seed,
    )  # fmt: skip
    patches = (scratch.image_side // scratch.patch) ** 2
    tokens = ChatTokenizer(tokenizer, image_tokens=patches, turn_tokens=recipe.model.turn_tokens)
    return Run(folder, recipe, root, tokens, model)


def _make_tokenizer(recipe: Recipe, root: Path, template: Template) -> Any:
    scratch = recipe.model.scratch
    assert scratch is not None
    rows = [row for path in _files(recipe, root) for row in read_conversations([path])[:TOKENIZER_ROWS]]
    texts = [
        chunk.text
        for row in rows
        for chunk in render(training_turns(row.turns), template).chunks
        if chunk.text
    ]
    return train_tokenizer(texts, vocab_size=scratch.vocab_size, max_positions=scratch.max_positions)


def _run_stage(state: Run, stage: StageSpec, out: Path) -> None:
    recipe = state.recipe
    counts = freeze_for(state.model, stage, recipe.model.feature_layer)
    log.info("stage %s: trainable values %s", out.name, counts)
    rows = _rows(state, stage)
    seed = recipe.seed if stage.seed is None else stage.seed
    batch = stage.per_device_batch_size or stage.global_batch_size
    model = state.model
    if stage.kind == "foundation":
        assert stage.foundation is not None
        torch.manual_seed(seed)
        model = FoundationModel(state.model, stage.foundation)
        if stage.foundation.whiten_projector:
            sample = [rows[i] for i in rows.order(batch, seed)[:256]]
            whiten_projector(state.model, rows.collate(sample)["pixel_values"])
    if stage.compile:
        # Every padded length and number of pictures is a shape of its own: more than the default eight.
        torch._dynamo.config.recompile_limit = 64
        state.model.model.vision_tower.compile(dynamic=False)
        if stage.kind != "foundation":
            state.model.model.language_model.compile(dynamic=False)
    trainer = StageTrainer(
        model=model,
        stage=stage,
        args=_arguments(stage, out, batch, len(rows), seed),
        rows=rows,
        collate=rows.collate,
        order=lambda epoch: rows.order(batch, seed + epoch),
        save=partial(_save_stage, state),
        load=_load_stage,
        log_file=_log_file(out),
    )
    trainer.train(resume_from_checkpoint=_last_checkpoint(out))
    partial_folder = out / "model.partial"
    _save_checkpoint(state, state.model, partial_folder)
    os.replace(partial_folder, out / "model")


def _rows(state: Run, stage: StageSpec) -> Any:
    root = state.root
    files = [root / name for name in stage.files or DEFAULT_FILES[stage.kind]]
    conversations = read_conversations(files)
    pixels = _pixels(state)
    scenes = read_scenes(root / "scenes.jsonl") if stage.foundation or stage.guide_attention else {}
    if stage.kind == "foundation":
        names = sorted({name for row in conversations for name in row.image})
        return _foundation_rows(stage, pixels, names, scenes, state.grid)
    template = TEMPLATES[
        stage.template or ("plain" if stage.kind == "pretrain" else state.recipe.model.template)
    ]
    return ChainRows(conversations, pixels, state.tokens, template, stage, scenes, state.grid)


def _foundation_rows(
    stage: StageSpec, pixels: PixelCache, names: list[str], scenes: dict[str, Scene], grid: int
) -> FoundationRows:
    assert stage.foundation is not None
    if not scenes:
        raise UsageError(
            "A foundation stage needs scenes.jsonl in the data root; make it with `viscot data synth`."
        )
    share = stage.foundation.sheet_share
    sheets = math.floor(len(names) * share / (1 - share)) if share < 1 else len(names)
    return FoundationRows(pixels, names, scenes, sheets=sheets, grid=grid)


def _pixels(state: Run) -> PixelCache:
    """The views of all stages in one cache beside the data."""
    files = _files(state.recipe, state.root)
    names = {name for path in files for row in read_conversations([path]) for name in row.image}
    side = state.model.config.vision_config.image_size
    return cached_pixels(state.root, names, side, state.root / ".cache", workers=os.cpu_count() or 1)


def _files(recipe: Recipe, root: Path) -> list[Path]:
    """Every training file of the recipe, each once."""
    names = dict.fromkeys(
        name for stage in recipe.stages for name in stage.files or DEFAULT_FILES[stage.kind]
    )
    return [root / name for name in names]


def _arguments(stage: StageSpec, out: Path, batch: int, rows: int, seed: int) -> Any:
    from transformers import TrainingArguments

    accumulation = max(1, stage.global_batch_size // batch)
    steps = stage.max_steps or math.ceil((stage.epochs or 1.0) * (rows // (batch * accumulation)))
    return TrainingArguments(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        learning_rate=stage.learning_rate,
        lr_scheduler_type=stage.schedule,
        warmup_steps=math.ceil(steps * stage.warmup_ratio),
        max_grad_norm=stage.max_grad_norm,
        bf16=stage.precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        save_steps=stage.save_steps,
        save_total_limit=stage.keep_checkpoints,
        logging_steps=stage.log_steps,
        logging_nan_inf_filter=False,
        dataloader_num_workers=stage.workers,
        dataloader_drop_last=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        seed=seed,
    )


def _log_file(out: Path) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    return out / "log.jsonl"


def _last_checkpoint(out: Path) -> str | None:
    """The newest complete checkpoint of a stage: the Trainer writes ``trainer_state.json`` last."""
    found = [p for p in out.glob("checkpoint-*") if (p / "trainer_state.json").exists()]
    newest = max(found, key=lambda p: int(p.name.split("-")[1]), default=None)
    return str(newest) if newest else None


def _save_stage(state: Run, model: torch.nn.Module, folder: Path) -> None:
    if isinstance(model, FoundationModel):
        torch.save(model.heads.state_dict(), folder / "heads.pt")
        model = model.llava
    _save_checkpoint(state, model, folder)


def _load_stage(model: torch.nn.Module, folder: Path) -> None:
    if isinstance(model, FoundationModel):
        model.heads.load_state_dict(torch.load(folder / "heads.pt", weights_only=True))
        model = model.llava
    _load_weights(model, folder)


def _save_checkpoint(state: Run, model: Any, folder: Path) -> None:
    """A folder that ``infer`` and ``bench`` take: weights under module names, tokenizer, manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, save_original_format=False)
    state.tokens.hf.save_pretrained(folder)
    state.manifest().save(folder)


def _load_weights(model: Any, folder: Path) -> None:
    from safetensors.torch import load_file

    missing, unexpected = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    if unexpected or set(missing) - tied:
        raise UsageError(f"{folder} does not fit this recipe: missing {missing}, unexpected {unexpected}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="run folder with recipe.yaml")
    folder: Path = parser.parse_args().run
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    from viscot_core.train.recipe import load_recipe

    run(folder, load_recipe(folder / "recipe.yaml"))


if __name__ == "__main__":
    main()
