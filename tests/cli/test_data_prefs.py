"""``viscot data prefs`` from the outside, with the bundled model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from viscot_core.data.synth import write_dataset
from viscot_core.train.preferences.pairs import read_pairs

Cli = Callable[..., Any]


@pytest.mark.slow
def test_pairs_of_the_bundled_model(cli: Cli, tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", train=4, val=1, seed=5)
    options = (
        "--boxes 4 --temperature 1.5 --limit 4 --reward iou --margin 0.01 --max-new-tokens 40 --device cpu"
    )
    words = ("data", "prefs", "--data", tmp_path / "data", *options.split())
    ran = cli(*words, "--out", tmp_path / "prefs.jsonl")
    assert ran.code == 0, ran.err
    pairs = list(read_pairs(tmp_path / "prefs.jsonl"))
    assert pairs and f"{len(pairs)} pairs of 4 items" in ran.out
    assert all(pair.scores["chosen"] >= pair.scores["rejected"] + 0.01 for pair in pairs)
    # The same seed draws the same looks.
    assert cli(*words, "--out", tmp_path / "again.jsonl").code == 0
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "prefs.jsonl").read_bytes()
    assert cli(*words, "--margin", "9", "--out", tmp_path / "none.jsonl").code == 1
    assert not (tmp_path / "none.jsonl").exists()


def test_wrong_usage(cli: Cli, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "prefs.jsonl")
    assert cli("data", "prefs", "--data", tmp_path / "no.json", *out).code == 1
    assert cli("data", "prefs", "--data", tmp_path, "--reward", "iuo", *out).code == 2
    assert cli("data", "prefs", "--data", tmp_path, "--boxes", "1", *out).code == 2
    (tmp_path / "train.json").write_text("[]")
    assert cli("data", "prefs", "--data", tmp_path, *out).code == 1
    assert not (tmp_path / "prefs.jsonl").exists()
