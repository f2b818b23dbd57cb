"""LLaVA-1.5 and Visual CoT's models: CLIP, a two-layer projector, a Llama; in both layouts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from viscot_core.boxes.geometry import Size
from viscot_core.errors import CheckpointError, UsageError
from viscot_core.families.base import (
    NO_LIMITS,
    NO_THOUGHTS,
    Facts,
    Family,
    Files,
    ImageLimits,
    Processor,
    Sibling,
    Square,
    TextTemplate,
)
from viscot_core.families.checkpoint import (
    BuildOptions,
    Checkpoint,
    Layout,
    Source,
    compare,
    in_whole_blocks,
)
from viscot_core.families.inputs import ModelInputs
from viscot_core.families.llava import gather, handover, layouts
from viscot_core.families.llava.parts import PARTS, add_image_row, expected_shapes
from viscot_core.families.llava.pixels import released_side, square_image
from viscot_core.families.llava.processor import ChatProcessor, ChatTokenizer
from viscot_core.families.llava.template import TEMPLATES
from viscot_core.families.llava.tokenizer import declared_turn_tokens, load_tokenizer, token_count
from viscot_core.families.llava.training import LlavaTraining
from viscot_core.families.manifest import Manifest
from viscot_core.families.token_grid import DEPTH, TokenGrid
from viscot_core.tensors import Stored


def family_for(config: Mapping[str, Any]) -> Family | None:
    """The family of a LLaVA-1.5 model of either layout, or of one of its parts; raises as ``owns`` does."""
    return FAMILY if owns(config) else None


def _is_original(config: Mapping[str, Any]) -> bool:
    # (Gemma 3 has a key of that beginning too, `mm_tokens_per_image`.)
    return any(key.startswith("mm_") and key != "mm_tokens_per_image" for key in config)


def owns(config: Mapping[str, Any]) -> bool:
    """A LLaVA-1.5 model of either layout, or one of the parts it is put together from.

    Raises:
        CheckpointError: a LLaVA of a kind that is not read.
    """
    listed = config.get("architectures")
    kinds = [str(kind) for kind in listed] if isinstance(listed, list) else []
    kind = str(config.get("model_type", ""))
    if "text_config" in config and kind == "llava":
        ours = _is_llama_under_clip(config)
    elif _is_original(config) or "LlavaLlamaForCausalLM" in kinds:
        layouts.require_known(config)
        ours = True
    else:
        ours = kind in ("llava", "llava_llama") or kind.startswith("clip") or layouts.is_text_only(config)
    if ours:
        layouts.require_not_quantised(config)
    return ours


def _is_llama_under_clip(config: Mapping[str, Any]) -> bool:
    """Whether transformers' LLaVA has LLaVA-1.5's parts; with others it speaks by its own chat template."""
    text, vision = (config.get(name) or {} for name in ("text_config", "vision_config"))
    return text.get("model_type", "llama") == "llama" and str(vision.get("model_type", "clip")).startswith(
        "clip"
    )


class Llava:
    """The family of ``LlavaForConditionalGeneration``."""

    name = "llava"
    box_format = "viscot"
    prefix_proven = True
    templates = tuple(TEMPLATES)
    text_templates: Mapping[str, TextTemplate] = TEMPLATES
    parts = PARTS

    def __init__(self) -> None:
        self.training = LlavaTraining(self)

    def square(self, served: str) -> Square | None:
        """Of the released models, whose names say it."""
        side = released_side(served)
        return None if side is None else Square(side, partial(square_image, side=side))

    def gather(self, path: Path, config: dict[str, Any], sibling: Sibling) -> Files:
        """As ``gather.gather``: the base under a projector, a projector beside a base."""
        return gather.gather(path, config, sibling)

    def what_part(self, path: Path, config: Mapping[str, Any]) -> str | None:
        """A projector, a vision tower or a text-only Llama alone."""
        return gather.what_part(path, config)

    def absent_part(self, path: Path, config: Mapping[str, Any], sibling: Sibling) -> str | None:
        """The vision tower, where it is neither inside nor on this machine."""
        return gather.absent_tower(path, config, sibling)

    def adapted_module(self, name: str) -> str:
        """Adapters of either layout's model are met."""
        return layouts.adapted_module(name)

    def stored_name(self, module: str, layout: Layout) -> str:
        """The name on disk in ``layout``."""
        return layouts.stored_name(module, layout)

    def exported_rows(self, name: str, checkpoint: Checkpoint, layout: Layout) -> int | None:
        """The original layout keeps no row for the image token."""
        return handover.exported_rows(name, checkpoint, layout)

    def write_files(
        self, checkpoint: Checkpoint, out: Path, layout: Layout, *, dtype: str, vision_tower: str | None
    ) -> None:
        """Config, tokenizer and processors as other software reads them."""
        handover.write_files(checkpoint, out, layout, dtype=dtype, vision_tower=vision_tower)

    def read(self, files: Files, sibling: Sibling) -> Checkpoint:
        """The checkpoint of these files; its manifest is the one they imply."""
        raw = dict(files.config)
        layout = layouts.detect(raw, files.tensors)
        tensors = _by_module(files.tensors, layout)
        notes = list(files.notes)
        if layout is Layout.HF:
            config, rows = _hf_config(raw)
        else:
            shapes = {key: source.shape for key, source in tensors.items()}
            vision, added, note = gather.tower(files.path, raw, shapes, sibling)
            tensors |= {name: Source(tensor) for name, tensor in added.items()}
            notes += [note] if note else []
            rows = int(raw["vocab_size"])
            config = layouts.config_from_llava(raw, vision, image_id=token_count(files.tokenizer))
            add_image_row(tensors, rows, config.text_config.vocab_size)
        manifest = Manifest(
            name=files.path.name,
            turn_tokens=declared_turn_tokens(files.tokenizer, raw),
            image_side=int(config.vision_config.image_size),
        )
        found = Checkpoint(
            self, files.path, layout, raw, config, manifest, tensors, rows, files.tokenizer, notes
        )
        compare(found, expected_shapes(config))
        return found

    def facts(self, checkpoint: Checkpoint) -> Facts:
        """The tower in words, and its sizes."""
        vision, text = checkpoint.config.vision_config, checkpoint.config.text_config
        named = layouts.tower_name(checkpoint.raw_config)
        shape = (
            f"{vision.model_type} {vision.num_hidden_layers} x {vision.hidden_size}, "
            f"patch {vision.patch_size}, features of layer {checkpoint.config.vision_feature_layer}"
        )
        return Facts(
            tower=f"{named}: {shape}" if named else shape,
            image_side=int(vision.image_size),
            image_tokens=layouts.image_tokens(checkpoint.config),
            context=int(text.max_position_embeddings),
            embedding_rows=int(text.vocab_size),
        )

    def image_limits(self, path: Path) -> ImageLimits | None:
        """Images get one size."""
        return None

    def processor(
        self,
        checkpoint: Checkpoint,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        *,
        thinking: bool = False,
    ) -> Processor:
        """The tokenizer with viscot's rules, under the manifest's template."""
        if min_pixels is not None or max_pixels is not None:
            raise UsageError(NO_LIMITS)
        if thinking:
            raise UsageError(NO_THOUGHTS)
        template = TEMPLATES[checkpoint.manifest.template]
        return ChatProcessor(load_tokens(checkpoint), template, checkpoint.config, checkpoint.text_rows)

    def build(self, checkpoint: Checkpoint, options: BuildOptions) -> Any:
        """The model, its tensors read as they are placed (what is missing starts at random)."""
        from transformers import LlavaForConditionalGeneration

        state = _State(checkpoint.tensors)
        model = LlavaForConditionalGeneration.from_pretrained(
            None,
            config=checkpoint.config,
            state_dict=state,
            dtype=options.dtype,
            attn_implementation=options.attention,
            quantization_config=options.quantization(_precise(checkpoint, options.load_in)),
            device_map=options.device_map,
        )
        # A tensor that transformers did not ask for left its place in the model at random values.
        if unread := sorted(set(checkpoint.tensors) - state.read):
            raise CheckpointError(
                f"{checkpoint.path}: {len(unread)} tensors were not loaded, the first '{unread[0]}'; "
                "load it again."
            )
        return model

    def inputs(self, model: Any, processor: Processor) -> ModelInputs:
        """Embeddings with the features of images in place; each image is encoded once."""
        from viscot_core.families.llava.inputs import LlavaInputs  # imports torch

        assert isinstance(processor, ChatProcessor)
        return LlavaInputs(model, processor)

    @property
    def attention_depth(self) -> float:
        """Number 14 of 32 layers."""
        return DEPTH

    def token_grid(self, processor: Processor, size: Size) -> TokenGrid | None:
        """A square of patches, of the image padded to a square."""
        assert isinstance(processor, ChatProcessor)
        along = math.isqrt(processor.image_tokens)
        # With a class token there is one more.
        square = along**2 == processor.image_tokens
        return TokenGrid((along, along), squared=True, side=processor.image_side) if square else None

    def prefix_model(self, model: Any) -> Any | None:
        """The text model, where it is a Llama on one device whose attention takes a mask.

        (Masks and what is kept of an image live where the first layer does.)
        """
        from transformers import LlamaModel

        config = model.config.text_config
        masked = "flash" not in config._attn_implementation
        spread = len(set(getattr(model, "hf_device_map", {}).values())) > 1
        text = model.model.language_model
        return text if masked and not spread and isinstance(text, LlamaModel) else None


