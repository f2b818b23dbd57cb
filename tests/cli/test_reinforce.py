"""``viscot prefer`` and ``viscot reinforce`` from the outside: plans, refusals, short runs that go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from viscot_core.data.synth import write_dataset

Cli = Callable[..., Any]
SHORT = ("--gpus", "0", "--set", "report_to=[]")


def sets(kind: str, **values: object) -> list[str]:
    return [word for name, value in values.items() for word in ("--set", f"stages.{kind}.{name}={value}")]


def test_the_plan_of_eight_gpus_names_what_is_not_estimated(cli: Cli) -> None:
    ran = cli("reinforce", "--recipe", "qwen3-vl-8b-grpo", "--dry-run", "--gpus", "8", "--gpu-memory", "80")
    assert ran.code == 2 and "--stage grpo" in ran.out and "group: 8" in ran.out
    assert not [line for line in ran.out.splitlines() if line.startswith("hours on") and "~" in line]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reinforce.rewards": "{iuo: 1.0}"}, "Did you mean 'iou'"),
        ({"reinforce.rewards": "{}"}, "name at least one"),
        ({"reinforce.rewards": "{iou: 0}"}, "other than 0"),
        ({"reinforce.group": 1}, "group"),
        ({"reinforce.looks": 2}, "only for reinforce.strategy zoom"),
        ({"reinforce.strategy": "zoom", "reinforce.dialect": "deepeye"}, "Did you mean 'deepeyes'"),
        ({"zero_stage": 3}, "needs whole weights"),
        ({"packing": "true"}, "are padded"),
        ({"preference.beta": 0.1}, "only for stages of kind dpo"),
    ],
)
def test_wrong_settings_get_a_sentence(cli: Cli, change: dict[str, object], said: str) -> None:
    ran = cli("reinforce", "--recipe", "tiny-grpo", "--dry-run", *sets("grpo", **change))
    assert ran.code == 2 and said in ran.err, ran.err


def test_a_recipe_without_the_stage(cli: Cli) -> None:
    assert cli("prefer", "--recipe", "tiny-grpo", "--dry-run").code == 2
    assert cli("reinforce", "--recipe", "7b-336", "--dry-run").code == 2


def test_a_file_that_holds_no_pairs(cli: Cli, tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    rows.write_text('[{"id": 1, "conversations": [{"from": "human", "value": "a"}]}]')
    ran = cli("prefer", "--recipe", "tiny-dpo", "--data", rows, "--out", tmp_path / "run", *SHORT)
    assert ran.code != 0 and "chosen" in ran.err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_pairs_and_rewards_from_data_to_model(cli: Cli, tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_dataset(root, train=4, val=2, seed=5)
    options = "--boxes 3 --temperature 1.5 --reward iou --margin 0.01 --max-new-tokens 40"
    assert cli("data", "prefs", "--data", root, *options.split(), "--out", root / "prefs.jsonl").code == 0
    few = {"global_batch_size": 2, "save_steps": 1, "eval.questions": 2, "eval.steps": 2, "workers": 0}
    prefer = ("prefer", "--recipe", "tiny-dpo", "--data", root, "--out", tmp_path / "dpo", *SHORT)
    ran = cli(*prefer, *sets("dpo", **few, epochs="null", max_steps=2))
    assert ran.code == 0, ran.err
    assert (tmp_path / "dpo/model.safetensors").is_file()
    few |= {"reinforce.group": 2, "max_steps": 2}
    reinforce = ("reinforce", "--recipe", "tiny-grpo", "--data", root, "--out", tmp_path / "grpo", *SHORT)
    ran = cli(*reinforce, *sets("grpo", **few))
    assert ran.code == 0, ran.err
    (log,) = (tmp_path / "grpo/stages").glob("*/log.jsonl")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"reward", "reward_iou", "flat", "kl", "looks"} <= set().union(*rows)
    assert any("eval_box" in row for row in rows), "held-out figures, as bench has them"
    assert cli(*reinforce, *sets("grpo", **few), "--resume").code == 0
