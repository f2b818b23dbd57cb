"""Any model of ``AutoModelForImageTextToText`` with a processor and a chat template, in transformers' layout.

It answers as its own chat template says, in plain batches: nothing of an image is kept between prompts. How
the model writes boxes is not known here: ``viscot.json``, ``--box-format`` or ``bench calibrate`` says it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viscot_core.boxes.geometry import Size
from viscot_core.errors import CheckpointError, UsageError
from viscot_core.families.base import (
    NO_LIMITS,
    Facts,
    Family,
    Files,
    ImageLimits,
    Parts,
    Processor,
    Sibling,
    Square,
    TextTemplate,
)
from viscot_core.families.checkpoint import BuildOptions, Checkpoint, Layout, Source
from viscot_core.families.generic.adapted import apply_changes, processor_folder
from viscot_core.families.generic.backbones import BACKBONES, Backbone, backbone_of
from viscot_core.families.generic.processor import (
    GenericProcessor,
    limits_of,
    load_image_processor,
    load_processor,
    set_limits,
)
from viscot_core.families.generic.token_grids import LAYOUTS
from viscot_core.families.generic.training import GenericTraining
from viscot_core.families.generic.whole import compare_with_model, odd_matrices
from viscot_core.families.manifest import OWN_TEMPLATE, Manifest
from viscot_core.families.token_grid import TokenGrid
from viscot_core.tensors import open_weights

if TYPE_CHECKING:
    from viscot_core.families.generic.inputs import GenericInputs

_QUANTISED_BY = {
    "awq": "gptqmodel",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed_tensors",
    "gptq": "gptqmodel",
}
"""The package that transformers needs for weights quantised by a method."""


def family_for(config: Mapping[str, Any]) -> Family | None:
    """The family of a config that transformers knows, with what is known of its kind."""
    return Generic(backbone_of(config)) if owns(config) else None


def owns(config: Mapping[str, Any]) -> bool:
    """Whether transformers knows a class for it that answers about images.

    Raises:
        CheckpointError: quantised weights, by a package that is not installed.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    if str(config.get("model_type")) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return False
    stated = config.get("quantization_config")
    method = str(stated.get("quant_method")) if isinstance(stated, Mapping) else ""
    if method in _QUANTISED_BY and find_spec(_QUANTISED_BY[method]) is None:
        raise CheckpointError(
            f"its weights are quantised ({method}), which needs the package {_QUANTISED_BY[method]}; install "
            "it, or give the model in bf16, fp16 or fp32."
        )
    return True


