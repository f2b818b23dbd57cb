"""``viscot doctor``: what this machine has, which models fit, and what to fix."""

from __future__ import annotations

from typing import Annotated

import typer

from viscot_cli import console

WIDTHS = {"models": 32}
"""Columns of the names in a group, where it is not the usual width."""
COLOURS = {"ok": "green", "warn": "yellow", "missing": "red"}


def doctor(
    json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    measure: Annotated[bool, typer.Option(help="Time fp32 and bf16 on the CPU (about a second).")] = True,
) -> None:
    """Check this machine: each line is ok, warn or missing, with the fix.

    The exit code is 1 only if something essential is missing.
    """
    from viscot_core import doctor

    group, unusable = "", False
    for finding in doctor.examine(measure=measure):
        unusable |= finding.state == "missing" and finding.name in doctor.NECESSARY
        if json:
            console.emit(finding)
            continue
        if finding.group != group:
            group = finding.group
            console.out(("\n" if finding.name != "python" else "") + group)
        state = console.styled(finding.state.ljust(8), fg=COLOURS[finding.state])
        width = WIDTHS.get(finding.group, 16)
        console.out("  ", state, f"{finding.name.ljust(width)} {finding.text}")
        if finding.fix:
            console.out(f"{' ' * 10}{' ' * width} -> {finding.fix}")
    if unusable:
        raise typer.Exit(1)
