"""``viscot data``: commands that fetch and check data; ``data_rows`` and ``data_convert`` have the others."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from viscot_cli import console, data_convert, data_rows
from viscot_cli.data_prefs import prefs
from viscot_cli.data_rows import Json, Workers
from viscot_cli.help import Commands
from viscot_core.errors import DataError, PartlyDone, UsageError

if TYPE_CHECKING:
    from viscot_core.sources.catalog import DataSource
    from viscot_core.sources.check import Checked
    from viscot_core.sources.fetch import FetchOutcome
    from viscot_core.sources.plan import DownloadJob, FetchPlan

_SHOWN = 10
"""How many ambiguous files are listed one by one."""

app = typer.Typer(cls=Commands, rich_markup_mode=None, no_args_is_help=True, add_completion=False)

Root = Annotated[Path, typer.Option("--data", metavar="DATA", help="The data root.")]
For = Annotated[
    list[str] | None,
    typer.Option(
        "--for",
        help="pretrain, finetune, bench, refcoco, all; bench:docvqa,gqa or bench:vstar; source names. "
        "Repeatable.",
    ),
]
Files = Annotated[
    list[str] | None,
    typer.Option(
        "--for", help="bench, refcoco, finetune, pretrain, metadata, all; bench:docvqa,gqa. Repeatable."
    ),
]


class LinkKind(StrEnum):
    """A copy of ``organize.Link``: the help must not import the core."""

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
def list_(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[SOURCE...]", help="Show every detail of these sources.")
    ] = None,
    to: Root = Path("data"),
    json: Json = False,
) -> None:
    """List the sources: purpose, size, license, target folder, how to get them, and their state."""
    from viscot_core.sources.catalog import load_catalog

    catalog = load_catalog()
    sources = [catalog.named(name) for name in names] if names else catalog.sources
    if json:
        for source in sources:
            facts = source.model_dump(exclude={"sets"})
            state = source.state(to)
            console.emit({**facts, "size": source.size, "to": source.places, "state": state})
    elif names:
        for source in sources:
            _details(source, to)
    else:
        lines = [[s.name, _purposes(s), _size(s), s.state(to), s.places, s.license] for s in catalog.sources]
        columns = ["source", "for", "size", "here", "goes to", "license"]
        console.table(columns, lines, right=["size"], title=f"Sources, and their state in {to}")
        console.out()
        _by_hand([source for source in catalog.sources if source.gate], "To get by hand:")
        console.say("Details and origin of one source: viscot data list SOURCE")


def _details(source: DataSource, to: Path) -> None:
    console.out(f"{source.name}: {source.title}")
    facts = {
        "for": _purposes(source),
        "size": _size(source),
        "license": source.license,
        "goes to": source.places,
        f"in {to}": source.state(to),
        "by hand": source.gate,
        "note": source.note,
    }
    for name, fact in facts.items():
        if fact:
            console.out(f"  {name}: {fact}")
    for one in source.downloads:
        origin = one.url or f"the hub's data set {one.hub}, {one.path}"
        parts = f", {one.parts} parts" if one.parts > 1 else ""
        kind = f", {one.archive} archive{parts}" if one.archive else ""
        console.out(f"  {one.to} <- {origin} ({size(one.size)}{kind})")


def _purposes(source: DataSource) -> str:
    named = [f"{purpose}:{source.name}" for purpose in source.by_name]
    return ", ".join([*source.purposes, *named]) or "by name"


def _size(source: DataSource) -> str:
    return "by hand" if source.gate else size(source.size)


def _by_hand(sources: Sequence[DataSource], title: str) -> None:
    if sources:
        console.out(title)
    for source in sources:
        console.out(f"  {source.name} (into {source.places}): {source.gate}")


@app.command()
def fetch(
    wanted: For = None,
    to: Root = Path("data"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be fetched; fetch nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Downloads at the same time.")] = 4,
    relock: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE", help="Fetch this source anew and accept what its origin has today. Repeatable."
        ),
    ] = None,
) -> None:
    """Fetch sources into a data root; the same command continues. Ctrl-C keeps what was downloaded."""
    from viscot_core.sources.catalog import load_catalog, select, single
    from viscot_core.sources.fetch import fetch as run
    from viscot_core.sources.plan import plan

    catalog = load_catalog()
    wanted = [*(wanted or ()), *(relock or ())]
    if not wanted:
        raise UsageError(
            "Choose what to fetch: --for bench, --for finetune or a source; 'viscot data list' lists them."
        )
    chosen = select(catalog, wanted)
    todo = plan(to, chosen, again=relock or ())
    _show_plan(todo, to, concurrency)
    if all(":" in word for word in wanted):  # nothing else needs the images of every set
        _say_what_is_less(todo, single(catalog, chosen))
    if dry_run:
        return
    if todo.jobs and not yes:
        _ask()
    if todo.jobs:
        with console.transfers() as report:
            outcome = run(to, todo, catalog, at_once=concurrency, relock=relock or (), report=report)
        _tell(outcome, todo, to)
    if todo.by_hand:
        names = ", ".join(source.name for source in todo.by_hand)
        raise PartlyDone(f"Get by hand: {names}; then 'viscot data organize --from FOLDER --data {to}'.")


def _ask() -> None:
    if not sys.stdin.isatty():
        raise UsageError("Not a terminal; pass --yes to fetch, or --dry-run to see only the plan.")
    typer.confirm("Fetch?", abort=True, err=True)


def _tell(outcome: FetchOutcome, todo: FetchPlan, to: Path) -> None:
    """Report the outcome. Raises DataError if every download failed, PartlyDone if some did."""
    for label, why in outcome.failed.items():
        console.say(f"{label}: {why}")
    if outcome.failed:
        kind = PartlyDone if outcome.done else DataError
        raise kind(f"{len(outcome.failed)} of {len(todo.jobs)} downloads failed; the same command continues.")
    asked = [name for name, jobs in groupby(todo.jobs, key=_asked_by_name) if name]
    next_ = (
        f"'viscot bench run {','.join(asked)} --data {to}' asks the questions."
        if all(map(_asked_by_name, todo.jobs))
        else f"'viscot data check --data {to}' lists what is still missing."
    )
    console.say(f"{len(outcome.done)} downloads done. {next_}")


def _asked_by_name(job: DownloadJob) -> str | None:
    """The benchmark that the source is for ``bench run``; None: its annotations are checked first."""
    return job.source.name if job.source.by_name else None


def _show_plan(todo: FetchPlan, to: Path, at_once: int) -> None:
    lines = []
    for name, jobs in groupby(todo.jobs, key=lambda job: job.source.name):
        some = list(jobs)
        source = some[0].source
        sets = dict.fromkeys(job.download.data_set for job in some if job.download.data_set)
        what = f"{name}: {', '.join(sets)}" if sets and len(some) < len(source.downloads) else name
        lines.append([what, len(some), size(sum(job.left for job in some)), source.places])
    lines += [[source.name, "-", "here", source.places] for source in todo.complete]
    if lines:
        console.table(["source", "downloads", "size", "goes to"], lines, right=["downloads", "size"])
    _by_hand(todo.by_hand, "To get by hand:")
    if todo.jobs:
        unknown = sum(not job.download.size for job in todo.jobs)
        more = f"; the size of {unknown} of them is not known before" if unknown else ""
        console.say(
            f"{len(todo.jobs)} downloads into {to}: about {size(todo.to_fetch)}, "
            f"at most {size(todo.disk(at_once))} of disk space{more}."
        )
    else:
        console.say(f"Nothing to download into {to}.")


def _say_what_is_less(todo: FetchPlan, single: Sequence[DataSource]) -> None:
    """If single sources would replace the large tar of all images, print the command."""
    whole = next((job for job in todo.jobs if job.source.folder == "cot"), None)
    less = sum(source.size for source in single)
    if single and whole and less < whole.left:
        names = ",".join(source.name for source in single)
        console.say(
            f"{whole.source.name} has the images of every set; only those of these sets: {size(less)} with "
            f"--for benchmark:{names} --for {names}"
        )


@app.command()
def organize(
    hand: Annotated[Path, typer.Option("--from", metavar="FOLDER", help="The folder of your downloads.")],
    to: Root = Path("data"),
    wanted: Files = None,
    link: Annotated[LinkKind, typer.Option(help="auto: a hard link if the disk allows it.")] = LinkKind.auto,
) -> None:
    """Place files that you downloaded by hand where the annotations of a data root expect them."""
    from viscot_core.sources.catalog import load_catalog
    from viscot_core.sources.organize import Link
    from viscot_core.sources.organize import organize as run

    with console.progress("searching missing images") as advance:
        done = run(hand, to, load_catalog(), groups=wanted or (), link=Link(link), progress=advance)
    for path, files in list(done.ambiguous.items())[:_SHOWN]:
        console.say(f"{path}: ambiguous, one of {', '.join(map(str, files))}; place the right one yourself.")
    if len(done.ambiguous) > _SHOWN:
        console.say(f"... and {len(done.ambiguous) - _SHOWN} more ambiguous files.")
    console.say(f"{len(done.placed)} files placed.")
    if done.outside:
        console.say(
            f"{len(done.outside)} annotated paths lead outside of {to} (the first is {done.outside[0]!r}); "
            "nothing was placed there: correct the annotation files."
        )
    left = [*done.not_found, *done.ambiguous, *done.outside]
    if left:
        first = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
        raise PartlyDone(
            f"{len(left)} files are still missing ({first}); 'viscot data check --data {to}' lists them."
        )


@app.command()
def check(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="A training file of any format, not a root."),
    ] = None,
    to: Root = Path("data"),
    wanted: Files = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode every image completely, not only its header.")
    ] = False,
    workers: Workers = 1,
    out: Annotated[
        Path | None, typer.Option(help="File for the list of problems; default: DATA/report.jsonl.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="With FILE: folder of the image paths; default: FILE's.")
    ] = None,
    boxes: data_convert.Boxes = None,
    shown: Annotated[int, typer.Option(min=0, help="With FILE: how many faults are shown one by one.")] = 20,
) -> None:
    """Check every annotated image of a root (there, readable, boxes inside it), or the rows of one FILE."""
    if file is not None:
        data_convert.check_rows(file, images, boxes, shown)
        return
    if images or boxes:
        raise UsageError("--images and --boxes only go with a FILE; a root has its own.")
    from viscot_core.sources.catalog import load_catalog
    from viscot_core.sources.check import FATAL, ODD, OUTSIDE
    from viscot_core.sources.check import check as run

    report = out or to / "report.jsonl"
    catalog = load_catalog()
    with console.progress("images checked") as advance:
        results = run(
            to, catalog, report, groups=wanted or (), decode=decode, workers=workers, progress=advance
        )
    kinds = [*FATAL, OUTSIDE]
    lines = [[r.file, r.rows, r.images, *(r.problems[kind] for kind in kinds)] for r in results]
    console.table(["file", "rows", "images", *kinds], lines, right=["rows", "images", *kinds])
    _say_missing(results)
    for result in results:
        for kind in (FATAL[-1], *ODD):
            if count := result.problems[kind]:
                console.say(f"{result.file}: {kind} {count} times; first, {result.first[kind]}")
    wrong = sum(result.problems[kind] for result in results for kind in FATAL)
    outside = sum(result.problems[OUTSIDE] for result in results)
    if outside:
        console.say(f"{outside} boxes reach outside their images; training and benchmark clip them.")
    odd = sum(result.problems[kind] for result in results for kind in ODD)
    if wrong or outside or odd:
        console.say(f"All problems are listed in {report}")
    if wrong:
        missing = any(result.problems["missing"] for result in results)
        fix = "get missing files with 'viscot data fetch' and 'viscot data organize'"
        raise DataError(f"{wrong} problems; {fix if missing else f'{report} lists them'}.")
    rows_in_all = sum(result.rows for result in results)
    console.say(f"{len(results)} files, {rows_in_all} rows: every image exists and matches its rows.")


def _say_missing(results: Sequence[Checked]) -> None:
    """The folders with the most missing images, and the sources that contain these."""
    from collections import Counter

    from viscot_core.sources.catalog import holders, load_catalog

    folders = sum((result.folders for result in results), Counter[str]())
    for folder, count in folders.most_common(20):
        names = ", ".join(holders(load_catalog(), folder)) or "no source that viscot knows"
        console.say(f"{folder}: {count} missing; to be found in {names}.")


for command in (data_convert.convert, data_rows.mix, data_rows.show, data_rows.stats, data_rows.synth, prefs):
    app.command()(command)
