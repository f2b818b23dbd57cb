"""The formats of a run folder stand on the ground floor: whoever reads a run loads nothing else for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

GROUND = {
    "viscot_core",
    "viscot_core.addresses",
    "viscot_core.errors",
    "viscot_core.files",
    "viscot_core.lines",
    "viscot_core.runs",
}


@pytest.mark.parametrize("module", ["records", "journal", "tally"])
def test_reading_and_writing_a_run_loads_only_formats(module: str) -> None:
    """In a process of its own: other tests have loaded engines."""
    code = f"import sys, viscot_core.runs.{module}; print(*(name for name in sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = {name for name in ran.stdout.split() if name.startswith("viscot_")}
    formats = {f"viscot_core.runs.{name}" for name in ("records", "journal", "tally")}
    assert f"viscot_core.runs.{module}" in ours
    assert ours <= GROUND | formats
