"""A dataclass of options stands on the command line as its fields."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from viscot_cli.grouped import grouped


@dataclass(frozen=True)
class Paint:
    color: Annotated[str, typer.Option(help="Which colour.")]
    coats: Annotated[int, typer.Option(min=1, help="How many.")] = 2


@dataclass(frozen=True)
class Place:
    wall: Path = Path("north")


app = typer.Typer()


@app.command()
@grouped
def paint(
    *, place: Place, speed: Annotated[float, typer.Option(help="How fast.")] = 1.0, paint: Paint
) -> None:
    """Paint a wall."""
    typer.echo(f"{place.wall} {speed} {paint}")


def test_fields_become_options_with_their_defaults() -> None:
    ran = CliRunner().invoke(app, ["--color", "red", "--wall", "south"])
    assert ran.output == "south 1.0 Paint(color='red', coats=2)\n"


@pytest.mark.parametrize("words", ["", "--color red --coats 0", "--color red --where x"])
def test_a_missing_wrong_or_unknown_option_is_wrong_usage(words: str) -> None:
    assert CliRunner().invoke(app, words.split()).exit_code == 2


def test_help_lists_them_in_order() -> None:
    text = CliRunner().invoke(app, ["--help"]).output
    assert "Paint a wall." in text
    assert 0 < text.index("--wall") < text.index("--speed") < text.index("--color") < text.index("--coats")
