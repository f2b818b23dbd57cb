"""Trains viscot-tiny-zoom on one GPU within a time limit: `viscot train --recipe tiny-zoom`, in minutes.

    python tests/performance/tiny_zoom.py --out DIR [--minutes 4] [--scenes 12000] [--work DIR]

``--minutes`` counts from the start: scenes, rows and views by all processes, then the recipe's stage with its
own code until the time is up. Three things differ from the command: the learning rate follows the recipe's
cosine over the *time* that is left, so that at any speed it ends at 0; views lie on the GPU as bytes and are
normalised there; every ``--save-seconds`` the model is written to ``DIR/model`` (fp16, complete at all times)
and measured on held-out traces.

``DIR/log.jsonl`` has a line for each measurement, teacher-forced, at each look: ``first`` is the share of
boxes whose first decimal is right (nothing of the box is given away), ``iou`` the mean IoU of a box whose
every digit is chosen after the true ones before it; ``answer`` is the share of numbers that are right in
whole. Killing it loses nothing that was written.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# Other scripts of this folder have names of libraries.
sys.path[:] = [str(HERE.parents[1]), *(p for p in sys.path if Path(p or ".").resolve() != HERE)]
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch  # noqa: E402
from transformers import TrainerCallback  # noqa: E402

from viscot_core.boxes.geometry import iou, parse_box  # noqa: E402
from viscot_core.data.annotations import Conversation  # noqa: E402
from viscot_core.data.encode import Batch, Sample, collate, encode  # noqa: E402
from viscot_core.data.search.rows import held_out_rows, write_search  # noqa: E402
from viscot_core.data.synth import HELD_OUT_SEED  # noqa: E402
from viscot_core.families.checkpoint import Layout  # noqa: E402
from viscot_core.families.inputs import IGNORE  # noqa: E402
from viscot_core.families.llava.pixels import CLIP_MEAN, CLIP_STD  # noqa: E402
from viscot_core.models.checkpoint import open_checkpoint  # noqa: E402
from viscot_core.models.export import export  # noqa: E402
from viscot_core.train.loop import stage as stage_module  # noqa: E402
from viscot_core.train.loop.trainer import StageTrainer  # noqa: E402
from viscot_core.train.objectives.base import StageRows  # noqa: E402
from viscot_core.train.recipe.load import load_recipe  # noqa: E402
from viscot_core.train.state.initial import Run, open_run  # noqa: E402
from viscot_core.train.state.initial import load as load_model  # noqa: E402
from viscot_core.train.state.saving import save_model  # noqa: E402
from viscot_core.train.tiny import chains  # noqa: E402
from viscot_core.train.tiny.own_data import PixelCache, cached_pixels  # noqa: E402

log = logging.getLogger("tiny_zoom")
GIVEN: argparse.Namespace
BEGUN = time.monotonic()


def left() -> float:
    """Seconds until the training has to end; the last ones are for writing."""
    return 60 * GIVEN.minutes - (time.monotonic() - BEGUN) - GIVEN.end_seconds


# -- views on the device ----------------------------------------------------------------------------------


class DeviceRows(chains.ChainDataset):
    """Batches name their views by number; `DeviceChains` has them on the device."""

    def image_inputs(self, names: Sequence[str]) -> Batch:
        return {"views": torch.tensor([self._pixels.row(name) for name in names])}


class DeviceChains(chains.Chains):
    """The recipe's loss over views that lie on the device as bytes."""

    pixels: torch.Tensor | None = None

    def open_rows(self) -> StageRows:
        self.rows = super().open_rows()
        return self.rows

    def forward(self, model: Any, batch: dict[str, torch.Tensor], **asked: Any) -> Any:
        return super().forward(model, {**batch, "pixel_values": self.normalised(batch["views"])}, **asked)

    def normalised(self, views: torch.Tensor) -> torch.Tensor:
        """``float[n, 3, side, side]`` of the views with these numbers."""
        if self.pixels is None:
            assert isinstance(self.rows, DeviceRows)
            self.pixels = on_device(self.rows._pixels, views.device)
        return normalise(self.pixels[views])


