"""The notebooks of docs/: stored with their outputs, and their code still runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))


def cells(path: Path) -> list[dict[str, Any]]:
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


def shown(cell: dict[str, Any]) -> list[list[str]]:
    """What kinds of output a cell has."""
    return [sorted(output.get("data", {"text": ""})) for output in cell["outputs"]]


def test_both_are_there() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["looking", "measuring"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_stored_with_its_outputs(path: Path) -> None:
    found = cells(path)
    assert [cell["execution_count"] for cell in found] == list(range(1, len(found) + 1))
    kinds = [output["output_type"] for cell in found for output in cell["outputs"]]
    assert "error" not in kinds
    assert sum("image/png" in kind for cell in found for kind in shown(cell)) >= 1
    text = path.read_text(encoding="utf-8")
    assert len(text) < 1_000_000
    assert str(ROOT) not in text and "/tmp/" not in text and "site-packages" not in text


@pytest.mark.slow
def test_their_code_runs_and_shows_the_same(tmp_path: Path) -> None:
    for package in ("nbclient", "ipykernel", "supervision"):
        pytest.importorskip(package, reason="needs viscot[dev]")
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, str(ROOT / ".ci/notebooks"), str(tmp_path)]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    for stored in NOTEBOOKS:
        again = cells(tmp_path / stored.name)
        for number, (then, now) in enumerate(zip(cells(stored), again, strict=True), 1):
            assert shown(then) == shown(now), f"{stored.name}, cell {number}"
    assert "'answer': '77'" in (tmp_path / "looking.ipynb").read_text(encoding="utf-8")
