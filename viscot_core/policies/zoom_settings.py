"""What a user says of the zoom loop, what a run folder keeps of it, and the policy that both name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from viscot_core.boxes.formats import Codec
from viscot_core.errors import UsageError, check_choice
from viscot_core.policies.dialects.base import Call, Dialect, Result, Situation
from viscot_core.policies.dialects.known import DIALECTS, dialect
from viscot_core.policies.zoom import CROPS_FROM, MOST_IMAGES, CropFrom, Zoom

# A model's name, in small letters and without signs, that makes its dialect certain.
_NAMES = {
    "deepeyes": "deepeyes",
    "minio3": "mini-o3",
    "pixelreasoner": "pixel-reasoner",
    "qwen35": "qwen3.5",
    "qwen36": "qwen3.5",
    "qwen38": "qwen3.5",
    "qwen3vl": "qwen3-vl",
}


@dataclass(frozen=True)
class ZoomSettings:
    """Everything of the loop that can change an answer.

    ``looks`` None: as many as the dialect's authors allow.
    """

    dialect: str = "viscot"
    looks: int | None = None
    crop_from: CropFrom = "original"
    most_images: int = MOST_IMAGES
    most_pixels: int | None = None

    def __post_init__(self) -> None:
        dialect(self.dialect)
        check_choice("--crop-from", self.crop_from, CROPS_FROM)

    def policy(self, max_new_tokens: int = 128) -> Zoom:
        """The policy; a turn may have as many tokens as its dialect needs, or more."""
        found = dialect(self.dialect)
        looks = found.rules.looks if self.looks is None else self.looks
        tokens = max(found.rules.turn_tokens, max_new_tokens)
        return Zoom(found, looks, self.crop_from, self.most_images, self.most_pixels, turn_tokens=tokens)

    def record(self) -> dict[str, Any]:
        """For ``run.json``: the settings as they work, and a digest of every word of the dialect."""
        policy = self.policy()
        return {**asdict(self), "looks": policy.looks, "words": _digest(policy.dialect)}


def settings_of(recorded: Mapping[str, Any]) -> ZoomSettings:
    """What ``record`` kept; the defaults where a run has none."""
    known = {name: recorded[name] for name in asdict(ZoomSettings()) if name in recorded}
    return ZoomSettings(**known)


def dialect_for(name: str | None, codec: Codec | None) -> str:
    """The dialect that a model's ``name`` or its box format makes certain.

    Raises:
        UsageError: neither does.
    """
    plain = "".join(letter for letter in (name or "").rpartition("#")[2].lower() if letter.isalnum())
    for part, found in _NAMES.items():
        if part in plain:
            return found
    if codec is not None and codec.name == "viscot":
        return "viscot"
    raise UsageError(
        f"Nothing says how this model calls a zoom tool; name it with --dialect: {', '.join(DIALECTS)}."
    )


def _digest(found: Dialect) -> str:
    """Sixteen hex digits that change with any word of the dialect, and with its rules."""
    call = Call("call", (0, 0, 1, 1), 0, id="1")
    results = (Result(call, 1, (640, 480)), Result(call, refused="why"))
    said = [
        message.text
        for result in results
        for last in (False, True)
        for message in found.observe([result], Situation("What?", 1, 1, last))
    ]
    asked = [message.text for message in found.ask("What?", 1)]
    words = [*asked, *said, found.tools, *found.stop, found.frame, repr(found.rules)]
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]
