"""Paths that files name: annotations, run folders, recipes and archives may not point outside their root."""

from __future__ import annotations

import os
from pathlib import Path

from viscot_core.errors import DataError


def inside(root: Path, name: str) -> Path:
    """The path of ``name`` under ``root``, for a name that comes from a file and not from the user.

    An absolute name is accepted if it lies under ``root``. Links that exist under ``root`` are followed:
    users (and ``viscot data organize``) link folders and images of other disks there.

    Raises:
        DataError: the name leads outside of ``root``, or no file can have it.
    """
    # Nearly all names, and millions of them in a training run, have none of the three.
    if ".." not in name and not name.startswith("/") and "\0" not in name:
        return root / name
    relative = os.path.relpath(name, root.absolute()) if name.startswith("/") else os.path.normpath(name)
    if "\0" in name or relative == ".." or relative.startswith("../"):
        raise DataError(
            f"the path {name!r} leads outside of {root}; correct it in the file that names it, or give the "
            "folder that holds it as the root."
        )
    return root / relative
