"""What a checkpoint is, without loading it: layout, parts, sizes, and every tensor that does not fit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from viscot_core.families.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class CheckpointReport:
    """A checkpoint in words and numbers; ``problems`` is empty when it is whole."""

    path: str
    name: str
    layout: str
    tower: str
    image_side: int | None
    image_tokens: int | None
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


def inspect(checkpoint: Checkpoint) -> CheckpointReport:
    """CheckpointReport on an opened checkpoint; reads no tensor."""
    dtypes: dict[str, int] = {}
    for source in checkpoint.tensors.values():
        dtypes[source.stored.dtype] = dtypes.get(source.stored.dtype, 0) + source.count
    counts = ((name, source.count) for name, source in checkpoint.tensors.items())
    parameters = dict(checkpoint.part_sizes or checkpoint.family.parts.sizes(counts))
    facts = checkpoint.family.facts(checkpoint)
    return CheckpointReport(
        path=str(checkpoint.path),
        name=checkpoint.manifest.name,
        layout=checkpoint.layout.value,
        tower=facts.tower,
        image_side=facts.image_side,
        image_tokens=facts.image_tokens,
        context=facts.context,
        embedding_rows=facts.embedding_rows,
        text_rows=checkpoint.text_rows,
        template=checkpoint.manifest.template,
        turn_tokens=checkpoint.manifest.turn_tokens,
        dtypes=dtypes,
        parameters=parameters | {"total": sum(parameters.values())},
        files={_short(file, checkpoint.path): file.stat().st_size for file in checkpoint.files},
        notes=list(checkpoint.notes),
        missing=[checkpoint.family.stored_name(name, checkpoint.layout) for name in checkpoint.missing],
        unexpected=[f"{stored.name} ({stored.file.name})" for stored in checkpoint.unexpected],
        misshaped=[
            f"{source.stored.name} ({source.stored.file.name}): {list(source.shape)}, expected {list(wanted)}"
            for _, source, wanted in checkpoint.misshaped
        ],
    )


def _short(file: Path, folder: Path) -> str:
    return file.name if file.parent == folder else str(file)
