"""Five walks through the house: how many of our files and functions a datum passes on its way.

Run it: ``python tests/performance/walks.py`` (a minute, CPU, offline); ``--files`` names the files as well.

What is counted, under `sys.setprofile` in this thread and `threading.setprofile` in those it starts:

- *files*: files of ``viscot_cli`` and ``viscot_core`` in which a function was called.
- *functions*: different functions and methods called in them. Comprehensions, generator expressions and
  lambdas belong to the function around them; the number in brackets counts each as one of its own.
- *rooms*: the folders and single modules of ``viscot_core`` that these files belong to, and ``viscot_cli``.
- *moves*: calls that land in another file than the call before them in the same thread (a coroutine or a
  generator that goes on is called again).

Every module is imported before a walk begins, so neither its body nor what runs in it counts; class bodies
and the methods that dataclasses write count nowhere. A walk counts only below its *doors* (functions that
let it in; none: all of it) and ends when its last function returns or yields for the first time.

1. *question*: ``viscot infer PICTURE QUESTION``, the second one with the model loaded (it is kept from the
   first), from the command's function until the answer comes out of the core. Argument parsing before and
   printing behind it do not count.
2. *training row*: a row of a mixture by its number, its batch, its loss, as the Trainer asks for them in a
   run of the fine-tuning stage: reading, collating, ``compute_loss``.
3. *recipe*: ``viscot train --recipe tiny`` from the command line to the first loss, in this process.
4. *table cell*: ``bench cot --limit 1``, ``score --judge exact`` and ``stats`` together, each from its
   command line to its end, the loading of the model included.
5. *judge call*: one answer of a run folder scored by an OpenAI judge at a loopback server, no reply cache.

The issue that asked for this script counted the first design without it: the last column. By these rules the
first design had 15 files and 75 (98) functions, 11 and 40 (52), 46 (28 in train), 64, 11 and 58 moves.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import pkgutil
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests/support")]
os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", TOKENIZERS_PARALLELISM="false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

Function = tuple[str, str]
"""``(file from the repository's top, qualified name)``."""

# -- where the walks enter and leave: what to change when the house is rebuilt ------------------------

INFER: Function = ("viscot_cli/infer.py", "infer")
ANSWER: Function = ("viscot_core/infer/asking.py", "ask_items")
ROW: Function = ("viscot_core/train/loop/mixture_dataset.py", "MixtureDataset.__getitem__")
BATCH: Function = ("viscot_core/train/loop/mixture_dataset.py", "MixtureDataset.collate")
LOSS: Function = ("viscot_core/train/loop/trainer.py", "StageTrainer.compute_loss")
TRAIN = "viscot_core/train/"


def keep_the_model() -> None:
    """From now on ``viscot infer`` asks the same loaded model in every call."""
    from viscot_cli.model_options import ModelOptions

    kept = ModelOptions(device="cpu").open()
    ModelOptions.open = lambda *_, **__: kept  # whatever a command asks of it


def open_judge(url: str) -> Callable[[Path], object]:
    """What scores a run folder's answers with an OpenAI judge at ``url``."""
    from viscot_core.score.base import JudgeOptions
    from viscot_core.score.openai import OpenAIJudge
    from viscot_core.score.scoring import score_run

    judge = OpenAIJudge("made-up", base_url=url, options=JudgeOptions(concurrency=1))
    return lambda run: score_run(run, judge)


def viscot(*words: str | Path) -> None:
    """One command line in this process; what it prints is shown only where it fails."""
    from viscot_cli.app import main

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main([str(word) for word in words])
    if code:
        raise SystemExit(f"viscot {words[0]} ended with {code}:\n{said.getvalue()}")


SHAPE = "vision_width=24 vision_layers=2 vision_heads=2 vision_mlp=48 llm_width=24 llm_layers=2 llm_heads=2"
STAGE = "max_steps=1 global_batch_size=2 workers=0 log_steps=1 precision=fp32 compile=false"
SETTINGS = [
    "report_to=[]",
    "model.scratch.image_side=56",
    "model.scratch.llm_mlp=48",
    *(f"model.scratch.{field}" for field in SHAPE.split()),
    *(f"stages.{kind}.{field}" for kind in ("foundation", "pretrain", "finetune") for field in STAGE.split()),
]
"""The tiny recipe for seconds: one step a stage of a few thousand weights."""
FROM_MIXTURE = ["group_by=length", "guide_attention=null", "token_weights=null"]
"""Settings of the fine-tuning stage with which a model from nothing reads its rows as a big one does."""


def train(command: str, data: Path, out: Path, more: Sequence[str] = ()) -> None:
    """``viscot train`` or one of its stages on the CPU, in this process."""
    sets = [word for setting in (*SETTINGS, *more) for word in ("--set", setting)]
    viscot(command, "--recipe", "tiny", "--data", data, "--out", out, "--gpus", "0", *sets)


# -- counting ----------------------------------------------------------------------------------------


@dataclass
class Walk:
    """A context in which calls are counted, by the rules above."""

    doors: tuple[Function, ...] = ()
    end: Function | None = None
    functions: set[Function] = field(default_factory=set)
    inner: set[tuple[str, str]] = field(default_factory=set)
    """Functions, comprehensions and lambdas by file and name; several of one function count as one."""
    moves: int = 0
    over: bool = False
    _inside: dict[int, int] = field(default_factory=dict)
    """Open doors of each thread."""
    _last: dict[int, str] = field(default_factory=dict)
    _files: dict[CodeType, str] = field(default_factory=dict)

    @property
    def files(self) -> set[str]:
        """The files passed."""
        return {file for file, _ in self.inner}

    @property
    def rooms(self) -> set[str]:
        """The rooms passed: folders and single modules of the core, and the command line."""
        parts = (Path(file).with_suffix("").parts for file in self.files)
        return {part[0] if part[0] == "viscot_cli" else part[1] for part in parts}

    def __enter__(self) -> Self:
        threading.setprofile(self._event)
        sys.setprofile(self._event)
        return self

    def __exit__(self, *exception: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)
        if exception[0] is None and (missed := self._missed()):
            raise SystemExit(f"The walk never came to {', '.join(sorted(missed))}: correct the names above.")

    def _missed(self) -> set[str]:
        """Doors and the end that were not passed: they have other names by now."""
        names = {name for file, name in self.doors if (file, name) not in self.functions}
        return names if self.over or self.end is None else {*names, self.end[1]}

    def _event(self, frame: FrameType, event: str, _: Any) -> None:
        if self.over or event not in ("call", "return"):
            return
        code = frame.f_code
        file = self._files.get(code)
        if file is None:
            file = self._files[code] = file_of(code)
        if not file:
            return
        here, function = threading.get_ident(), (file, code.co_qualname)
        if event == "return":
            self.over = function == self.end
            if function in self.doors:
                self._inside[here] -= 1
            return
        if function in self.doors:
            self._inside[here] = self._inside.get(here, 0) + 1
        if not self.doors or self._inside.get(here):
            self._count(here, function)

    def _count(self, thread: int, function: Function) -> None:
        file, name = function
        self.inner.add(function)
        if not name.endswith(">"):  # <listcomp>, <genexpr>, <lambda>
            self.functions.add(function)
        self.moves += self._last.setdefault(thread, file) != file
        self._last[thread] = file

    def add(self, other: Walk) -> None:
        """The walk goes on in another command."""
        self.functions |= other.functions
        self.inner |= other.inner
        self.moves += other.moves


def file_of(code: CodeType) -> str:
    """The file of a function of ours, from the repository's top; empty for all else."""
    from_top = code.co_filename.removeprefix(f"{ROOT}/")
    optimized = code.co_flags & 1  # bodies of modules and classes are not
    return from_top if optimized and from_top.startswith(("viscot_cli/", "viscot_core/")) else ""


def import_all() -> None:
    """Every module whose extras are installed: what runs on import is no step of a walk."""
    for name in ("viscot_core", "viscot_cli"):
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}.", onerror=lambda _: None):
            if module.name.endswith(".__main__"):  # a command line of its own
                continue
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)


