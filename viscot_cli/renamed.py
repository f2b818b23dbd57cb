"""Options that had another name: the old names still work, and only the help no longer shows them.

One word for one thing: ``--data`` is the data root, ``--out`` what a command makes, ``--save`` a drawing,
``--concurrency`` calls and downloads at the same time, ``--workers`` processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

ARGUMENT = ""
"""In the place of a new name: the option's value is now an argument."""

RENAMED: dict[str, dict[str, str]] = {
    "tour": {"--out": "--save"},
    "data list": {"--to": "--data"},
    "data fetch": {"--to": "--data", "--at-once": "--concurrency"},
    "data organize": {"--to": "--data"},
    "data check": {"--to": "--data", "--report": "--out"},
    "data show": {"--out": "--save"},
    "bench show": {"--id": ARGUMENT},
    "stats": {"--html": "--out"},
}
"""By the words of the command: old name -> new name."""


def with_new_names(args: Sequence[str]) -> list[str]:
    """The command line with the new names; values and what follows ``--`` stay."""
    names = RENAMED.get(" ".join(args[:2])) or RENAMED.get(" ".join(args[:1])) or {}
    end = args.index("--") if "--" in args else len(args)
    kept: list[str] = []
    values: list[str] = []
    words = iter(args[:end])
    for word in words:
        name, equals, value = word.partition("=")
        new = names.get(name)
        if new is None:
            kept.append(word)
        elif new != ARGUMENT:
            kept.append(new + equals + value)
        else:
            values += [value] if equals else [*islice(words, 1)]
    return [*kept, *values, *args[end:]]
