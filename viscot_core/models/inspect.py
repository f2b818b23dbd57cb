"""What a checkpoint is, without loading it: layout, parts, sizes, and every tensor that does not fit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from viscot_core.families.llava import layouts
from viscot_core.models.checkpoint import Checkpoint

PARTS = {
    "vision tower": layouts.TOWER,
    "projector": layouts.PROJECTOR,
    "language model": "",
}
"""Parts of the model by the beginning of their tensors' names; the last takes the rest."""


@dataclass(frozen=True, slots=True)
class Report:
    """A checkpoint in words and numbers; ``problems`` is empty when it is whole."""

    path: str
    name: str
    layout: str
    tower: str
    image_side: int
    image_tokens: int
    context: int
    embedding_rows: int
    text_rows: int
    template: str
    turn_tokens: str
    dtypes: dict[str, int]
    """Parameters per stored dtype."""
    parameters: dict[str, int]
    """Parameters per part, and their ``total``."""
    files: dict[str, int]
    """Bytes per file."""
    notes: list[str]
    missing: list[str]
    unexpected: list[str]
    misshaped: list[str]

    @property
    def whole(self) -> bool:
        return not (self.missing or self.unexpected or self.misshaped)


def inspect(checkpoint: Checkpoint) -> Report:
    """Report on an opened checkpoint; reads no tensor."""
    dtypes: dict[str, int] = {}
    parameters = dict.fromkeys(PARTS, 0)
    for name, source in checkpoint.tensors.items():
        count = source.count
        dtypes[source.stored.dtype] = dtypes.get(source.stored.dtype, 0) + count
        part = next(part for part, start in PARTS.items() if name.startswith(start))
        parameters[part] += count
    vision, text = checkpoint.config.vision_config, checkpoint.config.text_config
    return Report(
        path=str(checkpoint.path),
        name=checkpoint.manifest.name,
        layout=checkpoint.layout.value,
        tower=_tower(checkpoint),
        image_side=int(vision.image_size),
        image_tokens=layouts.image_tokens(checkpoint.config),
        context=int(text.max_position_embeddings),
        embedding_rows=int(text.vocab_size),
        text_rows=checkpoint.text_rows,
        template=checkpoint.manifest.template,
        turn_tokens=checkpoint.manifest.turn_tokens,
        dtypes=dtypes,
        parameters=parameters | {"total": sum(parameters.values())},
        files={_short(file, checkpoint.path): file.stat().st_size for file in checkpoint.files},
        notes=list(checkpoint.notes),
        missing=[layouts.stored_name(name, checkpoint.layout) for name in checkpoint.missing],
        unexpected=[f"{stored.name} ({stored.file.name})" for stored in checkpoint.unexpected],
        misshaped=[
            f"{source.stored.name} ({source.stored.file.name}): {list(source.shape)}, expected {list(wanted)}"
            for _, source, wanted in checkpoint.misshaped
        ],
    )


def _tower(checkpoint: Checkpoint) -> str:
    vision = checkpoint.config.vision_config
    named = layouts.tower_name(checkpoint.raw_config)
    shape = (
        f"{vision.model_type} {vision.num_hidden_layers} x {vision.hidden_size}, patch {vision.patch_size}, "
        f"features of layer {checkpoint.config.vision_feature_layer}"
    )
    return f"{named}: {shape}" if named else shape


def _short(file: Path, folder: Path) -> str:
    return file.name if file.parent == folder else str(file)
