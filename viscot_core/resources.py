"""Finds the files that ship with viscot and are not code, in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent


def recipes() -> dict[str, Path]:
    """The shipped recipes by name, tiny first.

    A wheel carries them in ``viscot_core/recipes``, a checkout at its top.
    """
    for folder in (_HERE / "recipes", _HERE.parent / "recipes"):
        found = sorted(
            folder.glob("*.yaml"), key=lambda path: (path.stem != "tiny", len(path.stem), path.stem)
        )
        if found:
            return {path.stem: path for path in found}
    return {}
