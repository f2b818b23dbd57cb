"""``kill -9`` of commands that make a folder: the same command then works, and nothing of the kills stays."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

KILLS = 5


def _start(words: list[str | Path]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "import sys; from viscot_cli.app import main; sys.exit(main())"]
    quiet = subprocess.DEVNULL
    return subprocess.Popen([*command, *map(str, words)], stdout=quiet, stderr=quiet, process_group=0)


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("name", "there"), [("synth", "empty"), ("synth", "missing"), ("export", "empty")])
def test_killed_into_a_folder(copy: Path, tmp_path: Path, name: str, there: str) -> None:
    words: list[str | Path] = {
        "synth": ["data", "synth", "--train", "150", "--val", "30", "--seed", "7", "--out"],
        "export": ["models", "export", copy, "--layout", "hf", "--out"],
    }[name]
    began = time.monotonic()
    assert _start([*words, tmp_path / "whole"]).wait() == 0
    lasts = time.monotonic() - began
    rng = random.Random(f"{name} {there}")
    out = tmp_path / "place" / "out"
    out.parent.mkdir()
    for _ in range(KILLS):
        if there == "empty":
            out.mkdir(exist_ok=True)
        process = _start([*words, out])
        _wait_for_writing(out)
        time.sleep(rng.uniform(0, lasts / 4))
        if process.poll() is None:
            os.killpg(process.pid, 9)
        if process.wait() == 0:
            shutil.rmtree(out)  # it was quicker than the kill
    if there == "empty":
        out.mkdir(exist_ok=True)
    if _content(out) != _content(tmp_path / "whole"):
        assert _start([*words, out]).wait() == 0
    assert _content(out) == _content(tmp_path / "whole")
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def _wait_for_writing(out: Path) -> None:
    """Until the command has made something: most of its time goes into imports."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        beside = any(path.suffix == ".partial" for path in out.parent.iterdir())
        if beside or (out.is_dir() and any(out.iterdir())):
            return
        time.sleep(0.002)
