"""Runs in the Python that has VLMEvalKit: what its own code makes of TSVs in ``$LMUData``, as JSON.

    python vlmevalkit_side.py NAME... | --infer

``build_dataset`` of VLMEvalKit imports the code of two hundred benchmarks. What these import from elsewhere
(torch, transformers, cv2 ...) is not installed for this: an empty stand-in takes its place. What reads and
scores a custom table (pandas, Pillow, numpy) is real.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

# Before the stand-ins: these look for parts of their own that may be absent.
import huggingface_hub
import numpy
import openpyxl
import pandas
import PIL.Image
import requests
import tabulate
import tqdm
import xlsxwriter

REAL = (huggingface_hub, numpy, openpyxl, pandas, PIL.Image, requests, tabulate, tqdm, xlsxwriter)


class StandIn(MagicMock):
    __version__ = "99.0"
    __file__ = "stand-in"
    __path__: Sequence[str] = ()


class Absent(MetaPathFinder, Loader):
    """Every module that nothing else finds, but VLMEvalKit's own and the standard library's."""

    def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] in {"vlmeval", *sys.stdlib_module_names}:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        made: Any = StandIn(name=spec.name)
        made.__name__, made.__spec__ = spec.name, spec
        return made  # type: ignore[no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""


@contextmanager
def stand_ins() -> Iterator[None]:
    """Only while VLMEvalKit is imported: pandas goes by what is there."""
    finder = Absent()
    sys.meta_path.append(finder)
    yield
    sys.meta_path.remove(finder)


def main(*names: str) -> None:
    """Print a JSON object: by name the class, the rows, and the score of each list of replies for it."""
    warnings.simplefilter("ignore")
    with stand_ins():
        from vlmeval.dataset import build_dataset

    print(json.dumps({name: read(name, build_dataset(name)) for name in names}))


def infer() -> None:
    """Print the letter that ``can_infer`` reads in each [reply, options by letter] of standard input.

    Its "Z" says that the reply names none of them, as False does.
    """
    with stand_ins():
        from vlmeval.utils.matching_util import can_infer

    found = [can_infer(reply, options) for reply, options in json.load(sys.stdin)]
    print(json.dumps([letter if letter and letter != "Z" else None for letter in found]))


def read(name: str, dataset: Any) -> dict[str, Any]:
    """``NAME.replies.json`` beside the table holds the replies: by a label, one a row."""
    rows = []
    for number in range(len(dataset)):
        said = dataset.build_prompt(number)
        (image,) = [part["value"] for part in said if part["type"] == "image"]
        with PIL.Image.open(image) as opened:
            pixels = hashlib.sha256(opened.convert("RGB").tobytes()).hexdigest()
        (prompt,) = [part["value"] for part in said if part["type"] == "text"]
        line = dataset.data.iloc[number]
        kept = {key: str(value) for key, value in line.items() if key != "image" and not pandas.isna(value)}
        rows.append({"row": kept, "prompt": prompt, "pixels": pixels})
    replies = Path(os.environ["LMUData"], f"{name}.replies.json")  # noqa: SIM112 - its own spelling
    scores = {}
    if replies.is_file():
        for label, said in json.loads(replies.read_text(encoding="utf-8")).items():
            scores[label] = score(dataset, said, replies.with_name(f"{name}_{label}.xlsx"))
    return {"class": type(dataset).__name__, "rows": rows, "scores": scores}


def score(dataset: Any, replies: list[str], out: Path) -> float:
    """Its overall accuracy of the file that its inference leaves: the table without images, with replies."""
    from vlmeval.smp import dump

    dump(dataset.data.drop(columns="image").assign(prediction=replies), str(out))
    return float(dataset.evaluate(str(out), model="exact_matching", nproc=1)["Overall"].iloc[0])


if __name__ == "__main__":
    infer() if sys.argv[1:] == ["--infer"] else main(*sys.argv[1:])
