"""A built wheel, installed elsewhere, finds its recipes, images and bundled model; so does a checkout."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from itertools import chain
from pathlib import Path

import pytest

RECIPES = ("tiny", "7b-224", "7b-336", "13b-224", "13b-336")


def _pip(*words: str | Path) -> None:
    argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-qq", *map(str, words)]
    subprocess.run(argv, check=True)


@pytest.fixture(scope="module")
def wheel(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built with the installed backend (no download)."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, repo)
    (built,) = folder.glob("viscot-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the wheel's content and nothing else of ours."""
    target = tmp_path_factory.mktemp("site")
    _pip("install", "--no-deps", "--no-index", "--target", target, wheel)
    return target


def _run_elsewhere(installed: Path, cwd: Path, code: str) -> str:
    """Run ``code`` with the installed copy first on the path and the checkout not on it."""
    env = {**os.environ, "PYTHONPATH": str(installed), "VISCOT_DEBUG": "1"}
    argv = [sys.executable, "-c", code]
    ran = subprocess.run(argv, env=env, cwd=cwd, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_recipes_of_a_checkout(repo: Path) -> None:
    from viscot_core import resources

    assert {path.parent for path in resources.recipes().values()} == {repo / "recipes"}
    assert tuple(resources.recipes()) == RECIPES


def test_recipes_of_an_installed_wheel(installed: Path, tmp_path: Path) -> None:
    code = "from viscot_core import resources; print(*resources.recipes().values(), sep='\\n')"
    lines = _run_elsewhere(installed, tmp_path, code).split()
    assert [Path(line).stem for line in lines] == list(RECIPES)
    assert {Path(line).parent for line in lines} == {installed / "viscot_core" / "recipes"}


def test_the_command_runs_from_an_installed_wheel(installed: Path, tmp_path: Path) -> None:
    code = "import sys, viscot_cli.app as app; print(app.__file__); sys.exit(app.main(['--help']))"
    out = _run_elsewhere(installed, tmp_path, code)
    assert out.startswith(str(installed))
    assert "infer" in out or "doctor" in out
    assert (installed / "bin" / "viscot").is_file()


def test_the_wheel_carries_everything_tracked_and_nothing_else(repo: Path, wheel: Path) -> None:
    argv = ["git", "ls-files", "viscot_cli", "viscot_core"]
    listed = subprocess.run(argv, cwd=repo, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert set(listed.stdout.split()) <= names
    assert not [name for name in names if name.startswith(("tests/", "data/", "runs/", "."))]
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert wheel.stat().st_size < 40e6


def test_versions_are_the_ones_the_constraints_name(repo: Path) -> None:
    """Every direct requirement has one exact version in constraints.txt that satisfies it."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((repo / "pyproject.toml").read_text())["project"]
    lines = (repo / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    pinned = {canonicalize_name(name): version for name, version in pairs}
    asked = chain(project["dependencies"], *project["optional-dependencies"].values())
    for requirement in map(Requirement, asked):
        if requirement.name != "viscot":
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_what_is_imported_is_declared(repo: Path) -> None:
    """Every package that the code imports is a requirement of its own, not by luck another one's."""
    from importlib.metadata import packages_distributions

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((repo / "pyproject.toml").read_text())["project"]
    asked = chain(project["dependencies"], *project["optional-dependencies"].values())
    declared = {canonicalize_name(Requirement(line).name) for line in asked}
    declared |= {"pydantic-core"}  # a part of pydantic
    declared |= {"datasets", "loguru", "tqdm"}  # used inside lmms-eval only, which brings them
    imported: set[str] = set()
    for file in [*repo.glob("viscot_core/**/*.py"), *repo.glob("viscot_cli/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    providers = packages_distributions()
    for name in imported - set(sys.stdlib_module_names) - {"viscot_core", "viscot_cli"}:
        distributions = {canonicalize_name(found) for found in providers.get(name, [name.replace("_", "-")])}
        assert distributions & declared, f"{name} is imported and not declared"


def test_the_version_is_in_the_changelog(repo: Path) -> None:
    from viscot_core import __version__

    assert re.search(rf"^## {re.escape(__version__)}\b", (repo / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_importing_the_core_imports_no_torch() -> None:
    code = "import sys, viscot_core; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
