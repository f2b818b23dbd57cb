"""Data roots for the tests of the benchmark."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from made_bench import write_root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root of twelve questions about six pictures."""
    return write_root(tmp_path / "data")


@pytest.fixture
def golden_root(shared: Path, tmp_path: Path) -> Path:
    """The golden end-to-end data in a data root's layout."""
    golden, root = shared / "golden", tmp_path / "golden"
    for folder in ("benchmark", "benchmark_det", "refcoco"):
        (root / folder).mkdir(parents=True)
    shutil.copy(golden / "e2e" / "benchmark.json", root / "benchmark" / "made.json")
    shutil.copy(golden / "e2e" / "benchmark_det.jsonl", root / "benchmark_det" / "made.jsonl")
    shutil.copy(golden / "e2e" / "refcoco.jsonl", root / "refcoco" / "REC_refcoco_made_val.jsonl")
    for target in (root, root / "coco" / "train2014" / "train2014"):
        target.mkdir(parents=True, exist_ok=True)
        for picture in (golden / "images").iterdir():
            shutil.copy(picture, target / picture.name)
    return root
