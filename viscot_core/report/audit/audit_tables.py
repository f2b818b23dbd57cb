"""The tables of an audit, and its figures for other programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from viscot_core.report.audit.figures import AuditFigures, Figure
from viscot_core.report.tables import Table, count, interval, number

SERIES = ("right", "flips")


def audit_tables(run: str, found: dict[str, AuditFigures]) -> list[Table]:
    """What a person reads of an audit."""
    return [table for name, each in found.items() for table in _tables(run, name, each)]


def _tables(run: str, name: str, each: AuditFigures) -> list[Table]:
    rows = [(label, *_cells(figure)) for label, figure in _named(each) if figure is not None]
    tables = [
        *_replaced_tables(f"{run}: {name}", each),
        Table(f"{name}: with and without its looks", ("", "share", "95 % interval", "n of N"), rows),
    ]
    if each.coverage:
        t = each.coverage.table
        evidence = [(at, str(t[f"{at} right"]), str(t[f"{at} wrong"])) for at in ("covered", "missed")]
        note = "Covered: at least half of the true region lies inside the last crop."
        tables.append(Table(f"{name}: answers by evidence", ("", "right", "wrong"), evidence, [note]))
    costs = [
        (label, *map(_plain, (c.calls, c.tokens, c.prompt_tokens, c.seconds)), count(c.solved, c.items))
        for label, c in each.costs.items()
    ]
    header = ("", "calls", "new tokens", "prompt tokens", "seconds", "solved")
    return [*tables, Table(f"{name}: cost of a solved item", header, costs)]


def _replaced_tables(title: str, each: AuditFigures) -> list[Table]:
    """What became of the answers, one line a replacement; two tables, so that they fit a terminal."""
    replays = [
        (by, *_cells(r.flips), *_cells(r.accuracy), *_cells(r.difference, signed=True))
        for by, r in each.replaced.items()
    ]
    header = (
        "crop replaced by", "flips", "95 % interval", "n of N", "right", "95 % interval", "n of N",
        "minus the run", "95 % interval", "n of N",
    )  # fmt: skip
    right = number(each.accuracy.value)
    note = f"{each.looked} of {each.items} items have a look; right in the run: {right}."
    needed = [(by, *_cells(r.necessity), *_cells(r.needed)) for by, r in each.replaced.items()]
    needed_header = (
        "crop replaced by", "needed", "95 % interval", "n of N", "of the right", "95 % interval", "n of N",
    )  # fmt: skip
    return [
        Table(f"{title}, does looking matter?", header, replays, [note]),
        Table(f"{title}: right with the crop, wrong with it replaced", needed_header, needed),
    ]


def audit_rows(each: AuditFigures) -> list[tuple[str, tuple[Figure | None, Figure | None]]]:
    """For a plot: right answers and flips (``SERIES``) in the run, with each replacement, by crops alone."""
    replaced = [(by, (r.accuracy, r.flips)) for by, r in each.replaced.items()]
    return [("as it was", (each.accuracy, None)), *replaced, ("crop alone", (each.sufficiency, None))]


def _named(each: AuditFigures) -> list[tuple[str, Figure | None]]:
    """The figures that are one number each, in the order in which they are shown."""
    c, m = each.coverage, each.adaptiveness or {}
    return [
        ("right", each.accuracy),
        ("right from the crop alone (sufficiency)", each.sufficiency),
        ("solved only with the tool", each.only_with_tool),
        ("tool gain", each.gain),
        ("tool harm", each.harm),
        ("IoU of the box", c.iou if c else None),
        ("true region inside the crop", c.inside if c else None),
        ("its centre inside the crop", c.centre if c else None),
        ("right where covered", c.right_if_covered if c else None),
        ("right where missed", c.right_if_missed if c else None),
        ("tool called where needed", m.get("tool")),
        ("not called where not needed", m.get("text")),
        ("mode adaptiveness", m.get("mean")),
    ]


def _cells(figure: Figure, *, signed: bool = False) -> tuple[str, str, str]:
    value = f"{figure.value:+.3f}" if signed and figure.value is not None else number(figure.value)
    return value, interval(figure.ci95, signed=signed), count(figure.n, figure.of)


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def audit_json(each: AuditFigures) -> dict[str, Any]:
    """For other programs."""
    return asdict(each)
