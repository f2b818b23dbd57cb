"""Job scripts: what each node runs, what SLURM is asked for, and that no value becomes a command."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from viscot_core.errors import RecipeError, UsageError
from viscot_core.train.job import slurm
from viscot_core.train.plan.make_plan import make_plan
from viscot_core.train.plan.plan_types import Machine, Plan
from viscot_core.train.recipe.load import load_recipe, recipe_path

ARGV = ["train", "--recipe", "7b-336", "--nnodes", "4", "--data", "my data"]


def plan_of(run: str, data: Path) -> Plan:
    return make_plan(load_recipe("7b-336"), Machine(gpus=8, nodes=4), run=run, data=data)


def run_job(script: str, folder: Path, commands: Path) -> int:
    """The exit code of a job script in ``folder``, with the ``commands`` of a stand-in for SLURM."""
    job = {"SLURM_JOB_NODELIST": "n", "SLURM_JOB_ID": "7"}
    env = {"PATH": f"{commands}{os.pathsep}{os.environ['PATH']}", **job}
    return subprocess.run(["bash"], input=script, text=True, cwd=folder, env=env, check=False).returncode


def test_each_node_repeats_the_command(tmp_path: Path) -> None:
    plan = plan_of("runs/x", tmp_path)
    script = slurm.slurm_script(plan, [*ARGV, "--slurm", "print"])
    own = ["--slurm=submit", "--dry-run", "--partition", "a b", "--time=1:00:00", "--sbatch", "qos=long"]
    assert slurm.slurm_script(plan, [*ARGV, *own]) == script
    assert "#SBATCH --nodes=4" in script and "#SBATCH --gpus-per-node=8" in script
    assert "train --recipe 7b-336 --nnodes 4 --data 'my data' --rdzv \"$HEAD:29500\"" in script
    assert "--slurm" not in script and "${SLURM_RESTART_COUNT:+--resume}" in script
    assert "--output=runs/x.slurm-%j.log" in script, "the run folder itself takes no stranger's file"


def test_what_slurm_is_asked_for(tmp_path: Path) -> None:
    given = {"--partition": "gpu", "--account": "lab", "--time": "2-00:00:00", "--memory": "500G"}
    asked = slurm.settings(given | {"--cpus": "32"}, ["qos=long", "gpus-per-node=", "gres=gpu:8"])
    lines = slurm.slurm_script(plan_of("runs/x", tmp_path), ARGV, asked).splitlines()
    for line in ("partition=gpu", "account=lab", "time=2-00:00:00", "mem=500G", "cpus-per-task=32"):
        assert f"#SBATCH --{line}" in lines
    assert "#SBATCH --qos=long" in lines and "#SBATCH --gres=gpu:8" in lines
    assert "#SBATCH --exclusive" not in lines, "the user says how much of a machine"
    assert "#SBATCH --exclusive" in slurm.slurm_script(plan_of("runs/x", tmp_path), ARGV).splitlines()


@pytest.mark.parametrize(
    ("passed", "told"),
    [("qos", "KEY=VALUE"), ("--qos=a", "KEY=VALUE"), ("nodes=2", "--nnodes"), ("partition=b", "given twice")],
)
def test_what_sbatch_may_not_pass(passed: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        slurm.settings({"--partition": "a"}, [passed])


@pytest.mark.parametrize(
    "name", ["x\ntouch PWNED\n#", "../../../../tmp/x", "/tmp/x", "..", ".x", "-x", "", "a\x1b[2J"]
)
def test_a_recipes_name_is_a_word(name: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    text = recipe_path("tiny").read_text(encoding="utf-8")
    file.write_text(yaml.safe_dump(yaml.safe_load(text) | {"name": name}))
    with pytest.raises(RecipeError, match=r"name: .* letters, digits"):
        load_recipe(file)


def test_names_people_use_stay() -> None:
    for name in ("viscot-7b-336", "my run 2", "Größe_1.5+x", "模型"):
        assert load_recipe("tiny", [f"name={name}"]).name == name


def test_no_value_becomes_a_command(tmp_path: Path) -> None:
    """Quotes, a command substitution and a comment sign in a path stay a path; a line break is refused."""
    for number, run in enumerate(["a'b", 'a"b', "$(touch PWNED)", "`touch PWNED`", "a; touch PWNED #"]):
        plan = plan_of(run, tmp_path)
        script = slurm.slurm_script(plan, [*ARGV, "--out", run], {"comment": run})
        commands = tmp_path / f"bin{number}"
        commands.mkdir()
        for name, text in (("scontrol", "echo node0"), ("srun", 'printf "%s\\n" "$@" > words')):
            (commands / name).write_text(f"#!/bin/bash\n{text}\n")
            (commands / name).chmod(0o755)
        assert run_job(script, tmp_path, commands) == 0
        assert run in (tmp_path / "words").read_text().splitlines()
        assert not (tmp_path / "PWNED").exists()
    broken = "x\ntouch PWNED\n#"
    plan = plan_of("x", tmp_path)
    for words, asked in (([*ARGV, "--out", broken], {}), (ARGV, {"comment": broken})):
        with pytest.raises(UsageError, match="line break"):
            slurm.slurm_script(plan, words, asked)
    with pytest.raises(UsageError, match="line break"):
        slurm.slurm_script(plan_of(broken, tmp_path), ARGV)


def test_a_job_that_saved_before_it_was_stopped_is_started_again(tmp_path: Path) -> None:
    script = slurm.slurm_script(plan_of("x", tmp_path), ARGV)
    (tmp_path / "scontrol").write_text('#!/bin/bash\n[ "$1" = show ] || echo "$@" > said\n')
    for code, said in ((1, False), (3, True)):
        (tmp_path / "srun").write_text(f"#!/bin/bash\nexit {code}\n")
        for name in ("srun", "scontrol"):
            (tmp_path / name).chmod(0o755)
        assert run_job(script, tmp_path, tmp_path) == code and (tmp_path / "said").exists() == said
    assert (tmp_path / "said").read_text() == "requeue 7\n"


def test_slurms_options_go_with_slurm(cli: Callable[..., Any]) -> None:
    ran = cli("train", "--recipe", "tiny", "--dry-run", "--partition", "gpu")
    assert ran.code == 2 and "--partition only goes with --slurm" in ran.err
    argv = ("train", "--recipe", "7b-336", "--data", ".", "--gpus", "8", "--gpu-memory", "80")
    ran = cli(*argv, "--slurm", "print", "--partition", "gpu", "--cpus", "8", "--sbatch", "qos=long")
    assert "#SBATCH --partition=gpu" in ran.out and "#SBATCH --qos=long" in ran.out
    assert ran.code == 2 and "Do not submit this script yet" in ran.err
