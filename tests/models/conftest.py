"""Checkpoints that a test may damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def copy(golden: Path, tmp_path: Path) -> Path:
    """A tiny checkpoint in the original layout, beside the tower config it names."""
    shutil.copytree(golden / "tiny_clip", tmp_path / "tiny_clip")
    return Path(shutil.copytree(golden / "tiny_llava", tmp_path / "model"))


@pytest.fixture
def pickled(golden: Path, tmp_path: Path) -> Path:
    """The same weights in three ``.bin`` shards with their index."""
    shutil.copytree(golden / "tiny_clip", tmp_path / "tiny_clip")
    return Path(shutil.copytree(golden / "tiny_llava_bin", tmp_path / "pickled"))
