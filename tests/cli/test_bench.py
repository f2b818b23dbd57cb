"""``viscot bench`` from the command line: exit codes, sentences, continuing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_bench import write_root

Cli = Callable[..., Any]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_root(tmp_path / "data", count=4, pictures=2)


@pytest.fixture
def model(shared: Path) -> Path:
    return shared / "golden" / "tiny_llava"


def test_a_run_its_continuation_and_one_item(cli: Cli, root: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    base = ("bench", "cot", "--model", model, "--data", root, "--out", out, "--max-new-tokens", "8")
    ran = cli(*base, "--strategy", "cot,direct")
    assert ran.code == 0, ran.err
    assert "8 of 8 done (8 now" in ran.out
    assert "0 now" in cli(*base, "--strategy", "cot,direct").out
    refused = cli(*base, "--seed", "3")
    assert refused.code == 2
    assert "seed: 0 -> 3" in refused.err
    shown = cli("bench", "show", out, "--id", "made:3", "--save", tmp_path / "three.png")
    assert shown.code == 0
    assert "prompt 2" in shown.out
    assert (tmp_path / "three.png").exists()


def test_unreadable_pictures_make_it_partly_done(cli: Cli, root: Path, model: Path, tmp_path: Path) -> None:
    (root / "cot" / "made" / "1.png").write_bytes(b"no picture")
    ran = cli(
        "bench", "cot", "--model", model, "--data", root, "--out", tmp_path / "out", "--max-new-tokens", "4"
    )
    assert ran.code == 3
    assert "2 failed and 0 pending" in ran.err
    assert "2 of 4 done" in ran.out


def test_refcoco(cli: Cli, root: Path, model: Path, tmp_path: Path) -> None:
    ran = cli(
        "bench", "refcoco", "--model", model, "--data", root, "--out", tmp_path, "--max-new-tokens", "4"
    )
    assert ran.code == 0, ran.err
    assert "4 of 4 done" in ran.out


def test_what_is_wrong_is_told_before_a_model_is_loaded(cli: Cli, root: Path) -> None:
    for words, sentence in (
        (("--strategy", "cott"), "Did you mean 'cot'"),
        (("--tasks", "mode"), "Did you mean 'made'"),
        (("--suite", "paper"), "no data set cub"),
        (("--crop-policy", "tigth"), "Did you mean 'tight'"),
        (("--protocol", "papers"), "Did you mean 'paper'"),
        (("--box-format", "qwen25-vl"), "Did you mean 'qwen2.5-vl'"),
    ):
        ran = cli("bench", "cot", "--model", "/no/such/model", "--data", root, "--out", root / "out", *words)
        assert ran.code == 2, ran.err
        assert sentence in ran.err
    (root / "cot" / "made" / "1.png").unlink()
    ran = cli("bench", "cot", "--model", "/no/such/model", "--data", root, "--out", root / "out")
    assert ran.code == 1
    assert "1 pictures are missing (2 of 4 questions need them)" in ran.err
    assert not (root / "out").exists()


def test_the_lists(cli: Cli) -> None:
    listed = cli("bench", "list")
    assert listed.code == 0
    for name in ("visual7w", "random-box", "refcocog:test", "qwen2.5-vl"):
        assert name in listed.out
