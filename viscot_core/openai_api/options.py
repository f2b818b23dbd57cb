"""How a user wants a server to be asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from viscot_core.errors import UsageError, check_choice
from viscot_core.openai_api.budget import Price


@dataclass(frozen=True)
class ImageForm:
    """How images are sent: ``png`` (lossless), ``jpeg`` or ``webp`` of ``quality``, their longer side at most
    ``max_side`` pixels (None: as large as they are). Without ``whole``, a model that is known to read a
    smaller square is sent that.
    """

    format: Literal["png", "jpeg", "webp"] = "png"
    quality: int = 90
    max_side: int | None = None
    whole: bool = False

    def __post_init__(self) -> None:
        check_choice("--image-format", self.format, ("png", "jpeg", "webp"))

    @property
    def identity(self) -> dict[str, str]:
        """What changes the text; nothing for images that are sent as they are."""
        found = {} if self.format == "png" else {"image_format": f"{self.format} {self.quality}"}
        return found | ({"max_image_side": str(self.max_side)} if self.max_side else {})


@dataclass(frozen=True)
class ApiOptions:
    """How a server is used.

    Attributes:
        concurrency: calls at once.
        timeout: seconds after which a call that brought no whole reply counts as stalled. A stream may take
            ten times as long, if no pause in it is longer than ``timeout``.
        attempts: tries per request where a fault may pass.
        max_requests, max_cost: limits of one client; ``max_cost`` is in dollars and needs ``price``.
        cache: folder of kept replies, for a server whose name stands for one model for good; None keeps none.
        fresh: ask again even where the cache holds a reply.
        extra_body: fields of the user's own for each request, over those of viscot.
        images: how images are sent.
        same_engine: the server is the one that a run folder knows under another address.
    """

    concurrency: int = 8
    timeout: float = 120.0
    attempts: int = 6
    max_requests: int | None = None
    max_cost: float | None = None
    price: Price | None = None
    cache: Path | None = None
    fresh: bool = False
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    images: ImageForm = field(default_factory=ImageForm)
    same_engine: bool = False

    def __post_init__(self) -> None:
        if self.max_cost is not None and self.price is None:
            raise UsageError("--max-cost needs --price INPUT,OUTPUT in dollars for a million tokens each.")
        if taken := [name for name in ("model", "messages", "stream") if name in self.extra_body]:
            raise UsageError(f"--extra-body may not set {taken[0]}: viscot does.")

    @property
    def is_special(self) -> bool:
        """Whether it says anything that only a server can do."""
        return bool(self.extra_body) or bool(self.images.identity)


def extra_body_of(text: str | None) -> dict[str, Any]:
    """``--extra-body`` as fields. Raises UsageError where it is no JSON object."""
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        example = '{"chat_template_kwargs": {"enable_thinking": false}}'
        raise UsageError(f"--extra-body is a JSON object like '{example}'.")
    return found