FAMILY = Llava()
TRAINABLE = ("llava",)


def load_tokens(checkpoint: Checkpoint) -> ChatTokenizer:
    """A checkpoint's tokenizer with viscot's rules, checked against the config's image token."""
    folder = checkpoint.tokenizer_folder
    tokens = ChatTokenizer(
        load_tokenizer(folder, checkpoint.manifest.turn_tokens),
        image_tokens=layouts.image_tokens(checkpoint.config),
        turn_tokens=checkpoint.manifest.turn_tokens,
    )
    if tokens.image_id != checkpoint.config.image_token_id:
        raise CheckpointError(
            f"{folder}: the tokenizer gives <image> the id {tokens.image_id} and config.json "
            f"{checkpoint.config.image_token_id}; take both from the same checkpoint."
        )
    return tokens


def _by_module(stored: Mapping[str, Stored], layout: Layout) -> dict[str, Source]:
    """Sources by module name; refuses two stored tensors for one place (two projectors, two towers)."""
    tensors: dict[str, Source] = {}
    for name, tensor in stored.items():
        module = layouts.module_name(name, layout)
        if module is None:
            continue
        if module in tensors:
            first = tensors[module].stored
            raise CheckpointError(
                f"'{first.name}' in {first.file} and '{name}' in {tensor.file} are one part of the model "
                "twice; remove one of them."
            )
        tensors[module] = Source(tensor)
    return tensors


