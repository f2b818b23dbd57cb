"""``viscot train | pretrain | finetune`` from the command line, without starting a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., "object"]
EIGHT = ("--gpus", "8", "--gpu-memory", "80")


def test_dry_run_prints_everything(cli: Cli) -> None:
    ran = cli("train", "--recipe", "13b-336", "--dry-run", *EIGHT)
    assert ran.code == 2 and "would refuse to start, for the reasons above" in ran.err
    for text in (
        "learning_rate: 2.0e-05",
        "-m torch.distributed.run --nproc_per_node=8",
        "pretrain is skipped: the projector comes from liuhaotian/",
        "4 x 4 x 8",
        "1 of 2",
        "19,047",
        "memory per process, GiB",
        "would refuse to start: stages.finetune: viscot_mixed_2m.json",
        "~",
    ):
        assert text in ran.out


def test_one_stage_by_name(cli: Cli) -> None:
    ran = cli("pretrain", "--recipe", "7b-336", "--dry-run", *EIGHT)
    assert ran.code == 2 and "--stage pretrain" in ran.out and "--stage finetune" not in ran.out
    ran = cli(
        "finetune", "--recipe", "7b-336", "--dry-run", "--set", "stages.finetune.learning_rate=1e-5", *EIGHT
    )
    assert ran.code == 2 and "learning_rate: 1.0e-05" in ran.out


def test_adapters_on_ones_own_data(cli: Cli, tmp_path: Path) -> None:
    rows = tmp_path / "my data.json"
    rows.write_text(
        '[{"id": "1", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}]'
    )
    ran = cli(
        "finetune",
        "--recipe",
        "7b-336",
        "--lora",
        "64",
        "--load-in",
        "4bit",
        "--data",
        rows,
        "--dry-run",
        *EIGHT,
    )
    assert "load_in: 4bit" in ran.out and "my data.json" in ran.out
    refused = [line for line in ran.out.splitlines() if line.startswith("would refuse")]
    assert ran.code == 2 and all("model." in line for line in refused), "only the base model is not here"


@pytest.mark.parametrize(
    ("argv", "code", "told"),
    [
        (("train", "--recipe", "13-336", "--dry-run"), 2, "Did you mean '13b-336'"),
        (("train", "--recipe", "tiny"), 2, "give --data"),
        (("train", "--recipe", "tiny", "--data", "/nowhere"), 1, "train.json is not under the data root"),
        (("train", "--recipe", "7b-336", "--nnodes", "2", "--data", "."), 2, "--rdzv"),
        (
            ("train", "--recipe", "7b-336", "--dry-run", "--gpus", "6", "--gpu-memory", "80"),
            2,
            "4 or 8 processes",
        ),
        (
            ("train", "--recipe", "7b-336", "--dry-run", "--gpus", "1", "--gpu-memory", "8"),
            2,
            "not even one sample",
        ),
        (
            ("train", "--recipe", "7b-336", "--dry-run", "--set", "stages.finetune.epoch=2"),
            2,
            "Did you mean 'epochs'",
        ),
        (("finetune", "--recipe", "7b-224", "--dry-run", *EIGHT), 2, "needs a projector"),
    ],
)
def test_refusals_come_first_and_say_what_to_do(
    cli: Cli, argv: tuple[str, ...], code: int, told: str
) -> None:
    ran = cli(*argv)
    assert ran.code == code
    assert told in ran.err
    assert "Traceback" not in ran.err


def test_slurm_prints_a_script(cli: Cli) -> None:
    ran = cli("train", "--recipe", "7b-336", "--slurm", "print", "--nnodes", "2", "--data", ".", *EIGHT)
    assert ran.out.startswith("#!/bin/bash") and "#SBATCH --nodes=2" in ran.out
    assert ran.code == 2 and "would refuse to start: stages.finetune: viscot_mixed_2m.json" in ran.err
