"""What the commands of ``viscot bench`` share: their options, and how a run is reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from viscot_cli import console

if TYPE_CHECKING:
    from viscot_core.bench.records import RunInfo
    from viscot_core.bench.run import Tally
    from viscot_core.boxes import CropPolicy
    from viscot_core.engines.api import ApiOptions

Model = Annotated[
    str | None, typer.Option(help="A name of 'viscot models list', a folder, or http://HOST:PORT/v1#NAME.")
]
Data = Annotated[Path, typer.Option(help="The data root: benchmark/, benchmark_det/, refcoco/ and pictures.")]
Out = Annotated[Path | None, typer.Option(help="The run folder [results/MODEL-BENCHMARK].")]
Limit = Annotated[
    int | None, typer.Option(min=1, help="This many questions of each data set, drawn by --seed.")
]
Seed = Annotated[int, typer.Option(help="Of --limit and of random boxes.")]
SkipMissing = Annotated[bool, typer.Option("--skip-missing", help="Leave out questions without a picture.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Prompts that run together.")]
Batch = Annotated[str, typer.Option("--batch-size", help="Prompts that run together; auto finds what fits.")]
ProtocolName = Annotated[
    str, typer.Option(help="paper: the reference's exact prompts; native: viscot's own.")
]
BoxFormat = Annotated[
    str | None, typer.Option(help="How the model writes boxes; 'viscot bench list' shows them.")
]
MaxNew = Annotated[int, typer.Option(min=1, help="Longest box and answer, in tokens.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Server: prompts under way at once.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Server: seconds until a call is tried again.")]
MaxRequests = Annotated[int | None, typer.Option(min=1, help="Server: stop after this many calls.")]
MaxCost = Annotated[float | None, typer.Option(help="Server: stop before this many dollars; needs --price.")]
PriceOf = Annotated[str | None, typer.Option(help="READ,WRITTEN in dollars for a million tokens each.")]
Gpus = Annotated[int, typer.Option(min=1, help="Share the pictures among this many GPUs of this machine.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Dtype = Annotated[str, typer.Option(help="auto, fp32, fp16 or bf16.")]
LoadIn = Annotated[str | None, typer.Option(help="4bit or 8bit (needs viscot[quant]).")]
Attn = Annotated[str, typer.Option(help="sdpa, flash (needs viscot[flash]) or eager.")]


def api_options(
    concurrency: int, timeout: float, max_requests: int | None, max_cost: float | None, price: str | None
) -> ApiOptions:
    from viscot_core.engines.api import ApiOptions, Price
    from viscot_core.errors import UsageError

    parsed = None
    if price is not None:
        try:
            read, written = (float(part) for part in price.split(","))
        except ValueError as error:
            raise UsageError(f"--price is READ,WRITTEN like 0.15,0.60, not '{price}'.") from error
        parsed = Price(read, written)
    return ApiOptions(concurrency, timeout, max_requests=max_requests, max_cost=max_cost, price=parsed)


def batch_size_of(text: str) -> int:
    """``auto`` is 0."""
    from viscot_core.errors import UsageError

    if text == "auto":
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--batch-size is auto or a number from 1, not '{text}'.")
    return int(text)


def policy_of(name: str) -> CropPolicy:
    from viscot_core.boxes import CropPolicy
    from viscot_core.errors import UsageError, nearest

    choices = [policy.value for policy in CropPolicy]
    if name not in choices:
        raise UsageError(
            f"--crop-policy is one of {', '.join(choices)}, not '{name}'.{nearest(name, choices)}"
        )
    return CropPolicy(name)


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


def names_of(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def default_out(model: str | None, kind: str) -> Path:
    name = (model or "viscot-tiny").rstrip("/").replace("#", "/").rpartition("/")[2]
    return Path("results") / f"{name}-{kind}"


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


def report(out: Path, info: RunInfo, tally: Tally, then: str) -> None:
    """What was done and what is open; PartlyDone where something failed or is pending."""
    from viscot_core.bench.shards import shard_of
    from viscot_core.errors import PartlyDone

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
    console.out(f"{out}: {counts['done']} of {total} done ({tally.finished} now{speed})")
    if counts["missing"]:
        console.out(f"{counts['missing']} left out: their pictures are missing (--skip-missing)")
    if counts["failed"] or counts["pending"] or tally.open:
        reasons = "".join(f"\n  {n} x {reason}" for reason, n in tally.open.most_common(5))
        raise PartlyDone(
            f"{counts['failed']} failed and {counts['pending']} pending; the same command tries them again."
            f"{reasons}"
        )
    console.say(f"next: {then}")
