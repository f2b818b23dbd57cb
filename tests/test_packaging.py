"""A built wheel, installed elsewhere, finds its recipes, images and bundled model; so does a checkout."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from itertools import chain
from pathlib import Path

import pytest

RECIPES = (
    "tiny", "7b-224", "7b-336", "13b-224", "13b-336", "tiny-dpo", "tiny-grpo", "tiny-zoom", "qwen3-vl-4b",
    "qwen3-vl-8b", "smolvlm-500m", "qwen2.5-vl-3b", "qwen2.5-vl-7b", "internvl3.5-8b", "qwen3-vl-8b-grpo",
)  # fmt: skip


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
    declared |= {"psutil"}  # used inside vLLM's process only
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


def test_the_package_runs_as_a_module() -> None:
    argv = [sys.executable, "-m", "viscot_cli", "--version"]
    ran = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("viscot ")


def test_every_optional_package_names_an_extra_that_has_it(repo: Path) -> None:
    """What an error message tells to install must install it."""
    from viscot_core.resources import EXTRAS, install_line

    extras = tomllib.loads((repo / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for package, extra in EXTRAS.items():
        assert any(line.startswith((package, package.replace("_", "-"))) for line in extras[extra]), package
    assert install_line(["wandb"]) == "pip install 'viscot[wandb]'"
    assert install_line(["peft", "bitsandbytes", "other"]) == "pip install 'viscot[train,quant]' other"


@pytest.mark.slow
@pytest.mark.parametrize(
    "extras",
    [
        "train,wandb,trackio,quant,models,demo,serve,formats,pdf,parquet,supervision,mcp,docs,general",
        "flash",
        "vllm",
    ],
)
def test_every_extra_resolves_with_the_constraints(repo: Path, extras: str) -> None:
    """The resolver's dry run: nothing is installed. All that go together are resolved together."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-qq", "install", "--dry-run"]
    pip += ["--ignore-installed", "--constraint", str(repo / "constraints.txt")]
    if subprocess.run([*pip, "--no-deps", "packaging"], capture_output=True, check=False).returncode:
        pytest.skip("no package index")
    env = {**os.environ, "DS_BUILD_OPS": "0", "FLASH_ATTENTION_SKIP_CUDA_BUILD": "TRUE"}
    # flash-attn asks the torch that is there how to build: its own metadata cannot be read without.
    # vLLM wants an older transformers than the constraints have: an environment of its own.
    alone = {"flash": ["--no-deps", "--no-build-isolation"], "vllm": ["--no-deps"]}.get(extras, [])
    names = _extra(repo, extras) if alone else [f"{repo}[{extras}]"]
    ran = subprocess.run([*pip, *alone, *names], capture_output=True, text=True, env=env, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def _extra(repo: Path, name: str) -> list[str]:
    project = tomllib.loads((repo / "pyproject.toml").read_text())["project"]
    return list(project["optional-dependencies"][name])


def test_the_resolved_extras_are_all_of_them(repo: Path) -> None:
    (mark,) = [
        m for m in test_every_extra_resolves_with_the_constraints.pytestmark if m.name == "parametrize"
    ]
    resolved = {name for extras in mark.args[1] for name in extras.split(",")}
    extras = tomllib.loads((repo / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    # `make test` installs dev itself.
    assert resolved == {name for name, lines in extras.items() if lines} - {"dev"}


def test_floors_have_no_known_fault(repo: Path) -> None:
    """`make audit` compares them with the published advisories; here are the known ones."""
    from packaging.requirements import Requirement

    project = tomllib.loads((repo / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    known = {"pillow": "12.1", "torch": "2.9.1", "gradio": "6.6", "starlette": "0.49", "jinja2": "3.1.5"}
    for requirement in map(Requirement, asked):
        if requirement.name.lower() in known:
            assert not requirement.specifier.contains(known[requirement.name.lower()]), requirement


def test_the_container_gets_what_it_copies(repo: Path) -> None:
    """Every COPY source exists and passes .dockerignore; the options of its command are those of `serve`."""
    from command_lines import parse_viscot

    text = (repo / "Dockerfile").read_text(encoding="utf-8")
    allowed = {line[1:] for line in (repo / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    sources = [word for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE) for word in line.split()[:-1]]
    assert sources and set(sources) <= allowed
    assert all((repo / source).exists() for source in sources)
    (entry,) = re.findall(r"^ENTRYPOINT (\[.+\])$", text, re.MULTILINE)
    parse_viscot(ast.literal_eval(entry))
    extras = re.findall(r'"\.\[(.+?)\]"', text)[0].split(",")
    offered = tomllib.loads((repo / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras) <= set(offered)


def test_forms_citation_and_workflows_can_be_read(repo: Path) -> None:
    import yaml

    files = [*repo.glob(".github/ISSUE_TEMPLATE/*.yml"), *repo.glob(".github/workflows/*.yml")]
    assert len(files) >= 5
    for path in [*files, repo / "CITATION.cff"]:
        assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict), path


def test_a_release_has_its_addresses(repo: Path, tmp_path: Path) -> None:
    """What the release workflow runs before the build; the repository itself keeps relative links."""
    (tmp_path / ".ci").mkdir()
    for name in ("README.md", "pyproject.toml", ".ci/addresses"):
        shutil.copy(repo / name, tmp_path / name)
    command = [sys.executable, tmp_path / ".ci/addresses", "https://example.org/some/viscot", "v1.2.3"]
    subprocess.run(command, check=True)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "](https://example.org/some/viscot/raw/v1.2.3/docs/images/answer.png)" in text
    assert "](https://example.org/some/viscot/blob/v1.2.3/CONTRIBUTING.md)" in text
    assert all(link.startswith(("https://", "#")) for link in re.findall(r"\]\(([^)]+)\)", text))
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["urls"]["Issues"] == "https://example.org/some/viscot/issues" and project["scripts"]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 1, "not a second time"
    release = (repo / ".github/workflows/release.yml").read_text(encoding="utf-8")
    assert release.index(".ci/addresses") < release.index("python -m build")


def test_the_lowest_transformers_is_tested(repo: Path) -> None:
    lowest = re.search(r'"transformers>=([\d.]+)"', (repo / "pyproject.toml").read_text())
    tested = re.search(r"transformers==([\d.]+)", (repo / ".github/workflows/test.yml").read_text())
    assert lowest is not None and tested is not None and tested[1].startswith(lowest[1])
