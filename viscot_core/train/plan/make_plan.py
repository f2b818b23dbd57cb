"""What a recipe does on given machines. Making a plan starts, writes and downloads nothing.

plan = make_plan(load_recipe("13b-336"), Machine(gpus=8, gpu_memory_gib=80), run="runs/13b", data="DATA")
plan.stages[0].steps, plan.commands, plan.refusals
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from statistics import NormalDist

from viscot_core.data.mixture import Mixture
from viscot_core.errors import DataError, RecipeError
from viscot_core.families.shapes import ModelShape
from viscot_core.train.plan import estimates
from viscot_core.train.plan.padding import filled_share, is_packed
from viscot_core.train.plan.plan_types import (
    DoesNotFitError,
    Machine,
    Plan,
    Problem,
    Rendezvous,
    Split,
    StagePlan,
    recompute_of,
    split_batch,
    steps_of,
    with_recompute,
)
from viscot_core.train.plan.problems import find_problems
from viscot_core.train.plan.remedies import advice
from viscot_core.train.preferences.pairs import REPLIES, pair_in
from viscot_core.train.recipe.base_model import shape_of
from viscot_core.train.recipe.schema import Recipe, StageSpec

CHARACTERS_PER_TOKEN = 3.6  # Llama's tokenizer on English with boxes
LOOKED_AT = 500  # rows of a file that are read for the mean length
ENOUGH = 4
"""Samples of a forward pass from which a GPU is busy: on one H100 more of them, bought by recomputation, cost
more than they gave (tests/performance/README.md)."""
FILLED = 0.92
"""Share of a GPU's memory that the estimate may take when a batch size is chosen."""


def make_plan(
    recipe: Recipe,
    machine: Machine,
    *,
    run: str | Path,
    data: str | Path,
    images: str | Path | None = None,
    rendezvous: Rendezvous | None = None,
    notes: Sequence[str] = (),
) -> Plan:
    """The plan of ``recipe`` on ``machine``. `RecipeError` lists every stage whose batch cannot be split."""
    root = Path(data)
    shape = shape_of(recipe.model)
    stages: list[StagePlan] = []
    unsplit: list[str] = []
    unreadable: list[str] = []
    for stage in recipe.stages:
        try:
            sizes = pair_sizes if stage.kind == "dpo" else row_sizes
            size = data_size(root, stage.data_files, sizes)
        except DataError as error:
            unreadable.append(f"stages.{stage.kind}: {error}")
            size = UNKNOWN
        try:
            packed = is_packed(stage, recipe.model.attention, shape is None or shape.packs)
            stages.append(_stage(stage, shape, machine, size, packed=packed))
        except RecipeError as error:
            unsplit.append(str(error))
    if unsplit:
        raise RecipeError("\n".join(unsplit))
    disk = _disk(recipe, stages, shape)
    found = [Problem(text, "error") for text in unreadable]
    found += find_problems(recipe, root, machine, Path(run), stages, disk or 0.0)
    return Plan(
        recipe=recipe.name,
        run=str(run),
        data=str(root),
        images=str(images or recipe.data.images or root),
        machine=machine,
        stages=tuple(stages),
        commands=commands(recipe, machine, run, rendezvous),
        notes=tuple(notes),
        warnings=tuple(problem.text for problem in found if problem.severity == "warning"),
        refusals=tuple(problem.text for problem in found if problem.severity == "error"),
        disk_gib=disk,
    )


