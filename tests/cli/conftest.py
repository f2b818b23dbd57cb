"""The tiny golden model, as options of a command."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def tiny(golden: Path) -> tuple[str, str]:
    return ("--model", str(golden / "tiny_llava"))
