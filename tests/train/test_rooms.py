"""Who may know what in ``train/``: no circles, no LLaVA, and nothing of the tiny model on the 7B path."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOM = "viscot_core.train"
FAMILY_WORDS = re.compile(
    r"model\.vision_tower\.|multi_modal_projector|mm_projector|\.language_model\b|\blm_head\.\b576\b|</s>|USER:"
)
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


def modules(repo: Path) -> dict[str, Path]:
    """Every module of the room by its name."""
    files = sorted((repo / "viscot_core/train").rglob("*.py"))
    names = [".".join(path.relative_to(repo).with_suffix("").parts) for path in files]
    return {name.removesuffix(".__init__"): path for name, path in zip(names, files, strict=True)}


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The room's modules that a file imports, also late ones and those for types only."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(ROOM):
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else node.module for name in inside)


def test_no_module_imports_itself_over_others(repo: Path) -> None:
    known = modules(repo)
    graph = {name: set(imports(path, known)) for name, path in known.items()}
    assert len(graph) > 30
    while free := [name for name, needed in graph.items() if not needed & graph.keys()]:
        for name in free:
            del graph[name]
    assert not graph, f"these import one another: {sorted(graph)}"


def test_tensors_tokens_and_model_classes_are_the_familys(repo: Path) -> None:
    for name, path in modules(repo).items():
        text = path.read_text(encoding="utf-8")
        assert not FAMILY_WORDS.search(text), name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("transformers"):
                classes = [alias.name for alias in node.names if alias.name.endswith(("Model", "Generation"))]
                assert not classes, f"{name} imports {classes}"


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


def test_published_commands_find_the_worker(repo: Path) -> None:
    """The first design's ``--dry-run`` printed ``-m viscot_core.train.worker``: people's scripts hold it."""
    argv = [sys.executable, "-m", "viscot_core.train.worker", "--help"]
    done = subprocess.run(argv, cwd=repo, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--run-folder" in done.stdout and "--stage" in done.stdout