def _stage(
    stage: StageSpec, shape: ModelShape | None, machine: Machine, size: DataSize, *, packed: bool
) -> StagePlan:
    """One stage's figures; those that need an unknown shape or unknown data are None."""

    stage, split = _fitted(stage, shape, machine)
    steps = stage.max_steps if size.rows is None else steps_of(stage, size.rows)
    seen = steps * stage.global_batch_size if steps is not None else None
    tower = shape.tower if shape else None
    lengths = [min(text + tower.tokens_of(images), stage.max_length) for text, images in size.looked if tower]
    tokens = sum(lengths) / len(lengths) if lengths else None
    hours = None
    # What a stage asks before it learns is not estimated: no figure is better than one that leaves it out.
    if shape and seen is not None and tokens is not None and machine.gpus and stage.kind != "grpo":
        images, gpus = sum(images for _, images in size.looked) / len(size.looked), machine.processes
        computed = tokens / filled_share(lengths, stage, split, packed=packed)
        hours = estimates.hours(shape, stage, seen, computed, images, gpus, machine.gpu_name)
    trained, loading = estimates.trained_parameters(shape, stage) if shape else {}, estimates.loading_gib
    saved = math.ceil(steps / stage.save_steps) if steps is not None else None
    return StagePlan(
        kind=stage.kind,
        files=stage.data_files,
        samples=size.rows,
        samples_from=size.source,
        per_device_batch_size=split.per_device,
        accumulation=split.accumulation,
        processes=split.processes,
        steps=steps,
        warmup_steps=math.ceil(steps * stage.warmup_ratio) if steps is not None else None,
        checkpoints=saved,
        kept=None if saved is None else min(saved, stage.keep_checkpoints),
        trained=trained,
        frozen=estimates.frozen_parameters(shape, stage) if shape else None,
        tokens=seen * tokens if seen is not None and tokens is not None else None,
        memory_gib=estimates.memory_gib(shape, stage, split.per_device, machine.processes) if shape else None,
        recompute=recompute_of(stage),
        hours=hours,
        checkpoint_gib=estimates.checkpoint_gib(shape, stage) if shape else None,
        loading_gib=loading(shape, stage, machine.local_processes, machine.processes) if shape else None,
    )


def _fitted(stage: StageSpec, shape: ModelShape | None, machine: Machine) -> tuple[StageSpec, Split]:
    """The stage and the split of its batch; where the recipe leaves it open, as few layers are recomputed as
    memory allows with `ENOUGH` samples together.
    """
    room, processes = FILLED * machine.memory_gib, machine.processes
    tried = (0, 2, 1) if stage.gradient_checkpointing is None else (recompute_of(stage),)
    for every in tried if shape else tried[-1:]:
        own = with_recompute(stage, every)

        def fits(batch: int, own: StageSpec = own) -> bool:
            return shape is None or estimates.memory_gib(shape, own, batch, processes) <= room

        try:
            split = split_batch(own, processes, fits)
        except DoesNotFitError as error:
            if every == tried[-1]:
                if shape is None:
                    raise
                raise RecipeError(advice(shape, own, machine, room)) from error
            continue
        enough = split.per_device >= min(ENOUGH, split.per_device * split.accumulation)
        if every == tried[-1] or (enough and fits(split.per_device)):
            return own, split
    raise AssertionError("the last one returns or raises")


def _disk(recipe: Recipe, stages: Sequence[StagePlan], shape: ModelShape | None) -> float | None:
    if shape is None:
        return None
    kept = 0.0
    for stage, planned in zip(recipe.stages, stages, strict=True):
        at_once = min(planned.checkpoints or 1, stage.keep_checkpoints + 1)  # one more while it is written
        kept += at_once * (planned.checkpoint_gib or 0.0) + estimates.model_gib(shape, stage)
    return kept


def commands(
    recipe: Recipe, machine: Machine, run: str | Path, rendezvous: Rendezvous | None = None
) -> tuple[tuple[str, ...], ...]:
    """The command that runs each stage of ``recipe`` on ``machine``, as words: paths need no quoting.

    A single process without DeepSpeed runs the worker itself; all else goes through torchrun.
    """
    found: list[tuple[str, ...]] = []
    for stage in recipe.stages:
        worker = ("-m", "viscot_core.train.worker", "--run-folder", str(run), "--stage", stage.kind)
        if machine.processes == 1 and not machine.gpus and stage.zero_stage == 0 and not rendezvous:
            found.append((sys.executable, *worker))
        else:
            found.append(
                (sys.executable, "-m", "torch.distributed.run", *_torchrun(machine, run, rendezvous), *worker)
            )
    return tuple(found)