def _hf_config(raw: dict[str, Any]) -> tuple[Any, int]:
    from transformers import LlavaConfig

    config = LlavaConfig.from_dict(raw)
    original = raw.get(layouts.ORIGINAL_CONFIG)
    if original:
        return config, int(original["vocab_size"])
    rows, image_id = int(config.text_config.vocab_size), int(config.image_token_id)
    # An image token that was added later is followed by padding only; one inside the vocabulary is not.
    return config, image_id if rows - image_id <= layouts.ROW_MULTIPLE else rows


def _precise(checkpoint: Checkpoint, load_in: str | None) -> list[str]:
    """Modules that are not quantised: tower, projector and head are small, and boxes need them.

    So are matrices that are no whole 4-bit blocks (none of a released model).
    """
    keep = [layouts.TOWER.rstrip("."), layouts.PROJECTOR.rstrip("."), "lm_head"]
    if load_in == "4bit":
        keep += [
            name.removesuffix(".weight")
            for name, source in checkpoint.tensors.items()
            if re.match(r"model\.language_model\.layers\.", name) and not in_whole_blocks(source.shape)
        ]
    return keep


class _Lazy:
    """A tensor that transformers reads when it places it: ``lazy[...]``. So a model is never held twice."""

    def __init__(self, source: Source, on_read: Callable[[], None]) -> None:
        self._source = source
        self._on_read = on_read

    def __getitem__(self, _: Any) -> Any:
        self._on_read()
        return self._source.read()


class _State(Mapping[str, _Lazy]):
    """The state dict of a checkpoint, read tensor by tensor; ``read`` are the names that were."""

    def __init__(self, tensors: Mapping[str, Source]) -> None:
        self._tensors = tensors
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> _Lazy:
        return _Lazy(self._tensors[name], partial(self.read.add, name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
