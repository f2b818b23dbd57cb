"""Everything that would stop or disturb a run, found before it starts.

The plan holds this one list: ``--dry-run`` and ``--slurm`` show it, and the run refuses with its errors.
Contradictions inside a recipe are found when it is read (``recipe/checks.py``).
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from netrc import NetrcParseError, netrc
from pathlib import Path
from urllib.parse import urlsplit

from viscot_core.errors import UsageError, ViscotError
from viscot_core.files import expanded
from viscot_core.models import zoo
from viscot_core.resources import install_line
from viscot_core.score.base import JudgeOptions
from viscot_core.score.judges import make_judge
from viscot_core.train.plan.plan_types import Machine, Problem, StagePlan
from viscot_core.train.recipe.schema import ModelSpec, Recipe, StageSpec

MONTHS = 5e8
"""Trained parameters from which a run on a CPU takes months."""
BENCHMARKS = {"cot": "benchmark/*.json", "refcoco": "refcoco/REC_*.jsonl"}
"""The files of the benchmarks that ``eval.bench`` names, under the data root."""
_MADE_BY = {
    "blip_laion_cc_sbu_558k.json": "viscot data fetch --for pretrain --data {root}",
    "viscot_mixed_2m.json": "viscot data fetch --for finetune --data {root}",
    "viscot_363k.json": "viscot data fetch --for cot-363k,cot-images --data {root}",
    "pretrain.json": "viscot data synth --out {root}",
    "train.json": "viscot data synth --out {root}",
    "prefs.jsonl": "viscot data prefs --data {root} --out {root}/prefs.jsonl",
}
"""The command that brings each file of the shipped recipes."""


def find_problems(
    recipe: Recipe, data: Path, machine: Machine, run: Path, stages: Sequence[StagePlan], disk_gib: float
) -> list[Problem]:
    """The problems of ``recipe`` on ``data`` and ``machine``; ``stages`` are the plan's figures."""
    errors = [*_absent_files(recipe, data), *_model(recipe.model)]
    warnings: list[str] = []
    for stage, planned in zip(recipe.stages, stages, strict=True):
        if planned.samples == 0:  # a mixture whose weights leave no row
            errors.append(f"stages.{stage.kind} would train nothing: its files hold no row; give more data.")
        warnings += _warnings(stage, planned, machine)
    errors += [*_missing_packages(recipe), *_missing_key(recipe), *_missing_judges(recipe)]
    errors += lack_of_room(run, disk_gib)
    return [Problem(text, "error") for text in errors] + [Problem(text, "warning") for text in warnings]


def _absent_files(recipe: Recipe, root: Path) -> Iterator[str]:
    for stage in recipe.stages:
        missing = [name for name in stage.data_files if not (root / name).exists()]
        if missing:
            where = shlex.quote(str(root))
            ways = dict.fromkeys(_MADE_BY[name].format(root=where) for name in missing if name in _MADE_BY)
            get = "get it with " + " and ".join(f"'{way}'" for way in ways) + ", or " if ways else ""
            hint = f"{get}give another root than {root} with --data"
            yield f"stages.{stage.kind}: {', '.join(missing)} is not under the data root; {hint}."
        bench = stage.eval.bench if stage.eval else None
        if bench and not any(root.glob(BENCHMARKS[bench])):
            yield (
                f"stages.{stage.kind}.eval.bench: {root} has no {BENCHMARKS[bench]}; give another root with "
                f"--data, or train without these figures with --set stages.{stage.kind}.eval=null."
            )


def _model(model: ModelSpec) -> list[str]:
    """Parts that are not on this machine; where all are here, why they cannot be trained."""
    absent = []
    for name in ("base_llm", "vision_tower", "projector", "checkpoint"):
        value = getattr(model, name)
        if value and value.startswith((".", "/", "~")) and not expanded(value).exists():
            absent.append(f"model.{name}: {value} does not exist; give a folder, a file or a hub name.")
        elif value and (sentence := zoo.absent(value)):
            absent.append(f"model.{name}: {sentence}")
    if absent or model.scratch:
        return absent
    from viscot_core.train.recipe.base_model import open_base  # imports torch

    try:
        open_base(model)
    except ViscotError as error:
        return [str(error)]
    return []