def on_device(cache: PixelCache, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(cache.all()).to(device)


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """``uint8[n, side, side, 3]`` -> ``float[n, 3, side, side]``."""
    mean = torch.tensor(CLIP_MEAN, device=pixels.device)
    std = torch.tensor(CLIP_STD, device=pixels.device)
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


# -- the clock --------------------------------------------------------------------------------------------


class TimedTrainer(StageTrainer):
    """The recipe's schedule over the time that is left at the first step."""

    begun: float | None = None
    span = 1.0

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        def share(_: int) -> float:
            if self.begun is None:
                return 0.0
            done = min(1.0, (time.monotonic() - self.begun) / self.span)
            warm = self.stage.warmup_ratio
            return done / warm if done < warm else 0.5 * (1 + math.cos(math.pi * (done - warm) / (1 - warm)))

        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, share)
        return self.lr_scheduler

    def train(self, *args: Any, **kwargs: Any) -> Any:
        # Behind the callbacks of the trainer itself: the log's line comes first.
        self.add_callback(Clock(self))
        return super().train(*args, **kwargs)


class Clock(TrainerCallback):
    """Writes and measures as time goes by, and ends the training."""

    def __init__(self, trainer: TimedTrainer) -> None:
        self._trainer = trainer
        self._next = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.begun, self._trainer.span = time.monotonic(), max(1.0, left())
        self._next = time.monotonic() + GIVEN.save_seconds
        log.info("training for %.0f s, %.0f s after the start", left(), time.monotonic() - BEGUN)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        over = left() <= 0 or state.global_step >= GIVEN.most_steps
        if over or time.monotonic() >= self._next:
            self._next = time.monotonic() + GIVEN.save_seconds
            keep(self._trainer.objective, self._trainer.model, state.global_step)
        control.should_training_stop = control.should_training_stop or over


def keep(objective: Any, model: Any, step: int) -> None:
    """Write the model as it is to ``DIR/model`` and measure it."""
    start = time.monotonic()
    out: Path = GIVEN.out
    with tempfile.TemporaryDirectory(dir=GIVEN.work) as folder:
        save_model(objective.run, objective.stage, model, Path(folder) / "whole")
        export(open_checkpoint(Path(folder) / "whole"), Path(folder) / "half", Layout.HF, dtype="fp16")
        old = out / "model.old"
        if (out / "model").exists():
            (out / "model").rename(old)
        shutil.copytree(Path(folder) / "half", out / "model.new")
        (out / "model.new").rename(out / "model")
        shutil.rmtree(old, ignore_errors=True)
    found = {
        "step": step,
        "seconds": round(time.monotonic() - BEGUN, 1),
        **HELD_OUT.measure(model, objective),
    }
    with (out / "log.jsonl").open("a") as file:
        file.write(json.dumps(found) + "\n")
    log.info("%s (%.1f s to write and measure)", json.dumps(found), time.monotonic() - start)


# -- measuring --------------------------------------------------------------------------------------------


