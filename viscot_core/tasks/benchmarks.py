"""The two benchmarks as one call each: options in, a run folder out. What ``viscot bench`` calls."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from viscot_core.boxes.geometry import CropPolicy
from viscot_core.engines.open import EngineOptions, codec_for, open_engine
from viscot_core.errors import UsageError, nearest
from viscot_core.policies.wording import PROTOCOLS, Protocol, Wording
from viscot_core.runs.records import RunInfo
from viscot_core.runs.run import Built, Plan, Progress, Tally, run, run_sharded
from viscot_core.runs.shards import check_gpus, device_of, shard_of
from viscot_core.tasks.asking import Asker, Speaker
from viscot_core.tasks.cot import CotAsker
from viscot_core.tasks.items import Benchmark, load_cot, load_refcoco
from viscot_core.tasks.refcoco import RefcocoAsker
from viscot_core.tasks.strategies import REFCOCO_STRATEGY, strategies


@dataclass(frozen=True)
class BenchOptions:
    """What both benchmarks share."""

    out: Path
    data: Path
    engine: EngineOptions = field(default_factory=EngineOptions)
    limit: int | None = None
    seed: int = 0
    skip_missing: bool = False
    protocol: str = "paper"
    max_new_tokens: int = 128
    gpus: int = 1
    """Ranks that share the images, each with the whole model on a GPU of its own."""

    def wording(self) -> Wording:
        """How the model is spoken to. Raises UsageError for an unknown protocol or box format."""
        protocols: dict[str, Protocol] = {name: name for name in PROTOCOLS}
        if self.protocol not in protocols:
            raise UsageError(
                f"--protocol is one of {', '.join(PROTOCOLS)}, not '{self.protocol}'."
                f"{nearest(self.protocol, PROTOCOLS)}"
            )
        return Wording(codec_for(self.engine), protocols[self.protocol])


def bench_cot(
    options: BenchOptions,
    *,
    names: tuple[str, ...] = ("cot",),
    suite: str | None = None,
    tasks: tuple[str, ...] = (),
    crop_policy: CropPolicy = CropPolicy.PAPER,
    progress: Progress | None = None,
) -> tuple[RunInfo, Tally]:
    """The Visual CoT benchmark under the strategies ``names`` into ``options.out``; continues what is there.

    Raises:
        UsageError, DataError: before any model is loaded.
        CheckpointError, EngineError: the model cannot be loaded or is gone; what was finished is kept.
    """
    chosen = tuple(strategy.name for strategy in strategies(names))
    benchmark = load_cot(
        options.data,
        suite=suite,
        tasks=tasks,
        limit=options.limit,
        seed=options.seed,
        skip_missing=options.skip_missing,
    )

    def asker(speaker: Speaker) -> Asker:
        return CotAsker(speaker, crop_policy, options.seed)

    more = {"names": names, "suite": suite, "tasks": tasks, "crop_policy": crop_policy}
    job = pickle.dumps(("cot", options, more))
    return _run(options, benchmark, chosen, {"crop_policy": crop_policy.value}, asker, progress, job)


def bench_refcoco(
    options: BenchOptions, *, splits: tuple[str, ...] = (), progress: Progress | None = None
) -> tuple[RunInfo, Tally]:
    """Referring expressions into ``options.out``; errors as for ``bench_cot``."""
    benchmark = load_refcoco(
        options.data,
        splits=splits,
        limit=options.limit,
        seed=options.seed,
        skip_missing=options.skip_missing,
    )
    job = pickle.dumps(("refcoco", options, {"splits": splits}))
    return _run(options, benchmark, (REFCOCO_STRATEGY,), {}, RefcocoAsker, progress, job)


def _run(
    options: BenchOptions,
    benchmark: Benchmark,
    names: tuple[str, ...],
    settings: dict[str, Any],
    asker: Callable[[Speaker], Asker],
    progress: Progress | None,
    job: bytes,
) -> tuple[RunInfo, Tally]:
    wording, shard = options.wording(), shard_of()
    plan = Plan(
        folder=options.out,
        benchmark=benchmark,
        strategies=names,
        settings={
            **settings,
            "protocol": wording.protocol,
            "box_format": wording.codec.name,
            "seed": options.seed,
            "max_new_tokens": options.max_new_tokens,
        },
        model=options.engine.model or "viscot-tiny",
        data=options.data,
        batch=1,  # a server is asked many questions at once, each a batch that ends and is kept by itself
        by_image=not options.engine.is_server,
        weights=None if options.engine.is_server else lambda: weights_of(options.engine.model),
        parallel=parallel_batches(options.engine),
        shard=shard,
    )
    if options.gpus > 1 and shard.is_alone:
        check_gpus(options.gpus, options.engine.device)
        return run_sharded(plan, job, options.gpus)

    def build() -> Built:
        device = device_of(shard, options.engine.device)
        engine = open_engine(replace(options.engine, device=device))
        known = {"engine": dict(engine.identity), "prompts": wording.digest(engine.template)}
        batch = getattr(engine, "batch_size", None)  # a model here is asked in batches of its own size
        return Built(asker(Speaker(engine, wording, options.max_new_tokens)), known, batch)

    return run(plan, build, progress=progress)


def weights_of(model: str | None) -> str:
    """The hash of a checkpoint's weights, as a loaded engine's identity has it. Raises CheckpointError."""
    from viscot_core.models.checkpoint import open_checkpoint
    from viscot_core.models.zoo import resolve
    from viscot_core.tensors import hash_files

    return hash_files(open_checkpoint(resolve(model)).files)


def parallel_batches(engine: EngineOptions) -> int:
    """How many batches are asked at once: more than one only where a server answers."""
    if not engine.is_server:
        return 1
    from viscot_core.engines.openai import ApiOptions

    return (engine.api or ApiOptions()).concurrency
