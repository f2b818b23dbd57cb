"""General benchmarks through lmms-eval (paper Table 8): its tasks, its scores, in a run folder of ours.

viscot exports the model once, starts lmms-eval as a child for each task in turn, and takes over its figures
and sample logs. A task is a child of its own because lmms-eval writes nothing before it has finished all it
was given: so a kill costs one task, and the same command goes on with the next. Its logs stay in the folder.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from viscot_core.boxes.geometry import Box, iou
from viscot_core.errors import DataError
from viscot_core.lmms_eval.command import GeneralOptions, command_line
from viscot_core.lmms_eval.exports import ModelForLmms, model_for_lmms
from viscot_core.lmms_eval.launch import LOG_FILE, run_child, versions, warnings
from viscot_core.lmms_eval.logs import LOGS, SCORER, LoggedSample, read_task
from viscot_core.lmms_eval.utils import DATA
from viscot_core.runs.journal import Journal
from viscot_core.runs.records import Coords, Prediction, RunInfo
from viscot_core.runs.tally import Tally, conclude, environment

Progress = Callable[[str, int, int], None]
"""``(task and strategy, answered, asked)``."""


@dataclass
class _Filling:
    """A run folder being filled, a task at a time."""

    options: GeneralOptions
    backend: str
    model: ModelForLmms
    journal: Journal
    info: RunInfo
    tally: Tally
    progress: Progress | None

    def task(self, strategy: str, task: str) -> None:
        """Run one task and write its answers and figures into the run folder.

        Raises:
            ViscotError: lmms-eval wrote no results; one of the kinds of ``launch.why``.
        """
        folder = self.options.out / LOGS / strategy / task
        # What a killed run left: the looks file is appended to, and old lines would be read as new ones.
        shutil.rmtree(folder, ignore_errors=True)
        argv = command_line(self.options, self.backend, self.model, strategy, task, folder)
        progress = self.progress
        shown = (lambda done, total: progress(f"{task} {strategy}", done, total)) if progress else None
        run_child(argv, folder, _env(self.options), shown)
        planned = {name: dict(sets) for name, sets in self.info.planned.items()}
        figures = {name: dict(tasks) for name, tasks in self.info.figures.items()}
        for log in read_task(folder, strategy):
            predictions = [_prediction(sample) for sample in log.samples]
            self.journal.add(predictions)
            self.tally.finished += sum(p.done for p in predictions)
            self.tally.failed += sum(not p.done for p in predictions)
            figures.setdefault(strategy, {})[log.task] = log.figures
            sets = planned.setdefault(strategy, {})
            sets |= Counter(p.dataset for p in predictions)
        # A group's own name stands for its tasks: it must not be run again.
        figures.setdefault(strategy, {}).setdefault(task, {})
        self.info = self.journal.save(self.info.model_copy(update={"planned": planned, "figures": figures}))


def bench_general(options: GeneralOptions, progress: Progress | None = None) -> tuple[RunInfo, Tally]:
    """Run every task that has no figures yet; one whose data is missing stays pending, with the reason.

    Raises:
        UsageError, CheckpointError, EngineError: before or at the first task, with the command that helps.
        DataError: no task could be run because its data is missing.
    """
    backend = options.chosen_backend()
    needed = ["viscot"] if backend == "viscot" or options.packaged else []
    installed = versions(options.python, [*needed, *(["vllm"] if backend == "vllm" else [])])
    model = model_for_lmms(options.engine, backend)
    tally = Tally()
    with Journal(options.out) as journal:
        info = journal.begin(_info(options, backend, model.weights, installed))
        filling = _Filling(options, backend, model, journal, info, tally, progress)
        start = time.perf_counter()
        try:
            for strategy, task in options.work():
                if task in filling.info.figures.get(strategy, {}):
                    continue
                try:
                    filling.task(strategy, task)
                except DataError as error:
                    tally.open[f"{task}: {error}"] += 1
        finally:
            tally.seconds = time.perf_counter() - start
            logs = sorted((options.out / LOGS).glob(f"*/*/{LOG_FILE}"))
            told = [warning for log in logs for warning in warnings(log)]
            info = conclude(journal, filling.info.model_copy(update={"warnings": told}), tally)
    if tally.open and not info.figures:
        raise DataError(next(iter(tally.open)))
    return info, tally


def _env(options: GeneralOptions) -> dict[str, str]:
    """Environment variables of the child; our own tasks need nothing from the network."""
    env = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}
    if options.data is not None:
        env[DATA] = str(options.data.resolve())
    return {**env, "HF_HUB_OFFLINE": "1"} if options.packaged else env


def _info(options: GeneralOptions, backend: str, weights: str, installed: dict[str, str]) -> RunInfo:
    engine = options.engine
    # Named where they are given, so that runs of before go on.
    names = ("min_pixels", "max_pixels", "thinking")
    given = {name: value for name in names if (value := getattr(engine, name)) is not None}
    return RunInfo(
        kind="general",
        model=engine.model or "viscot-tiny",
        data=str(options.data.absolute()) if options.data else "",
        settings={
            "tasks": "packaged" if options.packaged else SCORER,
            "backend": backend,
            "weights": weights,
            "dtype": engine.dtype,
            "load_in": engine.load_in or "none",
            "box_format": engine.box_format or "viscot",
            "limit": options.limit,
            "lmms-eval": installed["lmms-eval"],
            **given,
        },
        environment={**environment(), **installed},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _prediction(sample: LoggedSample) -> Prediction:
    """The journal's line. Images of lmms-eval's own tasks have no place on this disk and no known size."""
    row, look = sample.row, sample.look
    width, height = row.get("size") or look.get("size") or (0, 0)
    box: Coords | None = look.get("box")
    truth: Coords | None = row.get("box_gt")
    overlap = None
    if box is not None and truth is not None:
        overlap = 0.0 if look.get("box_status") == "unparsable" else iou(Box(*box), Box(*truth))
    error = look.get("error")
    return Prediction(
        strategy=sample.strategy,
        dataset=sample.dataset,
        question_id=sample.question_id,
        status="failed" if error else "done",
        error=error,
        image=str(row.get("image", "")),
        width=width,
        height=height,
        question=sample.question,
        reference=sample.reference,
        answer=None if error else sample.answer,
        box_text=look.get("box_text"),
        box_status=look.get("box_status"),
        box=box,
        box_gt=truth,
        crop=look.get("crop"),
        iou=overlap,
        seconds=look.get("seconds", 0.0),
    )