def _torchrun(machine: Machine, run: str | Path, rendezvous: Rendezvous | None) -> list[str]:
    argv = [f"--nproc_per_node={machine.local_processes}", f"--nnodes={machine.nodes}"]
    if rendezvous:
        argv += [f"--rdzv_backend={rendezvous.backend}", f"--rdzv_endpoint={rendezvous.endpoint}"]
        argv += [f"--rdzv_id={rendezvous.job}"]
        if rendezvous.node_rank is not None:
            argv += [f"--node_rank={rendezvous.node_rank}"]
        if rendezvous.options:
            argv += [f"--rdzv_conf={','.join(rendezvous.options)}"]
        if rendezvous.local_address:
            argv += [f"--local_addr={rendezvous.local_address}"]
    else:
        argv += ["--standalone"]  # picks a free port: a port in use is no error
    logs = Path(run) / "logs"
    return [
        *argv,
        f"--log_dir={logs}",
        # 3 means stdout and stderr: all ranks' go to files, and only local rank 0's to the terminal too.
        "--redirects=3",
        "--tee=3",
        "--local_ranks_filter=0",
        "--max_restarts=0",
    ]


# -- the rows ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DataSize:
    """Rows of an epoch (each source by its weight); text tokens and images of some rows. None: unknown.

    ``source`` says whether they were counted or published.
    """

    rows: int | None
    looked: tuple[tuple[float, float], ...]
    source: str


def _published(rows: int, text_tokens: float, images: float, source: str) -> DataSize:
    """A file that is not here: its mean lengths, spread as rows of such mixtures are (log-normally, 0.6)."""
    spread = [math.exp(0.6 * NormalDist().inv_cdf((n + 0.5) / 20)) for n in range(20)]
    mean = sum(spread) / len(spread)
    return DataSize(rows, tuple((text_tokens * one / mean, images) for one in spread), source)


UNKNOWN = DataSize(None, (), "unknown (a file is absent or unreadable)")
PUBLISHED = {
    # LLaVA-1.5's stage 1: short captions, one image each.
    "blip_laion_cc_sbu_558k.json": _published(558_128, 20.0, 1.0, "published (LLaVA-Pretrain)"),
    # README: 665 K + 1.4 M + 373 K. Lengths are estimates; CoT rows show two images, 40 K rows none.
    "viscot_mixed_2m.json": _published(2_438_000, 200.0, 1.14, "published (README: 665 K + 1.4 M + 373 K)"),
    "viscot_363k.json": _published(363_000, 150.0, 2.0, "published (README)"),
}


Sizes = Callable[[Mixture, int], tuple[int, int]]
"""Letters and images of a row of a file."""


def row_sizes(rows: Mixture, index: int) -> tuple[int, int]:
    """Of a conversation."""
    row = rows[index]
    return sum(len(turn.text) for turn in row.turns), len(row.image)


def pair_sizes(rows: Mixture, index: int) -> tuple[int, int]:
    """Of both conversations of a preference pair."""
    pair = pair_in(rows, index)
    said = (turn for reply in REPLIES for turn in pair.turns(reply))
    return sum(len(turn.text) for turn in said), 2 * len(pair.images)


def data_size(root: Path, files: Sequence[str], sizes: Sizes = row_sizes) -> DataSize:
    """The sum over ``files`` under ``root``; unknown as soon as one of them is absent and unpublished.

    Raises:
        DataError: a file is damaged or holds no row.
    """
    found = [_size_of(root / name, sizes) for name in files]
    if any(one.rows is None for one in found):
        return UNKNOWN
    rows = sum(one.rows or 0 for one in found)
    sources = " + ".join(dict.fromkeys(one.source for one in found))
    # As many rows of each file as its share of the epoch, so that means are those of the epoch.
    looked = [
        row
        for one in found
        if one.rows and one.looked
        for row in islice(cycle(one.looked), max(1, round(LOOKED_AT * one.rows / rows)))
    ]
    return DataSize(rows, tuple(looked), sources)


def _size_of(path: Path, sizes: Sizes) -> DataSize:
    if not path.exists():
        return PUBLISHED.get(path.name, UNKNOWN)
    rows = Mixture.open(path)
    step = max(1, len(rows) // LOOKED_AT)
    looked = [sizes(rows, index) for index in range(0, len(rows), step)]
    counted = tuple((letters / CHARACTERS_PER_TOKEN, float(images)) for letters, images in looked)
    return DataSize(len(rows.epoch()), counted, "counted")