def _missing_packages(recipe: Recipe) -> Iterator[str]:
    """Packages that the recipe needs: better named now than after loading 26 GB."""
    lora = [stage.lora for stage in recipe.stages if stage.lora]
    needed = ["accelerate"]
    needed += ["deepspeed"] if any(stage.zero_stage for stage in recipe.stages) else []
    needed += ["peft"] if lora else []
    needed += ["bitsandbytes"] if any(adapters.load_in for adapters in lora) else []
    needed += list(recipe.report_to)
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        yield f"{', '.join(missing)} missing; get it with: {install_line(missing)}"


def _missing_key(recipe: Recipe) -> Iterator[str]:
    """A sentence where W&B would ask for its key, or stop, when the model is loaded already."""
    if "wandb" not in recipe.report_to or os.environ.get("WANDB_API_KEY"):
        return
    if os.environ.get("WANDB_MODE", "").lower() in ("offline", "disabled", "dryrun"):
        return
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    places = [os.environ.get("NETRC"), "~/.netrc", "~/_netrc"]
    for file in (expanded(place) for place in places if place):
        with suppress(OSError, NetrcParseError):
            if netrc(file).authenticators(host):
                return
    yield (
        "report_to: wandb has no key; run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline to "
        "keep the curves here."
    )


def _missing_judges(recipe: Recipe) -> Iterator[str]:
    """A sentence for each reward whose judge would miss its key, or its folder, at the first group."""
    for stage in recipe.stages:
        for name in stage.reinforce.rewards if stage.reinforce else ():
            kind, _, model = (judge := name.partition(":")[2]).partition(":")
            where = f"stages.{stage.kind}.reinforce.rewards.{name}"
            if kind == "openai":
                try:
                    make_judge(judge, JudgeOptions())  # reads the environment and asks nothing
                except UsageError as error:
                    yield f"{where}: {error}"
            elif kind == "hf" and model.startswith((".", "/", "~")) and not Path(model).exists():
                yield f"{where}: {model} does not exist; give a folder or a hub name."


def lack_of_room(run: Path, gib: float) -> Iterator[str]:
    """A sentence where the disk is too full for a run of ``gib``.

    Files that the run folder holds already are subtracted: a resumed run needs only the rest.
    """
    if run.exists() and not run.is_dir():
        yield f"{run} is a file; give a folder with --out."
        return
    # By inode: the files of a finished run are hard links to its last stage's model and count once.
    held = {status.st_ino: status.st_size for status in (path.stat() for path in run.rglob("*"))}
    needed = gib - sum(held.values()) / 2**30
    # The run folder may not exist yet; its disk is that of the nearest folder that does.
    place = next(folder for folder in (run, *run.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free / 2**30
    if free < needed:
        yield (
            f"{run.parent} has {free:,.3g} GiB free and the run needs about {needed:,.3g}; "
            "free some or give another --out."
        )


def _warnings(stage: StageSpec, planned: StagePlan, machine: Machine) -> Iterator[str]:
    where = f"stages.{stage.kind}"
    if planned.steps is not None and stage.save_steps > planned.steps:
        yield (
            f"{where}.save_steps {stage.save_steps} exceeds the {planned.steps} steps: "
            "nothing is saved before the end"
        )
    if planned.samples is not None and planned.samples < planned.global_batch_size:
        yield (
            f"{where}: {planned.samples} rows do not fill a batch of {planned.global_batch_size}, rows are "
            f"repeated; --set {where}.global_batch_size=N takes fewer"
        )
    if planned.memory_gib and planned.memory_gib > machine.memory_gib:
        yield (
            f"{where}: {planned.memory_gib:.0f} GiB a process (estimate) exceed the "
            f"{machine.memory_gib:.0f} GiB of this machine"
        )
    if stage.zero_stage and machine.processes == 1 and stage.offload == "none":
        yield f"{where}.zero_stage {stage.zero_stage} saves no memory on a single process"
    trained = sum(planned.trained.values())
    if not machine.gpus and trained > MONTHS:
        yield f"{where}: {trained / 1e9:.1f} B parameters on a CPU take months"
