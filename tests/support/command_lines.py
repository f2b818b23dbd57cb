"""Command lines in texts (README, help, messages): found, and read by the command line's own parser."""

from __future__ import annotations

import re
import shlex
from typing import Any

import typer

from viscot_cli.app import app


def commands(text: str) -> list[list[str]]:
    """The words of each command line: comments, redirections and what follows a pipe taken away."""
    lines = text.replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        for part in re.split(r"\s[;|]\s|&&", line):
            # A comment begins a word, as in bash: http://HOST/v1#NAME is one word.
            bare = re.sub(r"(?:^|(?<=\s))#.*", "", re.sub(r"\s>{1,2}\s*\S+", "", part))
            words = shlex.split(bare)
            if words:
                found.append(words)
    return found


def parse_viscot(words: list[str]) -> None:
    """Let the command line's own parser read ``viscot ...`` without running it; wrong usage raises."""
    command: Any = typer.main.get_command(app)
    name, rest = "viscot", words[1:]
    while hasattr(command, "list_commands"):
        context = command.context_class(command, info_name=name)
        name, rest = rest[0], rest[1:]
        assert name in command.list_commands(context), f"there is no command {name}: {shlex.join(words)}"
        command = command.get_command(context, name)
    command.make_context(name, rest)
