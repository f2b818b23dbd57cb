"""The errors a user can see. Each message is one sentence that says what is wrong and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class ViscotError(Exception):
    """The command failed for a reason that the user can fix (exit code 1)."""

    exit_code = 1


class UsageError(ViscotError):
    """The command line is wrong or asks for something impossible (exit code 2)."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe is wrong; ``problems`` lists every fault: dotted path, value and fix."""

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__("\n  ".join([message, *problems]))
        self.problems = tuple(problems)


class DataError(ViscotError):
    """An annotation file or a data root is missing or wrong."""


class ImageError(DataError):
    """An image is missing, damaged, too large or not an image."""


class CheckpointError(ViscotError):
    """A checkpoint is missing, damaged or of a kind that viscot cannot read."""


class EngineError(ViscotError):
    """A model could not generate: out of memory, a server that refuses, a missing extra."""


class OutOfMemory(EngineError):
    """What was asked together does not fit into memory; less of it may."""


class BudgetSpent(EngineError):
    """The user's limit of requests or money is reached; the rest is pending."""


class PartlyDone(ViscotError):
    """Something is pending or failed; the report says what (exit code 3)."""

    exit_code = 3


def nearest(name: str, choices: Iterable[str], *, limit: int = 3) -> str:
    """`` Did you mean 'x' or 'y'?`` for the choices similar to ``name``, or an empty string."""
    by_lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(name.lower(), by_lower, n=limit, cutoff=0.5)
    if not close:
        return ""
    return " Did you mean " + " or ".join(f"'{by_lower[c]}'" for c in close) + "?"


def check_choice(what: str, value: str, choices: Iterable[str]) -> str:
    """``value``, which must be one of ``choices``; ``what`` is the option's name.

    Raises:
        UsageError: it is none of them; the nearest ones are suggested.
    """
    known = list(choices)
    if value not in known:
        raise UsageError(f"{what} is one of {', '.join(known)}, not '{value}'.{nearest(value, known)}")
    return value
