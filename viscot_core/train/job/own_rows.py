"""The user's own files of rows, of any format, made ready for a run: training rows and held-out rows."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from viscot_core.boxes.registry import codec
from viscot_core.data.formats.containers import DATASET_FILES
from viscot_core.data.formats.prepare import prepare
from viscot_core.errors import UsageError
from viscot_core.files import expanded
from viscot_core.train.state.run_folder import ROWS, holds_run


@dataclass(frozen=True, slots=True)
class OwnRows:
    """What ``--data``, ``--images`` and ``--eval-data`` stand for then, and a line about each file."""

    data: str | None
    images: str | None
    eval_data: str | None
    notes: tuple[str, ...] = ()


def own_rows(
    data: str | None, images: str | None, eval_data: str | None, boxes: str | None, run: Path | None
) -> OwnRows:
    """Files as they are where training reads them so, else what ``RUN/rows`` holds of them.

    ``run``: None for a plan only; what is written then goes to a temporary folder.

    Raises:
        UsageError: ``--boxes`` without a file of rows, or held-out images in another folder.
        DataError: a row that cannot be read.
    """
    declared = codec(boxes) if boxes else None
    if boxes and not (data and _is_rows(expanded(data))):
        raise UsageError("--boxes says how a file of rows writes boxes; give the file with --data.")
    notes: list[str] = []
    shown = images if images or not data or _is_rows(expanded(data)) else data  # a data root
    temporary = None
    for name, given in (("training", data), ("held-out", eval_data)):
        if given is None or not (path := expanded(given).absolute()).exists() or not _is_rows(path):
            continue
        # Held-out rows have their images where the training rows have them.
        folder = expanded(shown).absolute() if shown else path.parent
        temporary = temporary or (None if run else _until_exit())
        home = (run / ROWS).absolute() if run else Path(str(temporary))
        made = prepare(path, folder, home / name, declared, started=run is not None and holds_run(run))
        notes += [made.note] if made.note else []
        if name == "training":
            data, shown = str(made.file), str(made.images)
        else:
            if made.images != folder:
                raise UsageError(
                    "The held-out rows have their images elsewhere than the training rows; give both files "
                    "in one format, with paths under --images."
                )
            eval_data = str(made.file)
    return OwnRows(data, images if shown == data else shown, eval_data, tuple(notes))


def _until_exit() -> str:
    folder = tempfile.mkdtemp(prefix="viscot-rows-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _is_rows(path: Path) -> bool:
    """Whether it is rows, and not a data root or a mixture's folder."""
    if path.is_file():
        return True
    known = any((path / name).exists() for name in (*DATASET_FILES[1:], "dataset_dict.json"))
    return path.is_dir() and (known or any(path.glob("*.parquet")))
