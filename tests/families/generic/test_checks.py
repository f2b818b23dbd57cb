"""Families times the checks of ``support/family_checks.py``; the fast suite asks for all of two.

The slow suite asks a third of the rest, so that every check meets four families and every family three or
four checks; ``python tests/performance/families.py`` asks for all and prints the table.
"""

from __future__ import annotations

from typing import Any

import pytest
from family_checks import CHECKS, Made
from made_families import FAMILIES

pytest.importorskip("torchvision", reason="most processors have a video part; make test installs it")

ALWAYS = {"batch = single, 0-2 images", "fast = plain", "boxes come back"}
"""What the fast suite asks of every family."""
WHOLE = {
    "qwen2.5-vl": set(CHECKS) - {"pull", "save, load", "inspect"},
    "smolvlm": {"bench cot", "bench refcoco"},
}
"""What else it asks: of a family of grids, and of one of tiles whose box format is not certain."""


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(request.param, tmp_path_factory.mktemp(request.param), viscot=None)  # type: ignore[arg-type]


def cells() -> list[Any]:
    found = []
    for row, name in enumerate(sorted(FAMILIES)):
        for column, check in enumerate(CHECKS):
            if check in ALWAYS | WHOLE.get(name, set()):
                found.append(pytest.param(name, check))
            elif (row + column) % 3 == 0:
                found.append(pytest.param(name, check, marks=pytest.mark.slow))
    return found


@pytest.mark.parametrize(("made", "check"), cells(), indirect=["made"])
def test_every_family_does_it(made: Made, check: str, cli: Any) -> None:
    made.viscot = cli
    CHECKS[check](made)
