"""What ``viscot score`` can be asked for. Imports nothing, so that the command's help stays fast."""

from __future__ import annotations

from enum import StrEnum


class PromptStyle(StrEnum):
    """Which answers are shown to the judge between delimiters."""

    PAPER = "paper"
    """Only those that could be mistaken for instructions; all others are sent exactly as in the reference."""
    GUARDED = "guarded"
    """All of them."""
