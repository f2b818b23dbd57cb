"""General benchmarks through lmms-eval (paper Table 8): its tasks, its scores, in a run folder of ours.

viscot exports the model once, starts lmms-eval as a child for each task in turn, and takes over its figures
and sample logs. A task is a child of its own because lmms-eval writes nothing before it has finished all it
was given: so a kill costs one task, and the same command goes on with the next. Its logs stay in the folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viscot_core.bench.journal import Journal
from viscot_core.bench.lmms import PACKAGED, TASKS
from viscot_core.bench.lmms.launch import FAILED_REQUEST, LOG_FILE, run_child, versions
from viscot_core.bench.lmms.logs import CHAIN, LOOKS_FILE, Sample, read_task
from viscot_core.bench.lmms.utils import DATA
from viscot_core.bench.records import Coords, Prediction, RunInfo
from viscot_core.bench.run import Tally, conclude, environment
from viscot_core.boxes import Box, iou
from viscot_core.engines.open import EngineOptions
from viscot_core.errors import DataError, UsageError, nearest

if TYPE_CHECKING:
    from viscot_core.models.checkpoint import Checkpoint

SCORER = "lmms-eval"
LOGS = "lmms-eval"
BACKENDS = ("llava_hf", "viscot", "vllm")
STRATEGIES = ("direct", "cot")
Progress = Callable[[str, int, int], None]
"""``(task and strategy, answered, asked)``."""

TABLE8 = {
    "SQA": ("scienceqa_img", "exact_match", 100.0),
    "GQA": ("gqa", "exact_match", 100.0),
    "TextVQA": ("textvqa_val", "exact_match", 100.0),
    "POPE": ("pope", "pope_f1_score", 100.0),
    "MME-P": ("mme", "mme_perception_score", 1.0),
    "MME-C": ("mme", "mme_cognition_score", 1.0),
    "MMB": ("mmbench_en_dev", "gpt_eval_score", 1.0),
    "MMB-CN": ("mmbench_cn_dev", "gpt_eval_score", 1.0),
}
"""The columns of the paper's Table 8: lmms-eval's task and metric, and its factor to the paper's unit."""


@dataclass(frozen=True)
class GeneralOptions:
    """What was asked for. Without ``backend``: llava_hf for direct answers of a checkpoint, else viscot."""

    out: Path
    tasks: tuple[str, ...]
    engine: EngineOptions = field(default_factory=EngineOptions)
    strategies: tuple[str, ...] = ("direct",)
    backend: str | None = None
    data: Path | None = None
    limit: int | None = None
    python: str = sys.executable

    def chosen_backend(self) -> str:
        """The model class of lmms-eval.

        Raises:
            UsageError: an unknown or unfitting task, strategy or backend.
        """
        if not self.tasks:
            raise UsageError("Name the tasks with --tasks, like pope,gqa,textvqa_val,scienceqa_img,mme.")
        for name in self.strategies:
            _known("--strategy", name, STRATEGIES)
        special = "cot" in self.strategies or self.engine.is_server
        backend = self.backend or ("viscot" if special else "llava_hf")
        _known("--backend", backend, BACKENDS)
        if special and backend != "viscot":
            what = "A server" if self.engine.is_server else "--strategy cot"
            raise UsageError(f"{what} needs --backend viscot; lmms-eval's own classes answer directly.")
        packaged = set(self.tasks) & set(PACKAGED)
        if packaged and self.data is None:
            raise UsageError(f"{' and '.join(PACKAGED)} need the benchmark's data root: give --data DIR.")
        if packaged and not packaged.issuperset(self.tasks):
            raise UsageError(
                f"Run {' and '.join(PACKAGED)} apart from other tasks, into an --out of their own."
            )
        if CHAIN in packaged and "cot" in self.strategies:
            raise UsageError(f"{CHAIN} asks both turns by itself; leave --strategy direct.")
        return backend


