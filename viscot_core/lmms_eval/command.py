"""What ``viscot bench general`` was asked for, and lmms-eval's command line for one task of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from viscot_core.engines.open import EngineOptions
from viscot_core.errors import UsageError, check_choice
from viscot_core.lmms_eval import CHAIN, PACKAGED, TASKS
from viscot_core.lmms_eval.exports import ModelForLmms
from viscot_core.lmms_eval.logs import LOOKS_FILE
from viscot_core.models.serve_command import pillow_option

_ATTENTION = {"sdpa": "sdpa", "flash": "flash_attention_2", "eager": "eager"}
"""--attn in transformers' words."""
_VLLM = {
    # Without it lmms-eval's class would run code from the model's folder.
    "trust_remote_code": False,
}
"""What lmms-eval's class for vLLM is told beside the model."""
BACKENDS = ("llava_hf", "viscot", "vllm")
STRATEGIES = ("direct", "cot")


@dataclass(frozen=True)
class GeneralOptions:
    """What was asked for. Without ``backend``: llava_hf if it can do all of it, else viscot."""

    out: Path
    tasks: tuple[str, ...]
    engine: EngineOptions = field(default_factory=EngineOptions)
    strategies: tuple[str, ...] = ("direct",)
    backend: str | None = None
    data: Path | None = None
    limit: int | None = None
    python: str = sys.executable

    @property
    def packaged(self) -> bool:
        """Whether the tasks are this repository's own."""
        return bool(set(self.tasks) & set(PACKAGED))

    def chosen_backend(self) -> str:
        """The model class of lmms-eval.

        Raises:
            UsageError: an unknown or unfitting task, strategy, backend or option.
        """
        if not self.tasks:
            raise UsageError("Name the tasks with --tasks, like pope,gqa,textvqa_val,scienceqa_img,mme.")
        for name in self.strategies:
            check_choice("--strategy", name, STRATEGIES)
        check_choice("--attn", self.engine.attn, tuple(_ATTENTION))
        if self.engine.engine != "transformers" or self.engine.tensor_parallel != 1:
            raise UsageError(
                "bench general takes --backend vllm instead of --engine vllm, and no --tensor-parallel."
            )
        ours = self._only_ours()
        backend = self.backend or ("viscot" if ours else "llava_hf")
        check_choice("--backend", backend, BACKENDS)
        if ours and backend != "viscot":
            raise UsageError(
                f"{' and '.join(ours)} needs --backend viscot; lmms-eval's own classes cannot do it."
            )
        if backend == "vllm" and self.engine.attn != "sdpa":
            raise UsageError("vLLM chooses its attention itself; leave out --attn with --backend vllm.")
        if backend == "vllm" and self.engine.device not in ("auto", "cpu", "cuda"):
            raise UsageError(
                "vLLM takes the machine's own device; leave out --device with --backend vllm (for one of "
                "several GPUs set CUDA_VISIBLE_DEVICES)."
            )
        if CHAIN in self.tasks and backend == "viscot":
            raise UsageError(
                f"{CHAIN} is for lmms-eval's own classes; viscot's own class asks in two turns with "
                "--tasks visual_cot --strategy cot."
            )
        self._check_packaged()
        return backend

    def _only_ours(self) -> list[str]:
        """What was asked for that only viscot's own class can do."""
        asked = {
            "A server": self.engine.is_server,
            "--strategy cot": "cot" in self.strategies,
            "--load-in": self.engine.load_in is not None,
            "--box-format": self.engine.box_format is not None,
            "--min-pixels": self.engine.min_pixels is not None,
            "--max-pixels": self.engine.max_pixels is not None,
            "--thinking": self.engine.thinking is not None,
        }
        return [name for name, given in asked.items() if given]

    def _check_packaged(self) -> None:
        names = " and ".join(PACKAGED)
        if self.packaged and self.data is None:
            raise UsageError(f"{names} need the benchmark's data root; give --data DIR.")
        if self.packaged and not set(PACKAGED).issuperset(self.tasks):
            raise UsageError(
                f"{names} cannot run together with other tasks; run them apart, with their own --out."
            )

    def work(self) -> Iterator[tuple[str, str]]:
        """Each strategy and task to run; the task of two turns counts as cot, whichever class answers."""
        for strategy in self.strategies:
            for task in self.tasks:
                yield "cot" if task == CHAIN else strategy, task


def command_line(
    options: GeneralOptions, backend: str, model: ModelForLmms, strategy: str, task: str, folder: Path
) -> list[str]:
    """The command line of one task, with its results and samples in ``folder``; it goes through no shell."""
    engine = options.engine
    given: dict[str, Any]
    if backend == "llava_hf":
        given = {
            "pretrained": model.model,
            "dtype": model.dtype,
            "attn_implementation": _ATTENTION[engine.attn],
        }
        given |= {"device_map": "cpu"} if model.device == "cpu" else {}
    elif backend == "vllm":
        given = {"model": model.model, "dtype": model.dtype, **_VLLM}
        if pixels := pillow_option(model.family):
            given["mm_processor_kwargs"] = pixels
    else:
        given = _ours(engine, model, strategy, task, folder)
    argv = [options.python, "-m", "lmms_eval", "--model", backend]
    argv += ["--model_args", ",".join(f"{name}={value}" for name, value in given.items())]
    argv += ["--tasks", task, "--include_path", str(TASKS)]
    # lmms-eval's class hands --device on to vLLM, which has no such argument and takes the machine's own.
    if backend != "vllm":
        argv += ["--device", "cuda:0" if model.device == "cuda" else model.device]
    # lmms-eval's llava_hf refuses any batch but one.
    argv += ["--batch_size", "1" if backend == "llava_hf" else str(engine.batch_size)]
    argv += ["--log_samples", "--output_path", str(folder)]
    return argv if options.limit is None else [*argv, "--limit", str(options.limit)]


def _ours(
    engine: EngineOptions, model: ModelForLmms, strategy: str, task: str, folder: Path
) -> dict[str, Any]:
    """The arguments of ``model.Viscot``."""
    # Table 8's direct answers come from LLaVA's scripts: the task's own words and nothing else.
    native = strategy == "direct" and task not in PACKAGED
    given = {
        "pretrained": model.model,
        "strategy": strategy,
        "protocol": "native" if native else "paper",
        "dtype": model.dtype,
        "attn": engine.attn,
        "looks": str(folder / LOOKS_FILE),
    }
    names = ("base", "load_in", "box_format", "min_pixels", "max_pixels", "thinking")
    optional = {name: getattr(engine, name) for name in names}
    return given | {name: value for name, value in optional.items() if value}