class HeldOut:
    """Traces of scenes that are not trained on, and their views."""

    def __init__(self, run: Run, count: int) -> None:
        stage = run.recipe.stages[0]
        self.processor: Any = run.processor_for(stage)
        scenes, traces = held_out_rows(HELD_OUT_SEED, count, GIVEN.workers)
        self.kinds = [trace["kind"] for trace in traces]
        rows = [Conversation.model_validate(trace) for trace in traces]
        self.samples = [encode(row, self.processor, max_length=stage.max_length) for row in rows]
        names = {name for sample in self.samples for name in sample.images}
        self.cache = cached_pixels(
            run.images, names, self.processor.image_side, GIVEN.work / "held-out",
            workers=GIVEN.workers, drawn=scenes,
        )  # fmt: skip
        self.pixels: torch.Tensor | None = None

    @torch.no_grad()
    def measure(self, model: Any, objective: Any) -> dict[str, Any]:
        device = next(model.parameters()).device
        if self.pixels is None:
            self.pixels = on_device(self.cache, device)
        model.eval()
        seen: dict[str, list[float]] = defaultdict(list)
        for start in range(0, len(self.samples), 100):
            some = self.samples[start : start + 100]
            views = torch.tensor([self.cache.row(name) for one in some for name in one.images], device=device)
            batch = {k: v.to(device) for k, v in collate(some, {}, pad_id=self.processor.pad_id).items()}
            with torch.autocast(device.type, torch.bfloat16):
                logits = model(
                    input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
                    pixel_values=normalise(self.pixels[views]), use_cache=False,
                ).logits  # fmt: skip
            chosen = logits[:, :-1, : objective.run.text_rows].argmax(-1).cpu().tolist()
            for sample, kind, said in zip(some, self.kinds[start : start + 100], chosen, strict=True):
                self._compare(sample, kind, said, seen)
        model.train()
        return {name: round(sum(values) / len(values), 3) for name, values in sorted(seen.items())}

    def _compare(self, sample: Sample, kind: str, said: list[int], seen: dict[str, list[float]]) -> None:
        turns: list[tuple[list[int], list[int]]] = []
        labels = sample.encoded.labels
        for position, label in enumerate(labels):
            if label == IGNORE:
                continue
            if labels[position - 1] == IGNORE:
                turns.append(([], []))
            turns[-1][0].append(label)
            turns[-1][1].append(said[position - 1])
        for look, (true, found) in enumerate(turns[:-1], 1):
            name = f"look{look}.{kind}" if look > 1 else "look1"
            seen[f"{name}.first"].append(true[1] == found[1])
            texts = [self.processor.text(ids).strip() for ids in (true, found)]
            boxes = [parse_box(text) for text in texts]
            seen[f"{name}.iou"].append(iou(boxes[0].box, boxes[1].box))
        seen[f"answer.{kind}"].append(turns[-1][0] == turns[-1][1])


HELD_OUT: HeldOut


# -- the run ----------------------------------------------------------------------------------------------


def main() -> None:
    global GIVEN, HELD_OUT
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--work", type=Path, help="scratch space (20 GB for 16,000 scenes); default: a temporary one"
    )
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--scenes", type=int, default=12_000)
    parser.add_argument("--held-out", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--save-seconds", type=float, default=30.0)
    parser.add_argument("--end-seconds", type=float, default=6.0)
    parser.add_argument("--most-steps", type=int, default=8000)
    parser.add_argument("--set", action="append", default=[], help="as in `viscot train`")
    GIVEN = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    GIVEN.out = GIVEN.out.resolve()
    GIVEN.out.mkdir(parents=True, exist_ok=True)
    GIVEN.work = (GIVEN.work or Path(tempfile.mkdtemp(prefix="tiny-zoom-"))).resolve()
    data = GIVEN.work / "data"
    if not data.exists():
        write_search(
            data, train=GIVEN.scenes, val=0, seed=GIVEN.seed, workers=GIVEN.workers, train_images=False
        )
    log.info("scenes and rows written after %.0f s", time.monotonic() - BEGUN)
    sets = [
        f"data.root={data}", "report_to=[]", f"stages.finetune.max_steps={GIVEN.most_steps}",
        "stages.finetune.save_steps=1000000", "stages.finetune.workers=4", *GIVEN.set,
    ]  # fmt: skip
    recipe = load_recipe("tiny-zoom", sets)
    run = open_run(GIVEN.work, recipe)
    load_model(run, recipe.stages[0])
    HELD_OUT = HeldOut(run, GIVEN.held_out)
    chains.ChainDataset = DeviceRows  # type: ignore[misc]
    chains.Chains = DeviceChains  # type: ignore[misc]
    stage_module.StageTrainer = TimedTrainer  # type: ignore[misc]
    stage_module.run_stage(run, recipe.stages[0], GIVEN.work / "stage")
    log.info("over after %.0f s; the model is %s", time.monotonic() - BEGUN, GIVEN.out / "model")


if __name__ == "__main__":
    try:
        main()
    except SystemExit:  # --help, or an option that is not there
        raise
    except BaseException:
        logging.exception("stopped")
        os._exit(1)
    # The loader's processes wait for more work: nothing is left to do for them.
    os._exit(0)
