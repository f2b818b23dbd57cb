"""The house's own rules: who may import whom, what only a family may know, names that stand once."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("viscot_core", "viscot_cli")

# Floors from the top: a room may import rooms below it, and its neighbours on the same floor.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("viscot_cli",),
    ("demo", "tour"),
    ("serve",),
    ("infer", "doctor", "train"),
    ("report",),
    ("score",),
    ("lmms_eval",),
    ("runs",),
    ("tasks",),
    ("ask", "sources"),
    ("data",),
    ("rollout",),
    ("step_requests",),
    ("policies", "engines"),
    ("models", "openai_api"),
    ("families",),
    ("conversation",),
    ("images",),
    ("boxes",),
    ("ground",),
)
GROUND = {
    "addresses",
    "deadline",
    "errors",
    "files",
    "gpus",
    "hardware",
    "lines",
    "processes",
    "paths",
    "resources",
    "tensors",
    "tensor_writer",
    "terminal",
    "torch_builds",
    "yaml_text",
    "__init__",
}


@cache
def modules() -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path) -> Iterator[str]:
    """The project's modules that a file imports, at its top or inside functions; not what only types need."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for child in block.body
        for node in ast.walk(child)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules() else node.module for name in inside]
        else:
            continue
        yield from (name for name in dict.fromkeys(names) if name in modules())


@cache
def graph() -> dict[str, tuple[str, ...]]:
    return {name: tuple(imports(path)) for name, path in modules().items()}


def room(module: str) -> str:
    package, _, rest = module.partition(".")
    if package == "viscot_cli":
        return package
    first = rest.split(".")[0] or "__init__"
    return "ground" if first in GROUND else first


def test_imports_go_down_only() -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    unknown = {room(module) for module in graph()} - set(floor)
    assert not unknown, f"rooms without a floor: {unknown}"
    wrong = [
        f"{module} imports {other}"
        for module, others in graph().items()
        for other in others
        if module != "viscot_core" and floor[room(other)] < floor[room(module)]
    ]
    assert not wrong, "\n".join(wrong)


def test_there_are_no_circles() -> None:
    state: dict[str, int] = {}
    circles = []

    def visit(module: str, way: tuple[str, ...]) -> None:
        state[module] = 1
        for other in graph()[module]:
            if state.get(other) == 1:
                circles.append(" > ".join((*way[way.index(other) :], other)) if other in way else other)
            elif other not in state:
                visit(other, (*way, other))
        state[module] = 2

    for module in graph():
        if module not in state:
            visit(module, (module,))
    assert not circles, "\n".join(circles)


KNOWN_TO_FAMILIES = {
    "a model class of transformers": re.compile(
        r"\b(Llava|CLIP|Clip|Llama|Qwen\w*|InternVL|Idefics3|SmolVLM|Gemma\w*)"
        r"(For\w+|Model|Config|VisionModel|VisionConfig|Processor|ImageProcessor\w*|Tokenizer)\b"
    ),
    "a word of LLaVA's template": re.compile(r"USER:|ASSISTANT:|</s>"),
    "LLaVA's number of image tokens": re.compile(r"\b576\b"),
    "a prefix of tensors": re.compile(
        r"vision_tower\.|mm_projector|multi_modal_projector|language_model\.|embed_tokens|\blm_head\b"
    ),
}


@cache
def words_outside_families() -> list[tuple[str, str]]:
    """Where and what: names and texts of the code, not comments or docstrings, which may explain."""
    found = []
    for module, path in modules().items():
        if room(module) == "families":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docs = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and id(node) not in docs:
                text = str(node.value)
            elif isinstance(node, ast.Name):
                text = node.id
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith(".model.model"):
                text = f"{node.attr}."
            elif isinstance(node, ast.alias):
                text = node.name
            else:
                continue
            found.append((f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}", text))
    return found


@pytest.mark.parametrize("what", KNOWN_TO_FAMILIES)
def test_only_families_know(what: str) -> None:
    known = KNOWN_TO_FAMILIES[what]
    found = [f"{place}: {text[:80]}" for place, text in words_outside_families() if known.search(text)]
    assert not found, "\n".join(found)


def test_nothing_outside_the_families_imports_one_of_them() -> None:
    """All ask the contract of ``families/``; which room answers, the table says.

    The bundled tiny model is a LLaVA model and nothing else: what exists for it alone (a tokenizer trained on
    the data, patch features, attention targets) is no question that another family could answer.
    """
    found = [
        f"{module} imports {other}"
        for module, others in graph().items()
        for other in others
        if re.match(r"viscot_core\.families\.\w+\.", other) and room(module) != "families"
        if not module.startswith("viscot_core.train.tiny.")
    ]
    assert not found, "\n".join(found)
    inside = [
        f"{module} imports {other}"
        for module, others in graph().items()
        for other in others
        if (own := re.match(r"viscot_core\.families\.(\w+)\.", other))
        and not module.startswith(own[0])
        and room(module) == "families"
    ]
    assert not inside, "\n".join(inside)


def test_names_stand_once() -> None:
    """No file name three times in the core, no class name twice."""
    files = Counter(p.name for n, p in modules().items() if n.startswith("viscot_core"))
    often = [name for name, count in files.items() if count > 2 and name != "__init__.py"]
    known = {
        "base.py",
        "family.py",
        "inputs.py",
        "processor.py",
        "shapes.py",
        "training.py",
    }  # the same contract in each room
    assert not set(often) - known, often
    classes: dict[str, list[str]] = defaultdict(list)
    for module, path in modules().items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes[node.name].append(module)
    twice = {name: where for name, where in classes.items() if len(where) > 1}
    assert not twice, twice


def test_rooms_have_at_most_a_dozen_files() -> None:
    folders = Counter(
        path.parent.relative_to(ROOT).as_posix()
        for name, path in modules().items()
        if name.startswith("viscot_core.") and path.name != "__init__.py"
    )
    full = {folder: count for folder, count in folders.items() if count > 14 and folder != "viscot_core"}
    assert not full, full


def test_nothing_branches_on_a_task_s_name() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)[:90]}"
        for module, path in modules().items()
        if room(module) in ("runs", "rollout", "score", "report", "viscot_cli")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Compare)
        and re.search(r"\bkind\b", ast.unparse(node.left))
        and re.search(r"'(cot|refcoco|vqa|general)'", ast.unparse(node))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "start",
    ["viscot_cli.app", "viscot_core.report.compare", "viscot_core.score.scoring", "viscot_core.runs.records"],
)
def test_what_reads_records_loads_no_engine(start: str) -> None:
    code = f"import sys, {start}; print('\\n'.join(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(ran.stdout.split())
    assert not loaded & {"torch", "transformers"}
    heavy = ("engines", "models", "families", "rollout", "train", "tasks.visual_cot", "openai_api.client")
    ours = [m for m in loaded if m.startswith(tuple(f"viscot_core.{name}" for name in heavy))]
    assert not ours, ours
