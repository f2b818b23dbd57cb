"""One task as one call: who answers and where, in; a run folder, out. This is what ``viscot bench`` calls."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from viscot_core.addresses import without_password
from viscot_core.engines.base import Counting, Engine, Sampling, Served
from viscot_core.engines.open import EngineOptions, codec_for, known_codec, open_engine, weights_hash
from viscot_core.runs.answering import Continuing, answer_queries, answer_stream
from viscot_core.runs.loop import Built, Progress, RunPlan, run, run_sharded
from viscot_core.runs.records import RUN_FILE, RunInfo, read_run
from viscot_core.runs.shards import check_gpus, device_of, shard_of
from viscot_core.runs.tally import Tally
from viscot_core.runs.turns import Turns, forget_turns
from viscot_core.tasks.base import (
    BY_ITEM,
    DRAWS,
    Chosen,
    Settings,
    check_attention,
    engine_codec,
    needs_boxes,
    wording_of,
)


def evaluate(
    task: Chosen,
    engine: EngineOptions,
    out: Path,
    *,
    gpus: int = 1,
    progress: Progress | None = None,
    sampling: Sampling | None = None,
) -> tuple[RunInfo, Tally]:
    """Ask the task's questions into the run folder ``out``; the same call again continues it.

    ``gpus`` ranks share the images, each with the whole model on a GPU of its own. Without ``sampling``
    answers are greedy.

    Raises:
        UsageError, DataError: before any model is loaded.
        CheckpointError, EngineError: the model cannot be loaded, or is gone; what was finished is kept.
    """
    check_attention(task, engine.traits, {})
    benchmark = task.load()
    codec = codec_for(engine) if needs_boxes(task) else known_codec(engine)
    settings = _as_drawn(task, task.settings(codec), out, sampling)
    sizes = engine_codec(task, codec)
    shard, traits = shard_of(), engine.traits
    plan = RunPlan(
        folder=out,
        kind=task.kind,
        benchmark=benchmark,
        strategies=task.strategies,
        settings=settings,
        model=without_password(engine.model or "viscot-tiny"),
        data=task.data,
        batch=traits.batch,
        by_image=traits.shares_images,
        parallel=traits.parallel,
        weights=partial(weights_hash, engine),
        shard=shard,
        same_engine=engine.api is not None and engine.api.same_engine,
    )
    if gpus > 1 and shard.is_alone:
        check_gpus(gpus, engine.device)
        info, tally = run_sharded(plan, pickle.dumps((task, engine, out, sampling)), gpus)
        _clean(out, info)
        return info, tally

    engines: list[Engine] = []
    before = task if isinstance(task, Continuing) else None

    def build() -> Built:
        # A server has devices of its own, and finding ours would load torch.
        own = engine if engine.is_server else replace(engine, device=device_of(shard, engine.device))
        opened = open_engine(own, sampling, codec=sizes, fused=_fused(out, before))
        engines.append(opened)
        check_attention(task, opened.traits, settings)
        known = {"engine": dict(opened.identity), "prompts": wording_of(settings).digest(opened.prompt)}
        if before is not None:
            before.check(known, same_engine=plan.same_engine)
        turns = Turns(out, shard) if opened.traits.paid else None
        ask = partial(answer_queries, task, settings, opened, turns=turns, before=before)
        loops = any(task.all_strategies[name].loops for name in task.strategies)
        # An engine that is asked from several threads has a full batch anyway: each question has a thread.
        # One whose turns are kept has no batch: `ask` takes them up again, whatever the number of threads.
        flows = (
            partial(answer_stream, task, settings, opened, width=opened.traits.batch, before=before)
            if loops and opened.traits.parallel == 1 and turns is None
            else None
        )
        # The batch that fits is known once the model is loaded, a server's version once it has replied.
        versions = partial(getattr, opened, "versions") if isinstance(opened, Served) else frozenset
        return Built(ask, known, opened.traits.batch, versions, flows)

    info, tally = run(plan, build, progress=progress)
    tally.least_seconds = sum(e.least_seconds() or 0.0 for e in engines if isinstance(e, Counting)) or None
    if shard.is_alone:
        _clean(out, info)
    return info, tally


def _clean(out: Path, info: RunInfo) -> None:
    """Of a run that has all answers, remove what only its next call would have read."""
    if not info.counts["pending"] and not info.counts["failed"]:
        forget_turns(out)


def _as_drawn(task: Chosen, settings: Settings, out: Path, sampling: Sampling | None) -> dict[str, Any]:
    """The settings with how random numbers are drawn: as in the folder, or in the run that ``task`` goes on
    with; in a new run each question has its own."""
    if sampling is not None and not sampling.greedy and not isinstance(task, Continuing):
        settings = {**settings, DRAWS: BY_ITEM}
    if (out / RUN_FILE).exists() and DRAWS not in read_run(out).settings:
        settings = {name: value for name, value in settings.items() if name != DRAWS}
    return dict(settings)


def _fused(out: Path, before: Continuing | None) -> bool:
    """Whether kernels are fused: in a new run, and in one that goes on or is replayed as it has them."""
    if before is not None:
        return "kernels" in before.engine
    return not (out / RUN_FILE).exists() or "kernels" in read_run(out).settings.get("engine", {})