# -- the walks ---------------------------------------------------------------------------------------


def question(data: Path, work: Path) -> Walk:
    first, second = sorted((data / "cot/synth/val").iterdir())[:2]
    keep_the_model()
    viscot("infer", first, "What number is on the red card?")
    with Walk(doors=(INFER,), end=ANSWER) as walk:
        viscot("infer", second, "What number is on the blue card?")
    return walk


def training_row(data: Path, work: Path) -> Walk:
    with Walk(doors=(ROW, BATCH, LOSS), end=LOSS) as walk:
        train("finetune", data, work / "row", [f"stages.finetune.{setting}" for setting in FROM_MIXTURE])
    return walk


def recipe(data: Path, work: Path) -> Walk:
    with Walk(end=LOSS) as walk:
        train("train", data, work / "recipe")
    return walk


def table_cell(data: Path, work: Path) -> Walk:
    run, whole = work / "run", Walk()
    commands: list[tuple[str | Path, ...]] = [
        ("bench", "cot", "--data", data, "--device", "cpu", "--limit", "1", "--out", run),
        ("score", run, "--judge", "exact"),
        ("stats", run),
    ]
    for words in commands:
        with Walk() as walk:
            viscot(*words)
        whole.add(walk)
    return whole


def judge_call(data: Path, work: Path) -> Walk:
    from judge_server import JudgeServer, completion
    from made_runs import sample_run

    run = sample_run(work / "judged", items=1, strategies=("cot",))
    with JudgeServer(lambda number, body: completion("score: 0.8")) as server:
        score = open_judge(server.url)
        with Walk() as walk:
            score(run)
    return walk


@dataclass(frozen=True)
class Goal:
    """A walk with the files it may pass, and what it passed in the first design as the issue counted it."""

    name: str
    walked: Callable[[Path, Path], Walk]
    wanted: int
    before: str


GOALS = (
    Goal("question", question, 9, "16 files, 106 functions"),
    Goal("training row", training_row, 6, "11 files, 45 functions"),
    Goal("recipe to first loss", recipe, 20, "47 files (27 in train)"),
    Goal("item to table cell", table_cell, 25, "64 files"),
    Goal("judge call", judge_call, 6, "11 files, 58 moves"),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", action="store_true", help="name the files of each walk")
    given = parser.parse_args()
    import_all()
    from viscot_core.data.synth import write_dataset

    row = "{:<22}{:>6}{:>7}{:>10}{:>12}{:>7}{:>8}   {}"
    heads = (
        "walk",
        "files",
        "rooms",
        "in train",
        "functions",
        "moves",
        "wanted",
        "first design, as its issue counted it",
    )
    print(row.format(*heads))
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_dataset(data, train=12, val=2, seed=9)
        for goal in GOALS:
            walk = goal.walked(data, Path(folder))
            functions = f"{len(walk.functions)} ({len(walk.inner)})"
            wanted = f"<= {goal.wanted}"
            within = sum(file.startswith(TRAIN) for file in walk.files)
            values = (len(walk.files), len(walk.rooms), within, functions, walk.moves, wanted)
            print(row.format(goal.name, *values, goal.before))
            if given.files:
                print("".join(f"    {file}\n" for file in sorted(walk.files)))


if __name__ == "__main__":
    main()
