"""``viscot recipes list | show | copy | check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from viscot_cli import console
from viscot_cli.help import Commands

app = typer.Typer(cls=Commands, rich_markup_mode=None, no_args_is_help=True, add_completion=False)

Name = Annotated[str, typer.Argument(help="A shipped recipe or a YAML file.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="a.b=value, as in viscot train.")]


@app.command("list")
def list_(json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False) -> None:
    """The shipped recipes, one a line, with about how many GiB of a GPU fine-tuning takes, full / LoRA 64."""
    from viscot_core import resources
    from viscot_core.train.plan.fits import MACHINES, memory_of
    from viscot_core.train.recipe.load import load_recipe

    rows = []
    for name, path in resources.recipes().items():
        recipe = load_recipe(path)
        stages, memory = [stage.kind for stage in recipe.stages], memory_of(recipe)
        if json:
            console.emit({
                "name": name, "stages": stages, "description": recipe.description, "path": str(path),
                "memory_gib": memory,
            })  # fmt: skip
        cells = [" / ".join(_gib(gib) for gib in kinds.values()) for kinds in memory.values()]
        rows.append([name, " > ".join(stages), *cells, recipe.description])
    if not json:
        console.table(["recipe", "stages", *MACHINES, ""], rows)
        console.say(
            "GiB a GPU to fine-tune all weights / LoRA of rank 64, estimates; -: does not fit. "
            "'viscot train --recipe NAME --dry-run' plans it for your machine"
        )


def _gib(gib: float | None) -> str:
    return "-" if gib is None else f"~{gib:.0f}"


@app.command()
def show(
    name: Name,
    set_: Set = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Each field with its unit, default and source instead.")
    ] = False,
    resolved: Annotated[bool, typer.Option("--resolved", help="Every default written out.")] = False,
) -> None:
    """A recipe as it is written; --resolved with every default, --explain with each field's meaning."""
    from viscot_core.train.recipe.explain import explained
    from viscot_core.train.recipe.load import dump_recipe, load_recipe, recipe_path

    if explain:
        recipe = load_recipe(name, set_ or ())
        console.table(["field", "value", "unit", "default", "meaning", "source"], explained(recipe))
    elif resolved or set_:
        console.out(dump_recipe(load_recipe(name, set_ or ())).rstrip())
    else:
        console.out(recipe_path(name).read_text(encoding="utf-8").rstrip())


@app.command()
def copy(
    name: Name,
    target: Annotated[Path, typer.Argument(help="The new file.")],
    force: Annotated[bool, typer.Option("--force", help="Write over a file.")] = False,
) -> None:
    """Copy a recipe, comments and all, to change it."""
    from viscot_core.errors import UsageError
    from viscot_core.files import atomic_write
    from viscot_core.train.recipe.load import recipe_path

    source = recipe_path(name)
    if target.is_dir():
        target = target / source.name
    if target.exists() and not force:
        raise UsageError(f"{target} is there already; --force writes over it.")
    with atomic_write(target) as file:
        file.write(source.read_text(encoding="utf-8"))
    console.out(f"{target}; change it, then: viscot recipes check {target}")


@app.command()
def check(name: Name, set_: Set = None) -> None:
    """Say every fault of a recipe at once, or that it is right."""
    from viscot_core.train.recipe.load import load_recipe

    recipe = load_recipe(name, set_ or ())
    stages = " > ".join(stage.kind for stage in recipe.stages)
    console.out(f"{name} is right: {recipe.name}, {stages}. Its plan: viscot train --recipe {name} --dry-run")
