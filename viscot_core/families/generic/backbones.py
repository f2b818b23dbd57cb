"""What differs between the kinds of model that transformers' chat models come in: one entry a ``model_type``.

A family without an entry answers in plain batches, and how it writes boxes must be said. An entry is a fact
of the family's code or training, so each one says where it comes from. That its prefix may be shared is
believed only after the check at load (``engines/transformers/self_check.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from viscot_core.families.base import Parts
from viscot_core.families.token_grid import DEPTH

FAR_UP = 22 / 28
"""Of Qwen2-VL and Qwen2.5-VL: layer 22 of 28, as the code published with arXiv 2502.17422 has it."""


@dataclass(frozen=True, slots=True)
class Backbone:
    """One kind of model.

    Attributes:
        name: what people call the family.
        box_format: how its models write boxes (``boxes.registry``); None where that is not certain.
        shares_prefix: what precedes the questions about an image may be read once for all of them.
        keeps_features: an image's features do not depend on the other images of the prompt.
        grid_positions: positions have three axes and follow the images' grids (M-RoPE).
        layout: how an image's tokens lie on it (`token_grids.LAYOUTS`); "" where that is not certain.
        attention_depth: which share of the text layers lies below the one whose attention shows best where
            the model looks (``FAR_UP``, ``DEPTH``).
        step: side in pixels of a token's square, where images keep their shape between limits of tokens.
        frames: as how many frames of a video an image counts in its processor's limits of pixels.
        parts: how the names of its parts begin in the model in memory.
        trains: viscot can train it.
        packs: samples in one row can be kept from seeing each other, by positions that start again.
        end_of_turn: the token that ends a turn where templates write none after the last one.
        unread: how names of parameters begin that no output depends on.
        tower_level: a level below the tower that names in files have and names in memory have not.
            transformers reads both; vLLM, and transformers before 5, that of the hub's files alone.
    """

    name: str
    box_format: str | None = None
    shares_prefix: bool = False
    keeps_features: bool = True
    grid_positions: bool = False
    layout: str = ""
    attention_depth: float = DEPTH
    step: int | None = None
    frames: int = 1
    parts: Parts = field(default_factory=Parts)
    trains: bool = False
    packs: bool = False
    end_of_turn: str | None = None
    unread: tuple[str, ...] = ()
    tower_level: str = ""

    def stored_name(self, module: str) -> str:
        """A parameter's name in a file, by its name in memory."""
        for start in self.parts.vision_tower:
            if module.startswith(start):
                return f"{start}{self.tower_level}{module.removeprefix(start)}"
        return module

    def module_name(self, stored: str) -> str:
        """The other way; a file written without the level is read as well."""
        for start in self.parts.vision_tower:
            if stored.startswith(start):
                return f"{start}{stored.removeprefix(start).removeprefix(self.tower_level)}"
        return stored


QWEN_PARTS = Parts(("model.visual.",), ("model.visual.merger.",), ("model.language_model.", "lm_head."))
DEEPSTACK_PARTS = replace(
    QWEN_PARTS, projector=(*QWEN_PARTS.projector, "model.visual.deepstack_merger_list.")
)
TOWER_PARTS = Parts(
    ("model.vision_tower.",), ("model.multi_modal_projector.",), ("model.language_model.", "lm_head.")
)
IDEFICS_PARTS = Parts(("model.vision_model.",), ("model.connector.",), ("model.text_model.", "lm_head."))

_LEARNS: dict[str, Any] = {"trains": True, "packs": True}
_GRID: dict[str, Any] = {"grid_positions": True, "layout": "merged", "parts": QWEN_PARTS, **_LEARNS}
_UP: dict[str, Any] = {"attention_depth": FAR_UP}
_QWEN2 = Backbone("qwen2-vl", "qwen2-vl", True, step=28, **_GRID, **_UP)
_QWEN25 = Backbone("qwen2.5-vl", "qwen2.5-vl", True, step=28, **_GRID, **_UP)
_QWEN3 = Backbone("qwen3-vl", "qwen3-vl", True, step=32, **_GRID | {"parts": DEEPSTACK_PARTS})
# Gated delta layers keep a state and no keys: there is nothing to share, and no cache to cut. What one sample
# leaves in it the next one of a row would read.
_QWEN35 = Backbone(
    "qwen3.5", "qwen3-vl", grid_positions=True, layout="merged", step=32, parts=QWEN_PARTS, trains=True
)
# Its `smart_resize` counts time too: an image is as long as a patch, two frames.
_GLM = Backbone("glm-4v", "glm-4v", True, step=28, frames=2, end_of_turn="<|user|>", **_GRID)
_INTERNVL = Backbone("internvl", "internvl", True, layout="tiled", parts=TOWER_PARTS, **_LEARNS)
# One image in a prompt is read in tiles, several as one tile each. The hidden state before the tower's last
# norm is read.
_ONEVISION = Backbone(
    "llava-onevision",
    keeps_features=False,
    parts=replace(TOWER_PARTS, projector=(*TOWER_PARTS.projector, "model.image_newline")),
    unread=("model.vision_tower.post_layernorm.", "model.vision_tower.head."),
    tower_level="vision_model.",
    **_LEARNS,
)
_IDEFICS3 = Backbone("idefics3", shares_prefix=True, layout="split", parts=IDEFICS_PARTS, **_LEARNS)
_SMOLVLM = Backbone("smolvlm", shares_prefix=True, layout="split", parts=IDEFICS_PARTS, **_LEARNS)
# Sliding layers see a window only: a prefix that every token may read is another model. An image's tokens see
# each other, by a mask that leaves the samples of a row together.
_GEMMA3 = Backbone("gemma3", layout="stretched", parts=TOWER_PARTS, trains=True, tower_level="vision_model.")
_GEMMA4 = Backbone(
    "gemma4",
    parts=Parts(("model.vision_tower.",), ("model.embed_vision.",), ("model.language_model.", "lm_head.")),
)
# An image ends with a token of its own, and its models name points.
_MOLMO2 = Backbone("molmo2", parts=TOWER_PARTS)

BACKBONES: Mapping[str, Backbone] = {
    "qwen2_vl": _QWEN2,
    "qwen2_5_vl": _QWEN25,
    "qwen3_vl": _QWEN3,
    "qwen3_vl_moe": _QWEN3,
    "qwen3_5": _QWEN35,
    "qwen3_5_moe": _QWEN35,
    "glm4v": _GLM,
    "glm46v": _GLM,
    "glm4v_moe": _GLM,
    "internvl": _INTERNVL,
    "llava_onevision": _ONEVISION,
    "idefics3": _IDEFICS3,
    "smolvlm": _SMOLVLM,
    "gemma3": _GEMMA3,
    "gemma4": _GEMMA4,
    "molmo2": _MOLMO2,
}
"""By ``model_type`` of a config."""


def backbone_of(config: Mapping[str, Any]) -> Backbone:
    """The entry of a config, or one that promises nothing."""
    return BACKBONES.get(str(config.get("model_type")), Backbone("generic"))
