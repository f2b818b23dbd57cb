"""``viscot data``: the commands that bring data and check it; ``rows`` has those that read it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from viscot_cli import console, rows
from viscot_cli.rows import Json, Workers

if TYPE_CHECKING:
    from viscot_core.sources.check import Checked
    from viscot_core.sources.plan import Plan

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, add_completion=False)

Root = Annotated[Path, typer.Option("--to", metavar="DATA", help="The data root.")]
For = Annotated[
    list[str] | None,
    typer.Option(
        "--for", help="pretrain, finetune, bench, refcoco, all; bench:docvqa,gqa; source names. Repeatable."
    ),
]


class LinkKind(StrEnum):
    """``organize.Link`` spelled out here as well: help imports nothing of the core."""

    auto = "auto"
    hard = "hard"
    symlink = "symlink"
    copy = "copy"


def size(count: float) -> str:
    """``12.3 GB``; a dash for nothing."""
    if not count:
        return "-"
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


@app.command("list")
def list_(to: Root = Path("data"), json: Json = False) -> None:
    """Every source: what it is for, size, license, where it goes, and whether it is here."""
    from viscot_core.sources.catalog import load_catalog

    lines = []
    for source in load_catalog().sources:
        purposes = ", ".join(source.purposes) or "by name"
        get = "by hand" if source.gate else size(source.size)
        state = source.state(to)
        if json:
            facts = source.model_dump(include={"name", "title", "purposes", "license", "gate", "note"})
            console.emit({**facts, "size": source.size, "to": source.places, "state": state})
        lines.append([source.name, purposes, get, source.places, state, source.license, source.title])
    if not json:
        columns = ["source", "for", "size", "goes to", f"in {to}", "license", "what it is"]
        console.table(columns, lines, right=["size"])


@app.command()
def fetch(
    wanted: For = None,
    to: Root = Path("data"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be fetched; fetch nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    at_once: Annotated[int, typer.Option(min=1, max=64, help="Downloads at once.")] = 4,
) -> None:
    """Fetch sources into a data root; the same command again continues. Ctrl-C keeps what has come."""
    from viscot_core.errors import DataError, PartlyDone, UsageError
    from viscot_core.sources.catalog import load_catalog, select
    from viscot_core.sources.fetch import fetch as run
    from viscot_core.sources.plan import plan

    catalog = load_catalog()
    if not wanted:
        raise UsageError(
            "Say what for: --for bench, --for finetune or a source; 'viscot data list' names them."
        )
    todo = plan(to, select(catalog, wanted))
    _show_plan(todo, to, at_once)
    if dry_run:
        return
    if todo.jobs and not yes:
        typer.confirm("Fetch?", abort=True, err=True)
    with console.transfers() as report:
        outcome = run(to, todo, catalog, at_once=at_once, report=report)
    for label, why in outcome.failed.items():
        console.say(f"{label}: {why}")
    if outcome.failed:
        raise DataError(
            f"{len(outcome.failed)} of {len(todo.jobs)} downloads failed; the same command again goes on."
        )
    console.say(
        f"{len(outcome.done)} downloads done. 'viscot data check --to {to}' tells what is still missing."
    )
    if todo.by_hand:
        names = ", ".join(source.name for source in todo.by_hand)
        raise PartlyDone(f"Get by hand: {names}; then 'viscot data organize --from FOLDER --to {to}'.")


def _show_plan(todo: Plan, to: Path, at_once: int) -> None:
    lines = [[job.label, size(job.left), job.download.to] for job in todo.jobs]
    lines += [[source.name, "here", source.places] for source in todo.complete]
    lines += [[source.name, "by hand", source.gate or ""] for source in todo.by_hand]
    console.table(["download", "size", "goes to"], lines, right=["size"])
    room = f", {size(todo.disk(at_once))} of disk at the most" if todo.jobs else ""
    console.say(f"{len(todo.jobs)} downloads into {to}, about {size(todo.to_fetch)}{room}.")


@app.command()
def organize(
    hand: Annotated[Path, typer.Option("--from", metavar="FOLDER", help="Where your downloads are.")],
    to: Root = Path("data"),
    wanted: For = None,
    link: Annotated[
        LinkKind, typer.Option(help="auto: a hard link where the disk allows it.")
    ] = LinkKind.auto,
) -> None:
    """Put files got by hand where the annotations of a data root want them."""
    from viscot_core.errors import PartlyDone
    from viscot_core.sources.catalog import load_catalog
    from viscot_core.sources.organize import Link
    from viscot_core.sources.organize import organize as run

    with console.progress("missing pictures looked for") as advance:
        done = run(hand, to, load_catalog(), groups=wanted or (), link=Link(link), progress=advance)
    for path, files in done.ambiguous.items():
        console.say(
            f"{path}: one of {', '.join(map(str, files))}? Nothing tells them apart; place it yourself."
        )
    console.say(f"{len(done.placed)} files placed.")
    left = len(done.not_found) + len(done.ambiguous)
    if left:
        first = ", ".join([*done.not_found, *done.ambiguous][:3])
        raise PartlyDone(f"{left} files are still missing ({first}, ...); 'viscot data check' lists them.")


@app.command()
def check(
    to: Root = Path("data"),
    wanted: For = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Read every picture to its last pixel, not its head only.")
    ] = False,
    workers: Workers = 1,
    report: Annotated[
        Path | None, typer.Option(help="Where every problem goes; DATA/report.jsonl otherwise.")
    ] = None,
) -> None:
    """Every picture the annotations name: present, readable, of the annotated size, boxes inside."""
    from viscot_core.errors import DataError
    from viscot_core.sources.catalog import load_catalog
    from viscot_core.sources.check import FATAL, OUTSIDE
    from viscot_core.sources.check import check as run

    report = report or to / "report.jsonl"
    catalog = load_catalog()
    with console.progress("pictures checked") as advance:
        results = run(
            to, catalog, report, groups=wanted or (), decode=decode, workers=workers, progress=advance
        )
    kinds = [*FATAL, OUTSIDE]
    lines = [[r.file, r.rows, r.pictures, *(r.problems[kind] for kind in kinds)] for r in results]
    console.table(["file", "rows", "pictures", *kinds], lines, right=["rows", "pictures", *kinds])
    _say_missing(results)
    console.say(f"Every problem: {report}")
    if wrong := sum(result.problems[kind] for result in results for kind in FATAL):
        raise DataError(
            f"{wrong} problems; 'viscot data fetch' and 'viscot data organize' bring what is missing."
        )


def _say_missing(results: Sequence[Checked]) -> None:
    """The folders that miss most, and the sources that fill them."""
    from collections import Counter

    from viscot_core.sources.catalog import holders, load_catalog

    folders = sum((result.folders for result in results), Counter[str]())
    for folder, count in folders.most_common(20):
        names = ", ".join(holders(load_catalog(), folder)) or "no source viscot knows"
        console.say(f"{folder}: {count} missing; they come with {names}.")


for command in (rows.convert, rows.mix, rows.show, rows.stats, rows.synth):
    app.command()(command)
