"""What ``viscot bench`` prints: its progress, its figures, what is done and what is open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from viscot_cli import console

if TYPE_CHECKING:
    from viscot_core.runs.records import RunInfo
    from viscot_core.runs.tally import Tally


@contextmanager
def counted(what: str) -> Iterator[Callable[[int, int], None]]:
    """Progress that learns its total from the first call."""
    with ExitStack() as stack:
        advance: list[Callable[[int], None]] = []
        shown = 0

        def progress(done: int, total: int) -> None:
            nonlocal shown
            if not advance:
                advance.append(stack.enter_context(console.progress(what, total)))
            advance[0](done - shown)
            shown = done

        yield progress


def show_figures(info: RunInfo) -> None:
    """Whole data sets' figures, where a run keeps them."""
    rows = [
        (strategy, name, metric, f"{value:.4g}")
        for strategy, sets in info.figures.items()
        for name, metrics in sets.items()
        for metric, value in metrics.items()
    ]
    if rows:
        console.table(["strategy", "task", "metric", "figure"], rows, right=("figure",))


def report(out: Path, info: RunInfo, tally: Tally, then: str, max_truncated: float = 1.0) -> None:
    """What was done and what is open; PartlyDone where something failed, is pending or was cut too often."""
    from viscot_core.errors import PartlyDone
    from viscot_core.runs.shards import shard_of

    shard = shard_of()
    if not shard.is_alone:  # a task of srun: what is open now may be another's share
        console.out(f"{out}: rank {shard.rank} of {shard.world} finished {tally.finished}")
        if tally.failed or tally.open:
            raise PartlyDone(f"Rank {shard.rank}: {tally.failed} failed, {tally.open.total()} left open.")
        return
    for warning in info.warnings:
        console.say(f"note: {warning}.")
    counts = info.counts
    total = sum(counts.values())
    speed = f", {tally.finished / tally.seconds:.1f} a second" if tally.finished and tally.seconds else ""
    if tally.least_seconds is not None:
        speed += f", {tally.least_seconds / tally.seconds:.0%} of what this GPU could do at best"
    cut = counts.get("truncated", 0)
    answered = counts["done"] + cut
    console.out(f"{out}: {answered} of {total} done ({tally.finished} now{speed})")
    if cut:
        console.out(f"{cut} of them ({cut / answered:.1%}) cut off at the token limit: see --max-new-tokens")
    if counts["missing"]:
        console.out(f"{counts['missing']} skipped: their images are missing (--skip-missing)")
    if counts["failed"] or counts["pending"] or tally.open:
        found = [*tally.failures.most_common(5), *tally.open.most_common(5)]
        reasons = "".join(f"\n  {n} x {reason}" for reason, n in found)
        raise PartlyDone(
            f"{counts['failed']} failed and {counts['pending']} pending; the same command tries them again."
            f"{reasons}"
        )
    if answered and cut / answered > max_truncated:
        raise PartlyDone(
            f"{cut / answered:.1%} of the answers were cut off, more than --max-truncated {max_truncated:g}; "
            "give a larger --max-new-tokens and a new --out."
        )
    console.say(f"next: {then}")


def export_if_asked(to: str | None, run: Path) -> None:
    """``--export``, once the run is complete."""
    from viscot_core.runs.shards import shard_of

    if to is not None and shard_of().is_alone:
        export_run(run, run / to, to)


def export_run(run: Path, out: Path, to: str) -> None:
    """Write a run to ``out`` as other programs read it, and name the files."""
    if to == "coco":
        from viscot_core.runs.coco import export_coco

        for file in export_coco(run, out):
            without = f", {file.without} items have none" if file.without else ""
            console.out(f"{file.path}: {file.boxes} boxes{without}")
        return
    from viscot_core.runs.exchange import export_results

    for path in export_results(run, out):
        console.out(str(path))
