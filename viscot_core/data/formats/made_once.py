"""Folders of rows that a run makes once of its sources, and reads again when it is resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from viscot_core.errors import DataError
from viscot_core.files import atomic_folder, atomic_write, taking_turns


def made_once(
    place: Path,
    about: str,
    source: dict[str, Any],
    make: Callable[[Path], dict[str, Any]],
    *,
    started: bool,
    what: str,
) -> dict[str, Any]:
    """What ``make`` said of the folder that it filled, and ``source``: the content of its file ``about``.

    A folder that was made of the same ``source`` stays as it is, any other is made anew. The machines of one
    job, which share the run folder, ask at the same time: one makes it, the others wait. ``what``: what
    ``source`` consists of, for the error.

    Raises:
        DataError: a run already reads the folder (``started``), and the sources are others now.
    """
    with taking_turns(place):
        if (place / about).exists():
            known: dict[str, Any] = json.loads((place / about).read_text(encoding="utf-8"))
            if known["source"] == source:
                return known
        if started:
            raise DataError(
                f"{what} are not those that the run began with (of these it made {place}); put them back to "
                "continue this run, or start another one with --out."
            )
        with atomic_folder(place, replace=True) as folder:
            known = make(folder) | {"source": source}
            with atomic_write(folder / about) as file:
                json.dump(known, file, indent=1)
    return known
