"""Modules of scoring and of the client import in one direction, and none of them an engine."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest


def imports(root: Path, rooms: tuple[str, ...]) -> dict[str, set[str]]:
    """What each module of ``rooms`` imports of viscot, inside functions and for type checking too."""
    found = {}
    for room in rooms:
        for file in (root / "viscot_core" / room).rglob("*.py"):
            name = ".".join(file.relative_to(root).with_suffix("").parts)
            found[name] = set[str]()
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("viscot_"):
                    found[name] |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("room", ["score", "openai_api"])
def test_no_circles(repo: Path, room: str) -> None:
    found = imports(repo, (room,))
    assert len(found) > 5
    graph = {name: imported & found.keys() for name, imported in found.items()}
    list(TopologicalSorter(graph).static_order())  # raises CycleError and names the circle


def test_scores_and_the_client_import_no_engine(repo: Path) -> None:
    for name, imported in imports(repo, ("score", "openai_api")).items():
        above = [one for one in imported if one.startswith(("viscot_core.engines", "viscot_core.models"))]
        assert not above, (name, above)
    for name, imported in imports(repo, ("openai_api",)).items():
        assert not [one for one in imported if one.startswith("viscot_core.score")], name
