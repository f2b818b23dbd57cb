"""Scores and reports are read from run folders: no engine, no model, and few files are loaded for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

MODULES = ("viscot_core.report.compare", "viscot_core.report.report_data", "viscot_core.score.scoring")
ENGINE_ROOMS = ("engines", "families", "models", "rollout", "policies", "train", "lmms_eval", "sources")


@pytest.mark.parametrize("module", MODULES)
def test_no_engine_is_imported(module: str) -> None:
    """In a process of its own: other tests have loaded engines."""
    code = f"import sys, {module}; print(*(name for name in sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = ran.stdout.split()
    ours = [name for name in loaded if name.startswith("viscot_")]
    assert module in ours
    assert not [name for name in ours if name.split(".")[1:2] and name.split(".")[1] in ENGINE_ROOMS]
    assert not {"torch", "transformers", "scipy"} & set(loaded)
    assert len(ours) <= 29, ours
