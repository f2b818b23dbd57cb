"""A checkpoint for other software: itself, or one export in the cache, also where two processes want it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from viscot_core.families.manifest import Manifest
from viscot_core.models.checkpoint import open_checkpoint
from viscot_core.models.exported import exported

WEIGHTS = "sha256:" + "a" * 40


def test_an_export_is_reused_and_a_complete_folder_is_its_own(golden: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(golden / "tiny_llava")
    made = exported(checkpoint, WEIGHTS, tmp_path)
    stamp = (made / "model.safetensors").stat().st_mtime_ns
    assert exported(checkpoint, WEIGHTS, tmp_path) == made
    assert (made / "model.safetensors").stat().st_mtime_ns == stamp
    checkpoint.manifest = Manifest(name="tiny", turn_tokens="legacy", image_side=56)
    assert exported(checkpoint, WEIGHTS, tmp_path) != made  # the same weights, other words
    assert exported(open_checkpoint(made), "other", tmp_path) == made


_CHILD = """
import sys
from pathlib import Path
from viscot_core.models.checkpoint import open_checkpoint
from viscot_core.models.exported import exported
checkpoint = open_checkpoint(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
print(exported(checkpoint, sys.argv[3], Path(sys.argv[2])), flush=True)
"""


@pytest.mark.slow
def test_two_processes_at_once_make_one_export(golden: Path, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", _CHILD, str(golden / "tiny_llava"), str(tmp_path), WEIGHTS]
    children = [
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    said = [child.communicate()[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert said[0] == said[1]
    assert [path.name for path in tmp_path.iterdir()] == [Path(said[0].strip()).name]
