"""As much of transformers as the stand-in for vLLM needs: what loads a processor of images says with what."""

from __future__ import annotations

from typing import Any


class AutoImageProcessor:
    @classmethod
    def from_pretrained(cls, folder: str, **options: Any) -> dict[str, Any]:
        return options
