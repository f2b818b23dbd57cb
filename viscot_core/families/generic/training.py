"""What training does with any model of ``AutoModelForImageTextToText``: parts, adapters, what is saved."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viscot_core.boxes.formats import Codec
from viscot_core.boxes.registry import QWEN_MAX_TOKENS, codec, limited
from viscot_core.errors import CheckpointError, UsageError
from viscot_core.families.base import NO_LIMITS, Family, ImageLimits, Parts
from viscot_core.families.checkpoint import Checkpoint
from viscot_core.families.compiling import Backend, compile_layers
from viscot_core.families.generic import shapes
from viscot_core.families.generic.adapted import processor_folder
from viscot_core.families.generic.backbones import Backbone
from viscot_core.families.generic.processor import limits_of, load_processor, set_limits
from viscot_core.families.generic.training_processor import GenericTrainingProcessor
from viscot_core.families.shapes import ModelShape
from viscot_core.families.training import ModelChoice, TrainingProcessor

if TYPE_CHECKING:
    import torch

_LAYER = re.compile(r"\.(?:blocks|layers?|layer)\.(\d+)\.")


class GenericTraining:
    """The ``Training`` of a kind of model that ``backbone`` describes."""

    # Beside ids: images in the shapes that processors make, kinds of tokens, borders of packed samples.
    model_inputs = (
        "input_ids", "attention_mask", "position_ids", "mm_token_type_ids", "token_type_ids", "pixel_values",
        "image_grid_thw", "image_sizes", "batch_num_images", "pixel_attention_mask", "image_position_ids",
        "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k",
    )  # fmt: skip
    # Gated delta layers (Qwen3.5) have projections of other names.
    lora_targets = (
        r".*\.(language_model|text_model)\..*\."
        r"((q|k|v|o|gate|up|down)_proj|in_proj_\w+|linear_attn\.out_proj)"
    )

    def __init__(self, family: Family, backbone: Backbone) -> None:
        self._family, self._backbone = family, backbone

    @property
    def parts(self) -> Parts:
        return self._backbone.parts

    @property
    def packs(self) -> bool:
        return self._backbone.packs

    def processor(
        self, checkpoint: Checkpoint, choice: ModelChoice | None = None
    ) -> GenericTrainingProcessor:
        """transformers' own processor; images have at most 1280 tokens where the recipe says nothing."""
        hf = load_processor(processor_folder(checkpoint))
        boxes = self._boxes(checkpoint, choice)
        step = self._backbone.step
        least, most = (choice.min_pixels, choice.max_pixels) if choice else (None, None)
        if step is None:
            if least is not None or most is not None:
                raise UsageError(NO_LIMITS)
        else:
            own = limits_of(hf.image_processor, self._backbone)
            usual = ImageLimits(own.least, max(own.least, min(own.most, QWEN_MAX_TOKENS)), step)
            wanted = (own if most is not None else usual).within(least, most)
            set_limits(hf.image_processor, wanted, self._backbone)
            boxes = limited(boxes, wanted.least, wanted.most)
        return GenericTrainingProcessor(hf, checkpoint.config, checkpoint.path, self._backbone, boxes)

    def _boxes(self, checkpoint: Checkpoint, choice: ModelChoice | None) -> Codec:
        """As the recipe, the checkpoint or its family says; what writes none so far learns viscot's own."""
        named = choice.box_format if choice else None
        return codec(named or checkpoint.manifest.box_format or "viscot")

    def shape(self, choice: ModelChoice) -> ModelShape | None:
        """From the config files on this machine, or published."""
        return shapes.shape_of(choice)

    def shape_of_config(self, config: Any) -> ModelShape:
        """From a model's own config."""
        return shapes.shape_of_config(config)

    def from_parts(self, choice: ModelChoice, find: Callable[[str], Path]) -> Checkpoint:
        """Not put together: such a model comes whole."""
        raise CheckpointError("this kind of model is not put together from parts; give model.checkpoint.")

    # -- the model in memory ------------------------------------------------------------------------------

    def trained_whole(self, part: str, model: Any) -> list[str]:
        """The modules that the projector's names begin with, each layer of a list by itself."""
        if part != "projector":
            return []
        names = [name for name, _ in model.named_modules()]
        found = []
        for start in (start.rstrip(".") for start in self.parts.projector):
            inside = [name for name in names if re.fullmatch(rf"{re.escape(start)}\.\d+", name)]
            found += inside or [name for name in names if name == start]
        return found

    def text_width(self, config: Any) -> int:
        """Hidden width of the language model."""
        return int(config.get_text_config().hidden_size)

    def tower_layer(self, name: str) -> int:
        """Layer of a tower's parameter, from 0; -1 for what comes before the first."""
        found = _LAYER.search(name)
        return int(found[1]) if found else -1

    def gets_gradient(self, name: str, config: Any) -> bool:
        """All but what no output depends on."""
        return not any(start in name for start in self._backbone.unread)

    def without_weights(self, config: Any, dtype: torch.dtype, attention: str) -> Any:
        """A model of this config, its parameters not read from any file."""
        from transformers import AutoModelForImageTextToText

        return AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation=attention)

    def allow_text_only_batches(self, model: Any, processor: TrainingProcessor) -> None:
        """`text_only.seeing_always` says how."""
        from viscot_core.families.generic.text_only import seeing_always

        assert isinstance(processor, GenericTrainingProcessor)
        seeing_always(model.model, processor.black_image())

    def use_attention(self, model: Any, name: str) -> None:
        """Of the language model; the tower's sees whole images."""
        _text_model(model).config._attn_implementation = name

    def compile_parts(self, model: Any, *, language_model: bool, backend: Backend = "inductor") -> None:
        """``torch.compile`` of the language model's layers; towers have other layers in each family."""
        compile_layers(_text_model(model).layers if language_model else (), backend)

    # -- what is saved ------------------------------------------------------------------------------------

    def tied_tensors(self, config: Any) -> frozenset[str]:
        """The head, where it is the embeddings: as transformers ties them, by the outermost config alone."""
        return frozenset({"lm_head.weight"} if getattr(config, "tie_word_embeddings", False) else ())

    def stored_name(self, module: str) -> str:
        """Names in memory, which transformers reads; those of the hub where others read nothing else."""
        return self._backbone.stored_name(module)

    def module_name(self, stored: str) -> str | None:
        """As `stored_name`."""
        return self._backbone.module_name(stored)

    def save_projector(self, state: Mapping[str, torch.Tensor], folder: Path) -> None:
        """Not apart: it is part of the model's or the adapter's own file."""

    def saved_projector(self, folder: Path) -> dict[str, torch.Tensor] | None:
        """There is none apart."""
        return None

    def projector_config(self, config: Any, text_rows: int, base: str) -> dict[str, Any]:
        """Not written: only a model from named parts has a projector apart."""
        raise CheckpointError("a projector of this kind of model is not kept apart; train more of it.")


def _text_model(model: Any) -> Any:
    """The language model below the head, by either of its names."""
    inner = model.model
    return inner.language_model if hasattr(inner, "language_model") else inner.text_model
