"""The Hugging Face Trainer with viscot's parameter groups, order of rows, losses and saves."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.data import Dataset, Sampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from viscot_core.errors import ViscotError
from viscot_core.models.tokens import IGNORE
from viscot_core.train.guides import guide_loss
from viscot_core.train.schema import StageSpec
from viscot_core.train.stages import parameter_groups

SaveModel = Callable[[torch.nn.Module, Path], None]
LoadModel = Callable[[torch.nn.Module, Path], None]


class StageTrainer(Trainer):
    """One stage's loop: ours are the loss, the groups, the order and how a checkpoint is written and read."""

    def __init__(
        self,
        *,
        model: torch.nn.Module,
        stage: StageSpec,
        args: TrainingArguments,
        rows: Dataset[Any],
        collate: Callable[[list[Any]], dict[str, torch.Tensor]],
        order: Callable[[int], Sequence[int]],
        save: SaveModel,
        load: LoadModel,
        log_file: Path,
    ) -> None:
        self.stage = stage
        self.order = order
        self._save_model = save
        self._load_model = load
        self.loss_parts: dict[str, float] = {}
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows,
            data_collator=collate,
            callbacks=[
                JsonLog(log_file, args.per_device_train_batch_size * args.gradient_accumulation_steps)
            ],
        )

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            stage = self.stage
            self.optimizer = torch.optim.AdamW(
                parameter_groups(self.model, stage),
                betas=(stage.adam_beta1, stage.adam_beta2),
                eps=stage.adam_epsilon,
                fused=True,
            )
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return EpochOrder(self.order)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if self.stage.kind == "foundation":
            out = model(**inputs)
            loss = out["loss"]
            self.loss_parts = {k: float(v) for k, v in out.items() if k != "loss"}
        else:
            loss = self._chain_loss(model, inputs)
        if not torch.isfinite(loss):
            raise ViscotError(
                f"The loss became {float(loss)} at step {self.state.global_step}; lower the learning rate and "
                "start again with --resume from the last checkpoint."
            )
        return (loss, {}) if return_outputs else loss

    def _chain_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """Token cross-entropy, weighted where the recipe weights tokens, plus the fading guide."""
        guide = self.stage.guide_attention
        fade = 0.0
        if guide:
            fade = guide.weight * max(
                0.0, 1.0 - self.state.global_step / (guide.until * self.state.max_steps)
            )
        guided = guide is not None and len(inputs["guide_row"]) > 0
        keys = ("input_ids", "attention_mask", "pixel_values")
        out = model(**{k: inputs[k] for k in keys if k in inputs}, use_cache=False, output_attentions=guided)
        loss = weighted_cross_entropy(out.logits, inputs["labels"], inputs.get("weights"))
        self.loss_parts = {"loss_words": float(loss.detach())}
        if guided:
            towards = guide_loss(out.attentions, inputs)
            self.loss_parts["loss_guide"] = float(towards.detach())
            loss = loss + fade * towards
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log({**logs, **self.loss_parts}, start_time)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        self._save_model(self.accelerator.unwrap_model(self.model, keep_torch_compile=False), folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # transformers' own way reads a multimodal checkpoint with strict=False and silently restores no LLM.
        self._load_model(model or self.model, Path(resume_from_checkpoint))


def weighted_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None
) -> torch.Tensor:
    """Mean next-token loss: ``logits [B, T, V]``, ``labels [B, T]``, ``weights [B, T]`` or None for all ones."""
    losses = F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORE, reduction="none"
    )
    counted = (labels[:, 1:] != IGNORE).flatten().float()
    if weights is not None:
        counted = counted * weights[:, 1:].flatten()
    return (losses * counted).sum() / counted.sum().clamp(min=1e-6)


class EpochOrder(Sampler[int]):
    """Rows in the order of the current epoch; the Trainer skips to its place by itself on resume."""

    def __init__(self, order: Callable[[int], Sequence[int]]) -> None:
        self._order = order
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(self._order(self._epoch))

    def __len__(self) -> int:
        return len(self._order(self._epoch))


class JsonLog(TrainerCallback):
    """``log.jsonl``: loss, its parts, learning rate and samples/s, one line per logging step."""

    def __init__(self, path: Path, batch: int) -> None:
        self._path = path
        self._batch = batch
        self._last = (0, time.monotonic())

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        logs = {k: v for k, v in (kwargs.get("logs") or {}).items() if isinstance(v, int | float)}
        now, (step, then) = time.monotonic(), self._last
        if state.global_step > step:
            logs["samples_per_second"] = round((state.global_step - step) * self._batch / (now - then), 2)
        self._last = (state.global_step, now)
        with self._path.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"step": state.global_step, **logs}) + "\n")
