"""``viscot recipes list | show | copy | check``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

Cli = Callable[..., "object"]


def test_list(cli: Cli) -> None:
    ran = cli("recipes", "list")
    assert "all weights / LoRA" in ran.err
    assert ran.code == 0
    for name in ("tiny", "7b-224", "7b-336", "13b-224", "13b-336"):
        assert name in ran.out
    rows = [json.loads(line) for line in cli("recipes", "list", "--json").out.splitlines()]
    assert rows[0]["name"] == "tiny" and rows[1]["stages"] == ["pretrain", "finetune"]
    memory = {row["name"]: row["memory_gib"] for row in rows}
    assert memory["qwen2.5-vl-7b"]["1 x 24 GB"] == {"full": None, "lora": None}
    assert memory["qwen2.5-vl-3b"]["1 x 24 GB"]["full"] is None
    assert 5 < memory["qwen2.5-vl-3b"]["1 x 24 GB"]["lora"] < 20
    attempts = memory.pop("qwen3-vl-8b-grpo")["8 x 80 GB"]  # 16 rows at once
    assert attempts["full"] is None and memory["qwen3-vl-8b"]["8 x 80 GB"]["lora"] < attempts["lora"] < 80
    assert all(row["8 x 80 GB"]["full"] < 80 for row in memory.values())


def test_show(cli: Cli) -> None:
    assert "# viscot train --recipe 7b-336" in cli("recipes", "show", "7b-336").out
    assert "adam_beta2: 0.999" in cli("recipes", "show", "7b-336", "--resolved").out
    explained = cli("recipes", "show", "7b-336", "--explain").out
    assert "stages.finetune.warmup_ratio" in explained and "script" in explained and "samples" in explained


def test_copy_and_check(cli: Cli, tmp_path: Path) -> None:
    mine = tmp_path / "my recipe.yaml"
    assert cli("recipes", "copy", "tiny", mine).code == 0
    assert cli("recipes", "check", mine).code == 0
    again = cli("recipes", "copy", "tiny", mine)
    assert again.code == 2 and "--force" in again.err
    mine.write_text(mine.read_text() + "sed: 3\n")
    wrong = cli("recipes", "check", mine)
    assert wrong.code == 2 and "sed: 3 - unknown key. Did you mean 'seed'?" in wrong.err