def _known(flag: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UsageError(f"{flag} is one of {', '.join(choices)}, not '{value}'.{nearest(value, choices)}")


def bench_general(options: GeneralOptions, progress: Progress | None = None) -> tuple[RunInfo, Tally]:
    """Run every task that has no figures yet; a task whose data cannot be had is left open and named.

    Raises:
        UsageError, CheckpointError, EngineError: before or at the first task, with the command that helps.
        DataError: no task could be run for want of data.
    """
    backend = options.chosen_backend()
    ours = backend == "viscot" or bool(set(options.tasks) & set(PACKAGED))
    installed = versions(options.python, needs_viscot=ours)
    model, weights = _model(options, backend)
    tally = Tally()
    with Journal(options.out) as journal:
        info = journal.begin(_info(options, backend, weights, installed))
        start = time.perf_counter()
        try:
            for strategy in options.strategies:
                for task in options.tasks:
                    if task in info.figures.get(strategy, {}):
                        continue
                    argv = _argv(options, backend, model, strategy, task)
                    try:
                        info = _one(options, journal, info, argv, strategy, task, tally, progress)
                    except DataError as error:
                        tally.open[f"{task}: {error}"] += 1
        finally:
            tally.seconds = time.perf_counter() - start
            info = info.model_copy(update={"warnings": _warnings(options.out)})
            info = conclude(journal, info, tally)
    if tally.open and not info.figures:
        raise DataError(next(iter(tally.open)))
    return info, tally


def _info(options: GeneralOptions, backend: str, weights: str, installed: dict[str, str]) -> RunInfo:
    engine = options.engine
    return RunInfo(
        kind="general",
        model=engine.model or "viscot-tiny",
        data=str(options.data or ""),
        settings={
            "tasks": "packaged" if set(options.tasks) & set(PACKAGED) else SCORER,
            "backend": backend,
            "weights": weights,
            "dtype": engine.dtype,
            "load_in": engine.load_in or "none",
            "box_format": engine.box_format or "viscot",
            "limit": options.limit,
            "lmms-eval": installed["lmms-eval"],
        },
        environment={**environment(), **installed},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _one(
    options: GeneralOptions,
    journal: Journal,
    info: RunInfo,
    argv: list[str],
    strategy: str,
    task: str,
    tally: Tally,
    progress: Progress | None,
) -> RunInfo:
    """One task: run it, take over what it said, write it down."""
    folder = options.out / LOGS / strategy / task
    shutil.rmtree(folder, ignore_errors=True)
    env = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}
    if options.data is not None:
        env[DATA] = str(options.data.resolve())
    run_child(
        argv,
        folder,
        env,
        (lambda done, total: progress(f"{task} {strategy}", done, total)) if progress else None,
    )
    planned = {name: dict(sets) for name, sets in info.planned.items()}
    figures = {name: dict(tasks) for name, tasks in info.figures.items()}
    for log in read_task(folder, strategy):
        predictions = [_prediction(sample) for sample in log.samples]
        journal.add(predictions)
        tally.finished += sum(p.done for p in predictions)
        tally.failed += sum(not p.done for p in predictions)
        figures.setdefault(strategy, {})[log.task] = log.figures
        for p in predictions:
            sets = planned.setdefault(p.strategy, {})
            sets[p.dataset] = sum(q.dataset == p.dataset for q in predictions)
    # A group's own name stands for its tasks: it must not be run again.
    figures.setdefault(strategy, {}).setdefault(task, {})
    return journal.save(info.model_copy(update={"planned": planned, "figures": figures}))


def _warnings(run: Path) -> list[str]:
    """Requests that failed inside lmms-eval, whose figures count their empty answers as wrong, by task."""
    found = []
    for file in sorted((run / LOGS).glob(f"*/*/{LOG_FILE}")):
        log = file.read_text(encoding="utf-8", errors="replace")
        if failed := len(FAILED_REQUEST.findall(log)):
            task = f"{file.parent.name} {file.parent.parent.name}"
            found.append(f"{failed} requests of {task} failed and lmms-eval counts them as wrong ({file})")
    return found


def read_logs(run: Path) -> list[Sample]:
    """Every sample of every finished task in a run folder's logs."""
    folders = [f for f in sorted((run / LOGS).glob("*/*")) if any(f.rglob("*_results.json"))]
    return [sample for f in folders for log in read_task(f, f.parent.name) for sample in log.samples]


def _prediction(sample: Sample) -> Prediction:
    """The journal's line. Pictures of lmms-eval's own tasks have no place on this disk and no known size."""
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


def _model(options: GeneralOptions, backend: str) -> tuple[str, str]:
    """What lmms-eval loads, and the digest of its weights; classes other than ours get an export."""
    engine = options.engine
    if engine.is_server:
        return str(engine.model), "a server's"
    from viscot_core.models.checkpoint import open_checkpoint
    from viscot_core.models.weights import hash_files
    from viscot_core.models.zoo import resolve

    checkpoint = open_checkpoint(resolve(engine.model))
    checkpoint.require_whole()
    weights = hash_files(checkpoint.files)
    path = checkpoint.path if backend == "viscot" else exported(checkpoint, weights)
    path = without_bos(path) if backend == "llava_hf" else path
    if {",", "="} & set(str(path)):
        raise UsageError(f"lmms-eval takes no path with a comma or '=' ({path}); move or link the model.")
    return str(path), weights


def exported(checkpoint: Checkpoint, weights: str, cache: Path | None = None) -> Path:
    """The checkpoint as other software takes it: itself where it is complete, else an export in ``cache``.

    An export stays for the next time; its folder is named by the weights' digest.
    """
    from viscot_core.models.export import export
    from viscot_core.models.layouts import Layout

    wanted = ("chat_template.jinja", "processor_config.json", "tokenizer_config.json")
    if checkpoint.layout is Layout.HF and all((checkpoint.path / name).exists() for name in wanted):
        return checkpoint.path
    digest = "".join(c for c in weights if c.isalnum())[-16:]
    out = (cache or export_cache()) / f"{checkpoint.manifest.name}-{digest}"
    return out if (out / "config.json").exists() else export(checkpoint, out, Layout.HF)


def without_bos(model: Path, cache: Path | None = None) -> Path:
    """The same folder with a chat template that writes no BOS, in ``cache``; its other files are links.

    lmms-eval's llava_hf renders the template to text and lets the processor tokenize it, which adds a BOS of
    its own: with the template's there would be two, and other answers.
    """
    template = model / "chat_template.jinja"
    words = template.read_text(encoding="utf-8")
    plain = words.replace("{{- bos_token }}", "", 1).replace("{{ bos_token }}", "", 1)
    if plain == words:
        return model
    name = hashlib.sha256(f"{model.resolve()}\0{plain}".encode()).hexdigest()[:16]
    view = (cache or export_cache()) / f"{model.name}-no-bos-{name}"
    building = view.with_name(f".{view.name}.{os.getpid()}")
    building.mkdir(parents=True, exist_ok=True)
    for file in model.iterdir():
        if file != template:
            (building / file.name).symlink_to(file.resolve())
    (building / template.name).write_text(plain, encoding="utf-8")
    shutil.rmtree(view, ignore_errors=True)
    building.replace(view)
    return view


def export_cache() -> Path:
    """``exports`` in ``VISCOT_CACHE``, else in the user's cache folder."""
    given = os.environ.get("VISCOT_CACHE")
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(given) if given else Path(root) / "viscot").expanduser() / "exports"


