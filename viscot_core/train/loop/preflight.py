"""Checks before step 0: samples of every file are rendered and tokenized, and their images are opened.

What the reference passes over silently in the middle of a run (a row with nothing to learn, an answer that is
cut off, a missing image) stops the run here, and the message names the sample.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from viscot_core.data.annotations import Conversation
from viscot_core.data.encode import read_row
from viscot_core.data.faults import BOX_FORMAT, faults, has_box
from viscot_core.data.mixture import Mixture
from viscot_core.errors import DataError, UsageError
from viscot_core.families.inputs import Rendered
from viscot_core.families.training import TrainingProcessor
from viscot_core.images.reading import image_size
from viscot_core.paths import inside
from viscot_core.train import ranks
from viscot_core.train.evaluation import held_out
from viscot_core.train.loop.layout import packing_fault
from viscot_core.train.objectives.base import objective_class
from viscot_core.train.recipe.schema import StageSpec
from viscot_core.train.state import checkpoints
from viscot_core.train.state.initial import Run

log = logging.getLogger(__name__)

_WHOLE = 1 << 30
"""A length that cuts nothing."""
OPEN, CLOSE = "\u27e6", "\u27e7"
"""Marks of the supervised text in the sample that is shown."""


def check_rows(run: Run, stage: StageSpec, out: Path) -> None:
    """Before any weight is loaded: the rows are those of the last checkpoint, and the preflight passes.

    The first rank checks for all; where it fails, all stop.
    """
    if fault := packing_fault(run.training, stage, run.recipe.name):
        raise UsageError(fault)
    if ranks.rank() == 0:
        try:
            checkpoints.set_aside_nonfinite(out)
            checkpoints.require_same_rows(checkpoints.last_checkpoint(out), row_counts(run, stage))
            learns = objective_class(stage, run.recipe.model)
            if learns.reads_text and learns.reads_conversations and run.recipe.data.preflight:
                _preflight(run, stage, out)
            held_out.check(run, stage)
        except Exception:
            # Before raising: the other ranks wait for this broadcast.
            ranks.agree("the rows did not pass the first rank's check")
            raise
        ranks.agree(None)
    elif problem := ranks.agree(None):
        raise UsageError(problem)


def row_counts(run: Run, stage: StageSpec) -> dict[str, int]:
    """Rows of an epoch in each of the stage's files: the order of rows is drawn from these numbers."""
    return {name: len(Mixture.open(run.root / name).epoch()) for name in stage.data_files}


def _preflight(run: Run, stage: StageSpec, out: Path) -> None:
    """Run the preflight; its report and the first sample are written to ``preflight.txt``."""
    report = preflight(
        [run.root / name for name in stage.data_files],
        run.images,
        run.processor_for(stage),
        max_length=stage.max_length,
        count=run.recipe.data.preflight,
    )
    out.mkdir(parents=True, exist_ok=True)
    lines = [f"{report.looked_at} samples looked at, {len(report.bad)} bad", *report.bad, *report.odd]
    lines.append(report.sample)
    (out / "preflight.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    shown = f"; the first sample, supervised text marked:\n{report.sample}" if report.sample else ""
    log.info("preflight of %s: %s%s", stage.kind, lines[0], shown)
    for line in report.odd:
        log.warning("preflight of %s: %s", stage.kind, line)
    require(report, run.recipe.data.allow_bad)


@dataclass(frozen=True, slots=True)
class Report:
    """What the preflight found: samples checked, the bad ones with reasons, and the first good one."""

    looked_at: int
    bad: tuple[str, ...]
    sample: str
    odd: tuple[str, ...] = ()
    """Rows that can be learned from and would teach something wrong: a line for each kind, with its count."""


def preflight(
    files: Sequence[Path],
    images: Path,
    processor: TrainingProcessor,
    *,
    max_length: int,
    count: int,
) -> Report:
    """Check ``count`` samples of every source of every file, evenly spread.

    Raises:
        DataError: most boxes of a file are of another format: the model would learn to write that.
    """
    looked, bad, shown = 0, list[str](), ""
    odd: list[str] = []
    for path in files:
        kinds: dict[str, list[str]] = {}
        boxes = 0
        rows = Mixture.open(path)
        for index in (s.first + n for s in rows.sources for n in held_out.spread(s.rows, count)):
            looked += 1
            try:
                row = rows[index]
                text = _check(row, images, processor, max_length)
                for fault in faults(row, lambda name: image_size(inside(images, name))):
                    kinds.setdefault(fault.kind, []).append(f"row {index} (id {row.id}): {fault.detail}")
                boxes += has_box(row)
            except DataError as error:
                bad.append(f"{path.name}, row {index}: {error}")
                continue
            shown = shown or text
        for kind, found in kinds.items():
            odd.append(f"{path.name}: {kind} {len(found)} times; first, {found[0]}")
            if kind == BOX_FORMAT and 2 * len(found) > boxes:
                raise DataError(
                    f"{odd[-1]}. viscot data convert FILE --convert-boxes FROM --out NEW rewrites boxes of "
                    "another format."
                )
    return Report(looked, tuple(bad), shown, tuple(odd))


def require(report: Report, allowed: int) -> None:
    """`DataError` that names the bad samples where there are more than ``allowed``."""
    if len(report.bad) <= allowed:
        return
    named = "\n  ".join(report.bad[:10])
    more = f"\n  and {len(report.bad) - 10} more" if len(report.bad) > 10 else ""
    raise DataError(
        f"{len(report.bad)} of {report.looked_at} samples cannot be learned from; correct them or give "
        f"--allow-bad {len(report.bad)}:\n  {named}{more}"
    )


def _check(row: Conversation, images: Path, processor: TrainingProcessor, max_length: int) -> str:
    """The row as `marked` shows it; `DataError` says why it cannot be learned from."""
    sample, _ = read_row(row, images, processor, max_length=max_length)
    if len(sample.encoded.ids) == max_length or len(sample.images) < len(row.image):
        whole = read_row(row, images, processor, max_length=_WHOLE)[0].encoded
        # Compared without the cut: only a supervised token behind max_length makes the row bad.
        if whole.n_supervised > sample.encoded.n_supervised:
            raise DataError(
                f"row {row.id}: {len(whole.ids)} tokens, its answer is cut at {max_length}; shorten it."
            )
    return marked(sample.encoded, processor)


def marked(encoded: Rendered, processor: TrainingProcessor) -> str:
    """The sample as the model reads it, supervised text between marks, each image as ``<image>``."""
    spans = processor.spans(encoded)
    return "".join(f"{OPEN}{text}{CLOSE}" if supervised else text for text, supervised in spans)
