"""Options that several commands share: a dataclass of options as one parameter, and lists of names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints

Command = Callable[..., None]
Names = list[str] | None
"""An option that takes names: separated by commas, or the option repeated; both add up."""


def grouped(command: Command) -> Command:
    """Convert ``command`` for Typer: a parameter whose type is a dataclass becomes one option per field.

    Fields are annotated like parameters (``Annotated[..., typer.Option(...)]``) and keep the order of the
    command's parameters; a field without a default is a required option.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    parameters: list[Parameter] = []
    for parameter in signature(command).parameters.values():
        if parameter.name in groups:
            parameters += _options(groups[parameter.name])
        else:
            plain = hints[parameter.name]
            parameters.append(parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=plain))

    @wraps(command)
    def run(**given: Any) -> None:
        for name, kind in groups.items():
            given[name] = kind(**{each.name: given.pop(each.name) for each in fields(kind)})
        command(**given)

    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]  # Typer reads it
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def _options(kind: Any) -> list[Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return [
        Parameter(each.name, Parameter.KEYWORD_ONLY, default=_default(each), annotation=hints[each.name])
        for each in fields(kind)
    ]


def _default(each: Field[Any]) -> Any:
    return Parameter.empty if each.default is MISSING else each.default


def names_of(given: Names) -> tuple[str, ...]:
    """The names of an option, in the order given."""
    return tuple(name.strip() for text in given or () for name in text.split(",") if name.strip())
