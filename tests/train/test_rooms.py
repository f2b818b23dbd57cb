"""A reader of the 7B path meets nothing of the tiny model; published commands find the worker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SEVEN = """
import sys
from viscot_core.train import worker
from viscot_core.train.job import launch, slurm
from viscot_core.train.loop.stage import run_stage
from viscot_core.train.objectives.base import objective_class
from viscot_core.train.plan.make_plan import make_plan
from viscot_core.train.plan.plan_types import Machine
from viscot_core.train.recipe.load import load_recipe
from viscot_core.train.state import zero

recipe = load_recipe("7b-336")
make_plan(recipe, Machine(gpus=8), run="run", data="data")
for stage in recipe.stages:
    objective_class(stage, recipe.model)
"""
GOLDEN = """
import sys
from pathlib import Path
sys.path.insert(0, {support!r})
from made_training import golden_recipe
from viscot_core.train import worker

recipe = golden_recipe(Path({golden!r}), max_steps=1, epochs=None)
worker.run(Path({run!r}), recipe.model_copy(update={{"stages": (recipe.stage("finetune"),)}}))
"""
TINY = "\nprint([name for name in sys.modules if name.startswith('viscot_core.train.tiny')])"


def loaded(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code + TINY], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


def test_a_7b_plan_and_its_loop_load_nothing_of_the_tiny_model() -> None:
    assert loaded(SEVEN) == "[]"


@pytest.mark.slow
def test_a_run_from_a_base_model_loads_nothing_of_the_tiny_model(
    repo: Path, shared: Path, tmp_path: Path
) -> None:
    places = {"support": str(repo / "tests/support"), "golden": str(shared / "golden")}
    assert loaded(GOLDEN.format(**places, run=str(tmp_path / "run"))) == "[]"


@pytest.mark.slow
def test_published_commands_find_the_worker(repo: Path) -> None:
    """The first design's ``--dry-run`` printed ``-m viscot_core.train.worker``: people's scripts hold it."""
    argv = [sys.executable, "-m", "viscot_core.train.worker", "--help"]
    done = subprocess.run(argv, cwd=repo, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--run-folder" in done.stdout and "--stage" in done.stdout
