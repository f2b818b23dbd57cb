"""Where a run's weights and tokenizer come from: from nothing, from a base model and a tower, from a
checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from viscot_core.data.annotations import Conversation, Rows
from viscot_core.data.encode import training_turns
from viscot_core.errors import CheckpointError, UsageError
from viscot_core.models import layouts, parts, zoo
from viscot_core.models.checkpoint import Checkpoint, Source, compare, expected_shapes, open_checkpoint
from viscot_core.models.layouts import Layout
from viscot_core.models.load import build, load_tokens
from viscot_core.models.manifest import Manifest
from viscot_core.models.scratch import build_model, train_tokenizer
from viscot_core.models.tokenizer import token_count
from viscot_core.models.tokens import ChatTokenizer
from viscot_core.models.weights import open_file, open_weights
from viscot_core.prompts import TEMPLATES, render
from viscot_core.train import ranks
from viscot_core.train.mixed import allow_mixed_batches
from viscot_core.train.schema import ModelSpec, Recipe, StageSpec

TOKENIZER_ROWS = 4000
"""Rows whose words the scratch tokenizer is trained on."""
ATTENTION = {"sdpa": "sdpa", "eager": "eager", "flash_attention_2": "flash"}


@dataclass
class Run:
    """What all stages share. ``base`` is where the weights came from; None for a model from nothing."""

    folder: Path
    recipe: Recipe
    root: Path
    images: Path
    tokens: ChatTokenizer
    model: Any
    base: Checkpoint | None = None

    @property
    def grid(self) -> int:
        """Patches along a side."""
        vision = self.model.config.vision_config
        return int(vision.image_size // vision.patch_size)

    @property
    def side(self) -> int:
        """Side of the tower's input, pixels."""
        return int(self.model.config.vision_config.image_size)

    def manifest(self) -> Manifest:
        """The manifest of every checkpoint of this run."""
        model = self.recipe.model
        turn_tokens = self.base.manifest.turn_tokens if self.base else model.turn_tokens
        return Manifest(
            name=self.recipe.name, template=model.template, turn_tokens=turn_tokens, image_side=self.side
        )


def start(folder: Path, recipe: Recipe, stage: StageSpec) -> Run:
    """Tokenizer and initial weights, the same on every start; ``stage`` says in which precision they are
    held.
    """
    root = Path(recipe.data.root or "")
    images = Path(recipe.data.images or root)
    if recipe.model.scratch:
        tokens, model = _from_nothing(folder, recipe, root)
        base = None
    else:
        base = open_base(recipe.model)
        tokens = load_tokens(base)
        torch.manual_seed(recipe.seed)  # a projector that is not given starts at random
        load_in = stage.lora.load_in if stage.lora else None
        attention = ATTENTION[recipe.model.attention]
        model = build(base, _device(load_in), weights_dtype(stage), load_in, attention)
    allow_mixed_batches(model)
    disable_progress_bar()
    return Run(folder, recipe, root, images, tokens, model, base)


def weights_dtype(stage: StageSpec) -> torch.dtype:
    """fp32 under autocast; 16 bit where DeepSpeed keeps the fp32 copy or the base is frozen under
    adapters.
    """
    held_16 = stage.precision != "fp32" and (stage.zero_stage > 0 or bool(stage.lora and stage.lora.load_in))
    if not held_16:
        return torch.float32
    return torch.float16 if stage.precision == "fp16" else torch.bfloat16


def _device(load_in: str | None) -> str:
    """DeepSpeed and the Trainer place the weights; a quantised model is on its GPU from the start."""
    return f"cuda:{torch.cuda.current_device()}" if load_in and torch.cuda.is_available() else "cpu"


def locate(model: ModelSpec) -> None:
    """`CheckpointError` for the first part of the model that is not on this machine."""
    if model.scratch is None:
        open_base(model)