class Generic:
    """The family of whatever has no room of its own; ``backbone`` says what is known of the kind."""

    prefix_proven = False
    templates = (OWN_TEMPLATE,)
    text_templates: Mapping[str, TextTemplate] = {}  # a model's own chat template comes with its files

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    @property
    def name(self) -> str:
        return self.backbone.name

    @property
    def parts(self) -> Parts:
        return self.backbone.parts

    @property
    def training(self) -> GenericTraining | None:
        """What training asks; None for a kind of which viscot does not know enough."""
        return GenericTraining(self, self.backbone) if self.backbone.trains else None

    @property
    def box_format(self) -> str | None:
        return self.backbone.box_format

    def square(self, served: str) -> Square | None:
        """Images keep their shape, or are read in tiles."""
        return None

    def gather(self, path: Path, config: dict[str, Any], sibling: Sibling) -> Files:
        """The folder itself holds everything."""
        return Files(path, config, open_weights(path), path)

    def what_part(self, path: Path, config: Mapping[str, Any]) -> str | None:
        """Such a folder is a whole model."""
        return None

    def absent_part(self, path: Path, config: Mapping[str, Any], sibling: Sibling) -> str | None:
        """Nothing is left out."""
        return None

    def adapted_module(self, name: str) -> str:
        """peft names modules as they are in memory."""
        return name

    def stored_name(self, module: str, layout: Layout) -> str:
        """transformers' own names are kept."""
        return module

    def read(self, files: Files, sibling: Sibling) -> Checkpoint:
        """Tensors by stored name: transformers translates them, and says which it misses."""
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(files.path, trust_remote_code=False, local_files_only=True)
        manifest = Manifest(
            name=files.path.name, template=OWN_TEMPLATE, image_side=None, box_format=self.box_format
        )
        tensors = {name: Source(stored) for name, stored in files.tensors.items()}
        rows = int(config.get_text_config().vocab_size)
        found = Checkpoint(
            self,
            files.path,
            Layout.HF,
            dict(files.config),
            config,
            manifest,
            tensors,
            rows,
            files.path,
            by_module=False,
        )
        compare_with_model(found)
        return found

    def facts(self, checkpoint: Checkpoint) -> Facts:
        """Sizes for a report; images take as many tokens as their size asks for."""
        config, text = checkpoint.config, checkpoint.config.get_text_config()
        return Facts(
            tower=str(getattr(getattr(config, "vision_config", None), "model_type", "its own")),
            image_side=None,
            image_tokens=None,
            context=int(text.max_position_embeddings),
            embedding_rows=int(text.vocab_size),
        )

    def image_limits(self, path: Path) -> ImageLimits | None:
        """As the image processor's file says; the family's defaults where it says nothing."""
        return None if self.backbone.step is None else limits_of(load_image_processor(path), self.backbone)

    def processor(
        self,
        checkpoint: Checkpoint,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        *,
        thinking: bool = False,
    ) -> Processor:
        """transformers' own processor, left-padding."""
        hf = load_processor(processor_folder(checkpoint))
        limits = None
        if self.backbone.step is not None:
            limits = limits_of(hf.image_processor, self.backbone).within(min_pixels, max_pixels)
        elif min_pixels is not None or max_pixels is not None:
            raise UsageError(NO_LIMITS)
        if min_pixels is not None or max_pixels is not None:
            assert limits is not None
            set_limits(hf.image_processor, limits, self.backbone)
        processor = GenericProcessor(hf, checkpoint.config, checkpoint.path, limits, thinking=thinking)
        processor.require_slots()
        return processor

    def build(self, checkpoint: Checkpoint, options: BuildOptions) -> Any:
        """The model as transformers loads it; a (quantised) tensor that would start at random is refused."""
        from transformers import AutoModelForImageTextToText

        precise = ["lm_head"]
        if options.load_in == "4bit" and options.device_map is None:  # a GPU takes any matrix
            precise += [re.escape(name) for name in odd_matrices(checkpoint.tokenizer_folder)]
        model, report = AutoModelForImageTextToText.from_pretrained(
            checkpoint.tokenizer_folder,  # an adapter's folder names its base
            dtype=options.dtype,
            attn_implementation=options.attention,
            quantization_config=options.quantization(precise),
            device_map=options.device_map,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        if missing := sorted(report["missing_keys"]):
            raise CheckpointError(
                f"{checkpoint.path} lacks {len(missing)} tensors, the first '{missing[0]}'; pull it again."
            )
        apply_changes(model, checkpoint)
        return model

    def inputs(self, model: Any, processor: Processor) -> GenericInputs:
        """Batches as the processor makes them."""
        assert isinstance(processor, GenericProcessor)
        from viscot_core.families.generic.inputs import GenericInputs

        return GenericInputs(model, processor, self.backbone)

    @property
    def attention_depth(self) -> float:
        """As the backbone's entry says."""
        return self.backbone.attention_depth

    def token_grid(self, processor: Processor, size: Size) -> TokenGrid | None:
        """As the kind of the backbone's image processor lays them out."""
        assert isinstance(processor, GenericProcessor)
        layout = LAYOUTS.get(self.backbone.layout)
        return None if layout is None else layout(processor.hf, size)

    def prefix_model(self, model: Any) -> Any | None:
        """The whole model below its head, which puts images and positions in place."""
        return model.model if self.backbone.shares_prefix else None

    def exported_rows(self, name: str, checkpoint: Checkpoint, layout: Layout) -> int | None:
        """All rows are kept."""
        return None

    def write_files(
        self, checkpoint: Checkpoint, out: Path, layout: Layout, *, dtype: str, vision_tower: str | None
    ) -> None:
        """Not written: the folder is in transformers' layout already."""
        if checkpoint.changes:
            raise CheckpointError(
                f"{checkpoint.path} is merged each time it is loaded; write it merged with peft "
                "(merge_and_unload, save_pretrained)."
            )
        raise CheckpointError(f"{checkpoint.path} is in transformers' layout already; copy the folder.")


FAMILY = Generic(Backbone("generic"))
"""What is true of all of them."""
TRAINABLE = tuple(dict.fromkeys(kind.name for kind in BACKBONES.values() if kind.trains))
