"""Hostile YAML ends with one sentence, at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from viscot_core.yaml_text import load_yaml

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BOMB, "aliases"),
        ("a: &a [*a]", "aliases"),
        ("a: &a {b: *a}", "aliases"),
        ("[" * 60 + "]" * 60, "deeply nested"),
        ("[" * 100_000, "deeply nested"),
        ("x" * (1 << 21), "more than"),
        ("a: 2026-02-31", "day"),
    ],
)
def test_what_would_never_end_is_refused(text: str, told: str) -> None:
    start = time.monotonic()
    with pytest.raises(yaml.YAMLError, match=told):
        load_yaml(text)
    assert time.monotonic() - start < 10


def test_plain_yaml_and_a_few_aliases_stay() -> None:
    text = "a: &a [1, 2]\nb: *a\nc: {d: 1e-3}\n"
    assert load_yaml(text) == yaml.safe_load(text)
    assert load_yaml("") is None


def test_commands_name_the_file(cli: Callable[..., object], tmp_path: Path) -> None:
    for name in ("recipe.yaml", "list.yaml"):
        (tmp_path / name).write_text(f"name: x\n{BOMB}")
    for argv in (
        ("recipes", "check", tmp_path / "recipe.yaml"),
        ("train", "--recipe", tmp_path / "recipe.yaml", "--dry-run"),
        ("data", "mix", tmp_path / "list.yaml", "--out", tmp_path / "out"),
    ):
        ran = cli(*argv)
        assert ran.code == 2 and "aliases" in ran.err and ".yaml" in ran.err
        assert len(ran.err) < 1000 and "unexpected" not in ran.err.lower()


def test_layers_without_end(cli: Callable[..., object], tmp_path: Path) -> None:
    text = '{"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "text_config": %s}'
    (tmp_path / "config.json").write_text(text % '{"num_hidden_layers": 10000000}')
    ran = cli("models", "inspect", tmp_path)
    assert ran.code == 1 and "num_hidden_layers 10000000 is more than 1000" in ran.err
    ran = cli("recipes", "check", "tiny", "--set", "model.scratch.llm_layers=10000000")
    assert ran.code == 2 and "model.scratch.llm_layers" in ran.err
    ran = cli("recipes", "check", "tiny", "--set", "stages.finetune.global_batch_size=1000000000000")
    assert ran.code == 2 and "global_batch_size" in ran.err


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 5}', '{"a": [1]}', "\x00", "[" * 100_000])
@pytest.mark.parametrize("name", ["coco-train2017.json", "lock.json"])
def test_damaged_records_of_a_data_root_are_named(
    text: str, name: str, cli: Callable[..., object], tmp_path: Path
) -> None:
    (tmp_path / ".viscot").mkdir()
    (tmp_path / ".viscot" / name).write_text(text)
    for argv in (
        ("data", "list", "--data", tmp_path),
        ("data", "fetch", "--for", "bench", "--dry-run", "--data", tmp_path),
    ):
        ran = cli(*argv)
        assert "unexpected" not in ran.err.lower() and "Traceback" not in ran.err
        assert ran.code in (0, 1, 2)
        if ran.code:
            assert name in ran.err