def open_base(model: ModelSpec) -> Checkpoint:
    """The recipe's model as one checkpoint: headers only are read.

    Raises:
        CheckpointError: a part is not on this machine, a projector of another width, no tokenizer.
    """
    if model.checkpoint:
        found = open_checkpoint(zoo.resolve(model.checkpoint))
        found.require_whole()
        return found
    llm = zoo.resolve(model.base_llm)
    tower_folder = zoo.resolve(model.vision_tower)
    raw = parts.read_json(llm / "config.json") | {
        "mm_projector_type": model.projector_type,
        "mm_vision_select_layer": model.feature_layer,
        "mm_vision_select_feature": "patch",
        "mm_vision_tower": str(model.vision_tower),
        "_name_or_path": str(model.base_llm),
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
    }
    stated = parts.read_json(tower_folder / "config.json")
    config = layouts.config_from_llava(raw, stated.get("vision_config", stated), token_count(llm))
    tensors = _tensors(open_weights(llm), Layout.LLAVA)
    tensors |= _tower_tensors(tower_folder)
    if model.projector:
        tensors |= _projector_tensors(model.projector)
    rows = int(raw["vocab_size"])
    wanted = config.text_config.vocab_size
    for name in ("model.language_model.embed_tokens.weight", "lm_head.weight"):
        if name in tensors and rows < wanted:
            tensors[name] = Source(tensors[name].stored, rows=wanted)
    side = int(config.vision_config.image_size)
    manifest = Manifest(
        name=llm.name, template=model.template, turn_tokens=model.turn_tokens, image_side=side
    )
    found = Checkpoint(llm, Layout.LLAVA, raw, config, manifest, tensors, rows, llm)
    compare(found, expected_shapes(config))
    if not model.projector:
        found.missing = [name for name in found.missing if ".multi_modal_projector." not in name]
    found.require_whole()
    return found


def _tensors(stored: Any, layout: Layout) -> dict[str, Source]:
    named = ((layouts.module_name(name, layout), tensor) for name, tensor in stored.items())
    return {module: Source(tensor) for module, tensor in named if module is not None}


def _tower_tensors(folder: Path) -> dict[str, Source]:
    named = ((layouts.clip_module_name(name), tensor) for name, tensor in open_weights(folder).items())
    return {module: Source(tensor) for module, tensor in named if module is not None}


def _projector_tensors(name: str) -> dict[str, Source]:
    """A projector by file, folder or pulled hub name; the reference's names and ours are read."""
    path = Path(name).expanduser()
    if not path.is_file():
        folder = path if path.is_dir() else zoo.resolve(name)
        files = ("projector.safetensors", *parts.PROJECTOR_FILES)
        present = [folder / file for file in files if (folder / file).exists()]
        if not present:
            raise CheckpointError(f"{folder} holds no projector ({', '.join(files)}); name the file itself.")
        path = present[0]
    found = {}
    for stored_name, tensor in open_file(path).items():
        short = stored_name.split("mm_projector.")[-1].split("multi_modal_projector.")[-1]
        layer, _, kind = short.partition(".")
        place = {"0": "linear_1", "2": "linear_2"}.get(layer, layer)
        found[f"model.multi_modal_projector.{place}.{kind}"] = Source(tensor)
    return found


def _from_nothing(folder: Path, recipe: Recipe, root: Path) -> tuple[ChatTokenizer, Any]:
    scratch = recipe.model.scratch
    assert scratch is not None
    home = folder / "tokenizer"
    with ranks.first_alone():
        if not home.exists():
            tokenizer = _make_tokenizer(recipe, root)
            tokenizer.save_pretrained(folder / "tokenizer.partial")
            (folder / "tokenizer.partial").replace(home)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(home)
    model = build_model(
        scratch, tokenizer, feature_layer=recipe.model.feature_layer, attention=recipe.model.attention,
        seed=recipe.seed,
    )  # fmt: skip
    patches = (scratch.image_side // scratch.patch) ** 2
    return ChatTokenizer(tokenizer, image_tokens=patches, turn_tokens=recipe.model.turn_tokens), model


def _make_tokenizer(recipe: Recipe, root: Path) -> Any:
    scratch = recipe.model.scratch
    if scratch is None:
        raise UsageError("Only a model from scratch trains a tokenizer.")
    template = TEMPLATES[recipe.model.template]
    files = dict.fromkeys(name for stage in recipe.stages for name in stage.data_files)
    rows = [row for name in files for row in islice(Rows(root / name, Conversation), TOKENIZER_ROWS)]
    texts = [c.text for row in rows for c in render(training_turns(row.turns), template).chunks if c.text]
    return train_tokenizer(texts, vocab_size=scratch.vocab_size, max_positions=scratch.max_positions)
