"""The tables of an audit, and its figures for other programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from viscot_core.report.audit.figures import AuditFigures, Figure
from viscot_core.report.tables import Table, count, interval, number


def audit_tables(run: str, found: dict[str, AuditFigures]) -> list[Table]:
    """What a person reads of an audit."""
    return [table for name, each in found.items() for table in _tables(run, name, each)]


def _tables(run: str, name: str, each: AuditFigures) -> list[Table]:
    replays = [
        (
            by,
            *_cells(r.flips),
            *_cells(r.accuracy),
            "-" if r.difference.value is None else f"{r.difference.value:+.3f}",
            interval(r.difference.ci95, signed=True),
            *_cells(r.necessity),
            number(r.needed.value),
            count(r.needed.n, r.needed.of),
        )
        for by, r in each.replaced.items()
    ]
    header = (
        "crop replaced by", "flips", "95 % interval", "n of N", "right", "95 % interval", "n of N",
        "minus the run", "95 % interval", "needed", "95 % interval", "n of N", "of the right", "n of N",
    )  # fmt: skip
    looked = (
        f"{each.looked} of {each.items} items have a look; right in the run: {number(each.accuracy.value)}."
    )
    tables = [Table(f"{run}: {name}, does looking matter?", header, replays, [looked])]
    rows = [(label, *_cells(figure)) for label, figure in _named(each) if figure is not None]
    tables.append(
        Table(f"{name}: with and without its looks", ("", "share", "95 % interval", "n of N"), rows)
    )
    if each.coverage:
        t = each.coverage.table
        tables.append(
            Table(
                f"{name}: answers by evidence",
                ("", "right", "wrong"),
                [
                    (where, str(t[f"{where} right"]), str(t[f"{where} wrong"]))
                    for where in ("covered", "missed")
                ],
                ["Covered: at least half of the true region lies inside the last crop."],
            )
        )
    costs = [
        (
            label,
            *(_plain(v) for v in (c.calls, c.tokens, c.prompt_tokens, c.seconds)),
            count(c.solved, c.items),
        )
        for label, c in each.costs.items()
    ]
    tables.append(
        Table(
            f"{name}: cost of a solved item",
            ("", "calls", "new tokens", "prompt tokens", "seconds", "solved"),
            costs,
        )
    )
    return tables


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


def _cells(figure: Figure) -> tuple[str, str, str]:
    return number(figure.value), interval(figure.ci95), count(figure.n, figure.of)


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def audit_json(each: AuditFigures) -> dict[str, Any]:
    """For other programs."""
    return asdict(each)
