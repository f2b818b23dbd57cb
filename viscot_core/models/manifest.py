"""``viscot.json``: what a checkpoint folder cannot say in transformers' own files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from viscot_core.errors import CheckpointError

MANIFEST_NAME = "viscot.json"

TurnTokens = Literal["plain", "legacy", "v4.31"]


class Manifest(BaseModel):
    """How a checkpoint is to be spoken to; stored beside its weights."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    name: str
    template: str = "vicuna_v1"
    turn_tokens: TurnTokens = "plain"
    """How the tokenizer splits a turn's start after ``</s>``: see ``models/tokens.py``."""
    image_side: int
    """Side of the vision tower's input, pixels."""
    box_format: str = "viscot"
    training: dict[str, Any] | None = None
    """Recipe, data and figures of a model that viscot trained."""

    def save(self, folder: Path) -> None:
        """Write ``folder/viscot.json`` atomically."""
        target = folder / MANIFEST_NAME
        temporary = target.with_suffix(".tmp")
        temporary.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, target)

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """The folder's manifest, or None where it has none.

        Raises:
            CheckpointError: the file is there but damaged.
        """
        path = folder / MANIFEST_NAME
        if not path.exists():
            return None
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, ValidationError) as error:
            first = str(error).splitlines()[0]
            raise CheckpointError(
                f"{path} is damaged ({first}); delete it to let viscot derive one."
            ) from error
