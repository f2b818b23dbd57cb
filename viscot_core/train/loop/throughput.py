"""The log of a stage, ``log.jsonl`` and a printed line: loss, samples/s, tokens/s, MFU, time left."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from viscot_core.families.shapes import ModelShape
from viscot_core.gpus import peak_tflops
from viscot_core.train.plan.estimates import flops_per_sample
from viscot_core.train.plan.plan_types import Split
from viscot_core.train.recipe.schema import StageSpec

log = logging.getLogger(__name__)


class Meter:
    """Counts rows and tokens since the last line of the log; figures are those of the whole job.

    ``bad`` counts through the whole stage: a resumed run starts with its checkpoint's number.
    """

    def __init__(self, batch: int, processes: int, flops_per_token: float = 0.0, gpu: str = "") -> None:
        self.batch, self.processes, self.gpu = batch, processes, gpu
        self.flops_per_token = flops_per_token
        self.tokens = 0.0
        self.padded_tokens = 0.0
        self.bad = 0
        self._since = (0, time.monotonic())

    def add(self, tokens: float, padded_tokens: float, bad: int) -> None:
        """Real tokens, tokens with padding, and bad rows of one optimizer step."""
        self.tokens += tokens
        self.padded_tokens += padded_tokens
        self.bad += bad

    def start(self, step: int) -> None:
        """Start counting at this step."""
        self._since = (step, time.monotonic())

    def pause(self, seconds: float) -> None:
        """Leave out time that was not spent training."""
        step, then = self._since
        self._since = (step, then + seconds)

    def read(self, step: int) -> dict[str, float]:
        """Figures since the last reading; the count then starts again."""
        (before, then), now = self._since, time.monotonic()
        seconds = max(now - then, 1e-9)
        found = {"samples_per_second": round((step - before) * self.batch / seconds, 2)}
        if self.padded_tokens:
            found["tokens_per_second"] = round(self.tokens / seconds, 1)
            found["non_padding"] = round(self.tokens / self.padded_tokens, 4)
            peak = peak_tflops(self.gpu)
            if peak and self.flops_per_token:  # no MFU on a card whose peak is not known
                useful = self.tokens / seconds * self.flops_per_token
                found["mfu"] = round(useful / (peak * 1e12 * self.processes), 4)
        if self.bad:
            found["bad_rows"] = self.bad
        self.tokens = self.padded_tokens = 0.0
        self._since = (step, now)
        return found


def meter_for(shape: ModelShape, stage: StageSpec, split: Split) -> Meter:
    """A meter for a model of that shape; on a GPU with MFU, for which a sample has 1,000 tokens."""
    if not torch.cuda.is_available():
        return Meter(split.total, split.processes)
    typical = 1000
    flops = flops_per_sample(shape, stage, typical, 1.0) / typical
    return Meter(split.total, split.processes, flops, torch.cuda.get_device_name())


class StageLog(TrainerCallback):
    """Appends to ``log.jsonl`` and prints a line, on the first rank only."""

    def __init__(self, path: Path, meter: Meter) -> None:
        self._path, self._meter = path, meter
        self._begun = (0, 0.0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._begun = (state.global_step, time.monotonic())
        self._meter.start(state.global_step)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        logs = {k: v for k, v in (kwargs.get("logs") or {}).items() if isinstance(v, int | float)}
        if "loss" in logs:
            logs |= self._meter.read(state.global_step)
        with self._path.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"step": state.global_step, **logs}) + "\n")
        if "loss" in logs:
            log.info("%s", self._line(logs, state))

    def _line(self, logs: dict[str, float], state: TrainerState) -> str:
        first, then = self._begun
        done = state.global_step - first
        left = (time.monotonic() - then) / max(done, 1) * (state.max_steps - state.global_step)
        words = [f"step {state.global_step}/{state.max_steps}", f"loss {logs['loss']:.4f}"]
        words += [f"lr {logs['learning_rate']:.2e}"] if "learning_rate" in logs else []
        words += [f"{logs['samples_per_second']:.1f} samples/s"]
        if "tokens_per_second" in logs:
            words += [f"{logs['tokens_per_second']:,.0f} tokens/s", f"{logs['non_padding']:.1%} not padding"]
        words += [f"MFU {logs['mfu']:.1%}"] if "mfu" in logs else []
        words += [f"{logs['bad_rows']:.0f} bad rows"] if "bad_rows" in logs else []
        return ", ".join([*words, f"{left / 60:.0f} min left"])