def _argv(options: GeneralOptions, backend: str, model: str, strategy: str, task: str) -> list[str]:
    """The command line of one task. No shell ever sees it."""
    from viscot_core.models.load import choose_device

    engine = options.engine
    device = engine.device if engine.is_server else choose_device(engine.device)
    folder = options.out / LOGS / strategy / task
    given = _model_args(options, backend, model, strategy, task, device, folder)
    argv = [options.python, "-m", "lmms_eval", "--model", backend]
    argv += ["--model_args", ",".join(f"{name}={value}" for name, value in given.items())]
    argv += ["--tasks", task, "--include_path", str(TASKS)]
    argv += ["--device", "cuda:0" if device == "cuda" else device]
    argv += ["--batch_size", "1" if backend == "llava_hf" else str(engine.batch_size)]
    argv += ["--log_samples", "--output_path", str(folder)]
    return argv if options.limit is None else [*argv, "--limit", str(options.limit)]


def _model_args(
    options: GeneralOptions, backend: str, model: str, strategy: str, task: str, device: str, folder: Path
) -> dict[str, Any]:
    engine = options.engine
    if backend == "vllm":
        return {"model": model}
    if backend == "llava_hf":
        short = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
        dtype = (
            "float32" if engine.dtype == "auto" and device == "cpu" else short.get(engine.dtype, engine.dtype)
        )
        given = {"pretrained": model, "dtype": dtype, "attn_implementation": "sdpa"}
        return {**given, "device_map": "cpu"} if device == "cpu" else given
    # Table 8's direct answers come from LLaVA's scripts: the task's own words and nothing else.
    native = strategy == "direct" and task not in PACKAGED
    given = {
        "pretrained": model,
        "strategy": strategy,
        "protocol": "native" if native else "paper",
        "dtype": engine.dtype,
        "attn": engine.attn,
        "looks": str(folder / LOOKS_FILE),
    }
    optional = {"load_in": engine.load_in, "box_format": engine.box_format}
    return given | {name: value for name, value in optional.items() if value}
