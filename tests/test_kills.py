"""Sixty kills over twelve command lines: the same command then ends as if nothing had been; nothing stays.

The parent alone is killed, by ``kill -9`` and SIGTERM in turn: its children must end with it.
The moments are drawn with fixed seeds, most of them from the first thing written to the end of the work.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]

KILLS = 5
ROOT, RUN, OUT = "ROOT", "RUN", "OUT"
"""Stand in command lines for a data root, a finished run folder and the place that is written to."""


def bytes_of(out: Path) -> dict[str, bytes]:
    """Every file, byte for byte."""
    files = [out] if out.is_file() else sorted(path for path in out.rglob("*") if path.is_file())
    return {str(path.relative_to(out.parent)): path.read_bytes() for path in files}


def run_of(out: Path) -> dict[str, Any]:
    """A run folder without its times; the lines in any order, as ranks write them."""
    info = json.loads((out / "run.json").read_bytes())
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_bytes().splitlines()]
    rows = sorted(json.dumps({k: v for k, v in line.items() if k != "seconds"}) for line in lines)
    names = sorted(path.name for path in out.iterdir() if not path.name.startswith(".lock"))
    kept = {name: value for name, value in info.items() if name not in ("created", "seconds")}
    return {"info": kept, "rows": rows, "files": names}


def answers_of(out: Path) -> list[str]:
    """The lines of ``infer --out`` without their times."""
    lines = [json.loads(line) for line in out.read_bytes().splitlines()]
    return sorted(json.dumps({k: v for k, v in line.items() if "seconds" not in k}) for line in lines)


def verdicts_of(out: Path) -> tuple[list[str], list[bytes]]:
    """A scored run: its files, and the verdicts without the first line, which has the time."""
    lines = (out / "scores.exact.jsonl").read_bytes().splitlines()[1:]
    return sorted(path.name for path in out.iterdir() if not path.name.startswith(".lock")), sorted(lines)


@dataclass(frozen=True)
class Case:
    """A command line; ``there`` is what is at its OUT before it starts."""

    words: str
    same: Callable[[Path], object] = bytes_of
    there: str = "nothing"
    name: str = "out"


BENCH = "--device cpu --batch-size 2 --max-new-tokens 24"
SYNTH = "data synth --train 150 --val 30 --seed 7 --out OUT"
CASES = {
    "synth": Case(SYNTH),
    "synth, --out empty": Case(
        "data synth --train 150 --val 30 --seed 7 --workers 2 --out OUT", there="empty"
    ),
    "export, --out empty": Case("models export MODEL --layout hf --out OUT", there="empty"),
    "convert": Case("data convert ROOT/metadata/synth_cot_train.jsonl --out OUT", name="rows.json"),
    "mix": Case("data mix ROOT/train.json ROOT/pretrain.json --out OUT"),
    "bench cot": Case(f"bench cot --data ROOT --out OUT {BENCH}", run_of),
    "bench --gpus 2": Case(f"bench cot --data ROOT --gpus 2 --out OUT {BENCH}", run_of),
    "bench refcoco": Case(f"bench refcoco --data ROOT --out OUT {BENCH}", run_of),
    "bench vqa": Case(
        f"bench vqa --questions ROOT/own.jsonl --images ROOT --style free --out OUT {BENCH}",
        run_of,
    ),
    "infer --out": Case(
        f"infer ROOT/cot/synth/val Which? --out OUT {BENCH}", answers_of, name="answers.jsonl"
    ),
    "score": Case("score OUT --judge exact", verdicts_of, there="run"),
    "stats --html": Case("stats RUN --html OUT --data ROOT", name="report.html"),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, golden: Path) -> dict[str, Path]:
    """A data root of synthetic scenes, a scored run over it, and a checkpoint."""
    folder = tmp_path_factory.mktemp("kills")
    root, run = folder / "root", folder / "run"
    assert start("data synth --train 40 --val 12 --seed 3 --out OUT", {OUT: root}).wait() == 0
    items = json.loads((root / "benchmark" / "synth.json").read_bytes())
    rows = [{"question_id": n, "image": i["image"][0], "text": "Which?"} for n, i in enumerate(items)]
    (root / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert start(f"bench cot --data ROOT --out OUT {BENCH}", {ROOT: root, OUT: run}).wait() == 0
    shutil.copytree(golden / "tiny_clip", folder / "tiny_clip")
    model = Path(shutil.copytree(golden / "tiny_llava", folder / "model"))
    return {ROOT: root, RUN: run, "MODEL": model}


def start(words: str, places: dict[str, Path]) -> subprocess.Popen[bytes]:
    filled = words.split()
    for place, path in places.items():
        filled = [
            str(path) + word.removeprefix(place) if word.split("/")[0] == place else word for word in filled
        ]
    command = [sys.executable, "-c", "import sys; from viscot_cli.app import main; sys.exit(main())"]
    quiet = subprocess.DEVNULL
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # the models are tiny
    return subprocess.Popen([*command, *filled], stdout=quiet, stderr=quiet, env=one_thread)


def prepare(case: Case, out: Path, places: dict[str, Path]) -> None:
    if out.is_dir():
        shutil.rmtree(out)
    out.unlink(missing_ok=True)
    if case.there == "empty":
        out.mkdir()
    elif case.there == "run":
        shutil.copytree(places[RUN], out)


def written(folder: Path) -> dict[Path, int]:
    """What is there below ``folder``, and how large."""

    sizes: dict[Path, int] = {}
    # (os.walk leaves out folders that are gone meanwhile; rglob raises.)
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            with suppress(OSError):
                sizes[Path(parent, name)] = Path(parent, name).stat().st_size
    return sizes


@pytest.mark.parametrize("name", CASES)
def test_after_kills_the_same_command_ends_as_if_nothing_had_been(
    places: dict[str, Path], tmp_path: Path, name: str
) -> None:
    case = CASES[name]
    whole, out = tmp_path / "whole" / case.name, tmp_path / "killed" / case.name
    for place in (whole, out):
        place.parent.mkdir()
        prepare(case, place, places)
    began = time.monotonic()
    process = start(case.words, {**places, OUT: whole})
    first = _first_write(process, whole.parent)
    assert process.wait() == 0
    lasts = time.monotonic() - first
    rng = random.Random(name)
    kills = 0
    for _ in range(6 * KILLS):
        process = start(case.words, {**places, OUT: out})
        if rng.random() < 0.8:
            _first_write(process, out.parent)
            time.sleep(rng.uniform(0, lasts * 0.4))
        else:
            time.sleep(rng.uniform(0, first - began))
        process.send_signal(signal.SIGKILL if kills % 2 else signal.SIGTERM)
        code = process.wait()
        if code >= 0:  # it was quicker than the kill, or its last call had finished before it was killed
            assert case.same(out) == case.same(whole), f"exit code {code}"
            prepare(case, out, places)
            continue
        time.sleep(0.3)  # its children are ending
        kills += 1
        if kills == KILLS:
            break
    assert kills == KILLS, "it was always quicker than the kill"
    code = start(case.words, {**places, OUT: out}).wait()
    assert case.same(out) == case.same(whole), f"exit code {code}"
    assert [path.name for path in out.parent.iterdir()] == [case.name]


def _first_write(process: subprocess.Popen[bytes], folder: Path) -> float:
    """When the command has written something: most of its time before goes into imports."""
    before = written(folder)
    while process.poll() is None and written(folder) == before:
        time.sleep(0.005)
    return time.monotonic()
