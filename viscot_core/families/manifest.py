"""``viscot.json``: what a checkpoint folder cannot say in transformers' own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from viscot_core.errors import CheckpointError
from viscot_core.files import atomic_write

MANIFEST_NAME = "viscot.json"

OWN_TEMPLATE = "own"
"""A manifest's ``template`` of a model that brings a chat template with its files."""
TurnTokens = Literal["plain", "legacy", "v4.31"]
Policy = Literal["two-turn", "direct", "zoom"]


class Manifest(BaseModel):
    """How a checkpoint is to be spoken to; stored beside its weights."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    name: str
    template: str = "vicuna_v1"
    turn_tokens: TurnTokens = "plain"
    """How the tokenizer splits a turn's start after ``</s>``: see ``families/llava/processor.py``."""
    image_side: int | None = None
    """Side of the square image that the vision tower reads, pixels; None where sizes vary."""
    box_format: str | None = "viscot"
    """How the model writes boxes (``boxes.registry``); None where that is not certain."""
    policy: Policy | None = None
    """How the model looks where the user does not say; None: as the command does."""
    training: dict[str, Any] | None = None
    """Recipe, data and figures of a model that viscot trained."""

    def save(self, folder: Path) -> None:
        """Write ``folder/viscot.json`` atomically."""
        with atomic_write(folder / MANIFEST_NAME) as file:
            # Left out where it says nothing: an older viscot refuses names that it does not know.
            empty = {"policy"} if self.policy is None else None
            file.write(self.model_dump_json(indent=2, exclude=empty) + "\n")

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
        except ValidationError as error:
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise CheckpointError(_damaged(path, reason)) from error
        except (OSError, ValueError) as error:
            raise CheckpointError(_damaged(path, str(error))) from error


def _damaged(path: Path, reason: str) -> str:
    return f"{path} is damaged ({reason}); delete it to let viscot derive one."
