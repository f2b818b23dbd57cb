"""Every command block of README.md and of docs/ is run, all pages in one folder; others are parsed.

A block is parsed only where an HTML comment before it says why: ``<!-- parse: needs the hub -->``.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from command_lines import commands, parse_viscot

from viscot_core.report.intervals import ClusterSample, mean_interval

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
FENCE = r"^```(?P<kind>\w+)\n(?P<text>.*?)^```"
BLOCK = re.compile(rf"(?:<!-- parse: (?P<why>[^\n]+?) -->\n)?{FENCE}", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text and, where it is not run, why."""

    page: str
    line: int
    kind: str
    text: str
    why: str | None

    def __str__(self) -> str:
        return f"{self.page}-line-{self.line}"


def read_blocks(page: Path) -> list[Block]:
    """The bash and python blocks of a Markdown page, in order."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(page.stem, text.count("\n", 0, match.start()) + 1, match["kind"], match["text"], match["why"])
        for match in BLOCK.finditer(text)
    ]
    return [block for block in found if block.kind in ("bash", "python")]


BLOCKS = [block for page in PAGES for block in read_blocks(page)]


def test_the_first_screen_is_the_two_commands_and_an_image() -> None:
    first = README.read_text(encoding="utf-8").splitlines()[:30]
    assert "make demo" in "\n".join(first)
    assert "make test" in "\n".join(first)
    images = re.findall(r"!\[.*?\]\((.*?)\)", "\n".join(first))
    assert images
    assert (README.parent / images[0]).is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_into_the_repository_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:\s]+)\)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


def test_messages_of_the_troubleshooting_page_are_those_of_the_program() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8").split("Not errors")[0]
    told = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    sources = [path.read_text(encoding="utf-8") for path in ROOT.glob("viscot_c*/**/*.py")]
    code = re.sub(r'"\s*\n\s*f?"', "", "\n".join(sources))  # (a sentence may go over several lines)
    assert len(told) >= 6
    assert not [words for words in told if words not in re.sub(r"\{[^}]*\}", "", code) and words not in code]


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs viscot[docs]")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "-f",
        str(ROOT / ".mkdocs.yml"),
    ]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    ran = subprocess.run(
        [*command, "-d", str(tmp_path / "site")], env=env, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "site/reproduce/index.html").is_file()


@pytest.mark.parametrize(
    "file",
    [
        "README.md",
        "viscot_core/models/viscot_tiny/README.md",
        "viscot_core/models/viscot_tiny_zoom/README.md",
    ],
)
def test_the_intervals_of_the_figures_are_those_that_stats_prints(file: str, repo: Path) -> None:
    """The bundled model's answers to 500 questions: the tables' shares give the intervals beside them."""
    row = r"^\|[^|\n]*\| ([\d.]+) % \| ([\d.]+) (?:-|to) ([\d.]+) \|"
    rows = re.findall(row, (repo / file).read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) >= 4
    for share, *ends in rows:
        right = round(float(share) * 5)
        told = mean_interval([ClusterSample(np.repeat([1.0, 0.0], [right, 500 - right]))])
        assert told is not None and ends == [f"{100 * end:.1f}" for end in told], share


def test_there_are_blocks_of_both_kinds() -> None:
    assert len(BLOCKS) >= 6
    assert any(block.why for block in BLOCKS)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.kind == "bash"], ids=str)
def test_every_command_parses(block: Block, repo: Path) -> None:
    for words in commands(block.text):
        if words[0] == "viscot":
            parse_viscot(words)
        elif words[0] == "make":
            subprocess.run([*words, "--dry-run"], cwd=repo, check=True, capture_output=True)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.kind == "python"], ids=str)
def test_python_blocks_parse(block: Block) -> None:
    ast.parse(block.text)


def test_no_two_pages_write_to_one_folder() -> None:
    """So that they can be followed in one folder, in any order: `data synth` wants a new folder, a run one
    set of settings. Blocks that are only parsed count too."""
    owners: dict[Path, set[str]] = {}
    for block in BLOCKS:
        for words in commands(block.text) if block.kind == "bash" else ():
            if "--out" in words and words[0] == "viscot":
                out = Path(words[words.index("--out") + 1])
                owners.setdefault(out, set()).add(block.page)
    folders = {out: pages for out, pages in owners.items() if out.parts[0] in ("data", "results", "runs")}
    assert len(folders) > 20
    for out, pages in folders.items():
        inside = {page for other in folders if out in other.parents for page in folders[other]}
        assert len(pages | inside) == 1, out


@pytest.fixture(scope="module")
def workplace(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all pages, which sees the repository's images and recipes under their names."""
    folder = tmp_path_factory.mktemp("pages")
    for name in ("viscot_core", "recipes"):
        (folder / name).symlink_to(repo / name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("block", [b for b in BLOCKS if b.why is None], ids=str)
def test_the_blocks_run_in_order(block: Block, workplace: Path) -> None:
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    if shutil.which("viscot", path=env["PATH"]) is None:
        pytest.skip("viscot is not installed as a command")
    program = ["bash", "-euo", "pipefail", "-c"] if block.kind == "bash" else [sys.executable, "-c"]
    argv = [*program, block.text]
    ran = subprocess.run(argv, cwd=workplace, env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{block.text}\n{ran.stdout}\n{ran.stderr}"


@pytest.mark.slow
def test_the_training_lines_train(tmp_path: Path) -> None:
    """README's own data and its lines for the bundled recipe, each stage cut to two steps."""
    lines = [words for block in read_blocks(README) if block.kind == "bash" for words in commands(block.text)]
    made = ["viscot", "data", "synth", "--out", "data/synth"]
    (synth,) = (words for words in lines if words[:5] == made)
    train = [words for words in lines if words[:4] == ["viscot", "train", "--recipe", "tiny"]]
    train = [words for words in train if "--dry-run" not in words]
    assert len(train) == 2 and "--resume" in train[1]
    short = ["--set", "report_to=[]"]
    for kind in ("foundation", "pretrain", "finetune"):
        for field in ("max_steps=2", "compile=false"):
            short += ["--set", f"stages.{kind}.{field}"]
    for words in (synth, *([*words, *short] for words in train)):
        argv = [sys.executable, "-m", "viscot_cli.app", *words[1:]]
        ran = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, f"{words}\n{ran.stdout}\n{ran.stderr}"
    assert (tmp_path / "runs/tiny/model.safetensors").is_file()
    assert not list((tmp_path / "runs").rglob("*.partial"))
