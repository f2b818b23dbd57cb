"""What training does with a LLaVA model: what learns, adapters, text-only batches, and what is saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viscot_core.errors import UsageError
from viscot_core.families.base import NO_LIMITS, Family
from viscot_core.families.checkpoint import Checkpoint, Layout
from viscot_core.families.compiling import Backend, compile_layers
from viscot_core.families.llava import layouts, original_config, parts, shapes
from viscot_core.families.llava.processor import ChatProcessor
from viscot_core.families.shapes import ModelShape
from viscot_core.families.training import ModelChoice, TrainingProcessor

if TYPE_CHECKING:
    import torch

PROJECTOR_BIN = "mm_projector.bin"
"""The projector's own file, as the original code reads and writes it."""
_LAYER = "encoder.layers."


class LlavaTraining:
    """The ``Training`` of ``LlavaForConditionalGeneration``."""

    parts = parts.PARTS
    model_inputs = (
        "input_ids", "attention_mask", "position_ids", "pixel_values",
        "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k",
    )  # fmt: skip
    # All linear layers of the language model, none of the tower's: as LLaVA-1.5's LoRA recipe.
    lora_targets = r".*language_model\..*\.(q|k|v|o|gate|up|down)_proj"
    packs = True

    def __init__(self, family: Family) -> None:
        self._family = family

    def trained_whole(self, part: str, model: Any) -> list[str]:
        """The projector; the other parts have adapters, or stay."""
        return ["multi_modal_projector"] if part == "projector" else []

    def processor(self, checkpoint: Checkpoint, choice: ModelChoice | None = None) -> ChatProcessor:
        """The tokenizer with viscot's rules, under the manifest's template."""
        if choice and (choice.min_pixels is not None or choice.max_pixels is not None):
            raise UsageError(NO_LIMITS)
        if choice and choice.box_format not in (None, "viscot"):
            raise UsageError(
                f"model.box_format: {choice.box_format} - this model writes boxes in 0..1 of the padded "
                "square (viscot); leave it out."
            )
        found = self._family.processor(checkpoint)
        assert isinstance(found, ChatProcessor)
        return found

    def shape(self, choice: ModelChoice) -> ModelShape | None:
        """Published, from sizes, or from the config files on this machine."""
        return shapes.shape_of(choice)

    def shape_of_config(self, config: Any) -> ModelShape:
        """From a ``LlavaConfig``."""
        return shapes.shape_of_config(config)

    def from_parts(self, choice: ModelChoice, find: Callable[[str], Path]) -> Checkpoint:
        """A Llama under a CLIP tower, with the projector between them if one is given."""
        return parts.from_parts(self._family, choice, find)

    # -- the model in memory ------------------------------------------------------------------------------

    def text_width(self, config: Any) -> int:
        """Hidden width of the language model."""
        return int(config.text_config.hidden_size)

    def tower_layer(self, name: str) -> int:
        """Layer of a tower's parameter, from 0; -1 for the embeddings and the norm before the first."""
        return int(name.split(_LAYER)[1].split(".")[0]) if _LAYER in name else -1

    def gets_gradient(self, name: str, config: Any) -> bool:
        """Not read are the tower's layers above ``vision_feature_layer`` and the norm behind the last."""
        if "vision_tower.post_layernorm" in name:
            return False
        read = int(config.vision_feature_layer)  # an index of hidden states: 0 is what goes into layer 0
        last = read - 1 if read >= 0 else int(config.vision_config.num_hidden_layers) + read
        return not ("vision_tower." in name and _LAYER in name and self.tower_layer(name) > last)

    def without_weights(self, config: Any, dtype: torch.dtype, attention: str) -> Any:
        """A model of this config, its parameters not read from any file."""
        from transformers import LlavaForConditionalGeneration

        return LlavaForConditionalGeneration._from_config(config, dtype=dtype, attn_implementation=attention)

    def allow_text_only_batches(self, model: Any, processor: TrainingProcessor) -> None:
        """`TextOnlyLlavaModel` says how."""
        from viscot_core.families.llava.inputs import TextOnlyLlavaModel

        model.model.__class__ = TextOnlyLlavaModel

    def use_attention(self, model: Any, name: str) -> None:
        """Of the language model; the tower's sees whole images."""
        model.model.language_model.config._attn_implementation = name

    def compile_parts(self, model: Any, *, language_model: bool, backend: Backend = "inductor") -> None:
        """``torch.compile`` of the layers of the tower and, where it runs, of the language model."""
        text = model.model.language_model.layers if language_model else ()
        compile_layers([*model.model.vision_tower.encoder.layers, *text], backend)

    # -- what is saved ------------------------------------------------------------------------------------

    def tied_tensors(self, config: Any) -> frozenset[str]:
        """The head, where it is the embeddings."""
        return frozenset({layouts.HEAD} if config.tie_word_embeddings else ())

    def stored_name(self, module: str) -> str:
        """The names of an export in transformers' layout."""
        return layouts.stored_name(module, Layout.HF)

    def module_name(self, stored: str) -> str | None:
        """From any of the names that transformers and viscot have written."""
        return layouts.module_name(stored, Layout.HF)

    def save_projector(self, state: Mapping[str, torch.Tensor], folder: Path) -> None:
        """As ``projector.safetensors``, and once more as the file that the original code reads."""
        import torch
        from safetensors.torch import save_file

        tensors = {}
        for name, tensor in state.items():
            if ".original_module." in name:  # peft keeps the untrained one beside the trained
                continue
            clean = name.replace(".modules_to_save.default", "").removeprefix("base_model.model.")
            if clean.startswith(layouts.PROJECTOR):
                tensors[clean.removeprefix(layouts.PROJECTOR)] = tensor.detach().cpu().contiguous()
        save_file(tensors, folder / parts.PROJECTOR_FILE, metadata={"format": "pt"})
        original = {parts.original_projector_name(name): tensor for name, tensor in tensors.items()}
        torch.save(original, folder / PROJECTOR_BIN)

    def saved_projector(self, folder: Path) -> dict[str, torch.Tensor] | None:
        """What `save_projector` wrote, by module name."""
        from safetensors.torch import load_file

        file = folder / parts.PROJECTOR_FILE
        if not file.exists():
            return None
        return {parts.projector_module_name(name): tensor for name, tensor in load_file(file).items()}

    def projector_config(self, config: Any, text_rows: int, base: str) -> dict[str, Any]:
        """It names the base, as LLaVA's stage 1 does."""
        return original_config.config_to_llava(config, text_rows, "float32") | {"_name_or_path": base}


# -- patch features, for stages that train on them without the language model (train/tiny) ------------------


def patches_along(config: Any) -> int:
    """Patches along a side of the square that the tower reads."""
    return int(config.vision_config.image_size // config.vision_config.patch_size)


def projected_patches(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """``[B, 3, side, side]`` -> what the language model would read, ``[B, patches, text width]``."""
    import torch

    return torch.stack(tuple(model.model.get_image_features(pixels).pooler_output))


def tower_patches(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """``[B, 3, side, side]`` -> what the projector reads, ``[B, patches, tower width]``."""
    hidden = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    patches: torch.Tensor = hidden[model.config.vision_feature_layer][:, 1:]  # without the class token
    return patches


def first_projector_layer(model: Any) -> torch.nn.Linear:
    """The projector's layer that reads the tower."""
    layer: torch.nn.Linear = model.model.multi_modal_projector.linear_1
    return layer
