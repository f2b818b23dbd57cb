"""The scripts that measure still run: nothing else calls them, and a GPU may be there for minutes only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parent / "performance"
# What a script imports from beside it is found as where a person starts it.
NAMES = sorted(
    file.name
    for file in SCRIPTS.glob("*.py")
    if "argparse" in file.read_text() and "__main__" in file.read_text()
)


def ran(name: str, *options: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(SCRIPTS / name), *options]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=env)


@pytest.mark.parametrize("name", NAMES)
def test_it_starts(name: str) -> None:
    found = ran(name, "--help")
    assert found.returncode == 0 and "usage" in found.stdout, found.stderr


def test_the_five_walks_are_counted() -> None:
    found = ran("walks.py")
    assert found.returncode == 0, found.stdout + found.stderr
    for walk in ("question", "training row", "recipe to first loss", "item to table cell", "judge call"):
        (line,) = [line for line in found.stdout.splitlines() if line.startswith(f"{walk} ")]
        assert int(line.removeprefix(walk).split()[0]) > 5


def test_every_section_of_the_gpu_script_runs_on_a_cpu(tmp_path: Path) -> None:
    found = ran(
        "gpu.py", "--size", "toy", "--device", "cpu", "--minutes", "6", "--out", str(tmp_path / "gpu.json")
    )
    assert found.returncode == 0, found.stdout + found.stderr
    record = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert not record["errors"] and set("abcdefg") <= set(record["sections"])
