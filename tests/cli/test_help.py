"""Help, renamed options and completion: every command, from the table of commands."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from command_lines import parse_viscot

from viscot_cli.app import app
from viscot_cli.complete import OFFERS
from viscot_cli.help import EXAMPLES, dressed
from viscot_cli.renamed import RENAMED, with_new_names

Cli = Callable[..., Any]


def walk() -> Iterator[tuple[str, Any]]:
    """Every command with the words that call it; the root is empty."""
    root: Any = dressed(typer.main.get_command(app), "")
    context = root.context_class(root, info_name="viscot")
    yield "", root
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        yield name, command
        yield from ((f"{name} {inner}", one) for inner, one in getattr(command, "commands", {}).items())


COMMANDS = dict(walk())


def test_every_command_has_examples_of_itself() -> None:
    assert set(EXAMPLES) == set(COMMANDS)
    for words, lines in EXAMPLES.items():
        assert len(lines) == 2 and lines[0].startswith(f"viscot {words}".strip()), words
        assert all(len(line) <= 74 for line in lines), words


@pytest.mark.parametrize("line", sorted({line for lines in EXAMPLES.values() for line in lines}))
def test_an_example_parses(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parse_viscot(shlex.split(line))


@pytest.mark.parametrize("words", COMMANDS)
def test_a_help_fits_and_cuts_nothing(cli: Cli, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ran = cli(*words.split(), "--help")
    lines = ran.out.splitlines()
    assert ran.code == 0 and max(map(len, lines)) <= 80
    assert not [line for line in lines if line.endswith(("...", "…")) and not line.startswith("Usage")]
    # A line ends with a hyphen only where a word was divided.
    assert not [line for line in lines if line.endswith("-")]
    first, second = EXAMPLES[words]
    assert f"Examples:\n    {first}\n    {second}" in ran.out


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("data list --to X", "data list --data X"),
        ("data fetch --to=X --at-once 2 --for all", "data fetch --data=X --concurrency 2 --for all"),
        ("data check --report r.jsonl", "data check --out r.jsonl"),
        ("data show X 3 --out a.png", "data show X 3 --save a.png"),
        ("bench show RUN --id cub:17 --strategy cot", "bench show RUN --strategy cot cub:17"),
        ("bench show --id=cub:17 RUN", "bench show RUN cub:17"),
        ("bench export RUN --to upstream", "bench export RUN --to upstream"),
        ("stats RUN --html a.html", "stats RUN --out a.html"),
        ("tour --out X -- --out", "tour --save X -- --out"),
        ("infer --out X", "infer --out X"),
    ],
)
def test_old_names_still_work(old: str, new: str) -> None:
    assert with_new_names(old.split()) == new.split()


def test_renamed_options_exist_and_their_old_names_do_not() -> None:
    for words, names in RENAMED.items():
        options = {name for one in COMMANDS[words].params for name in one.opts}
        assert set(filter(None, names.values())) <= options and not options & set(names)


def test_what_is_offered_belongs_to_a_parameter() -> None:
    parameters = {(words, one.name) for words, command in COMMANDS.items() for one in command.params}
    everywhere = {name for _, name in parameters}
    assert all((words, name) in parameters or (not words and name in everywhere) for words, name in OFFERS)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("viscot train --recipe 7", "7b-336"),
        ("viscot models pull Vis", "VisCoT-7b-336"),
        ("viscot bench cot --strategy cot,gt", "cot,gt-box"),
        ("viscot data fetch --for goa,gq", "goa,gqa"),
        ("viscot bench cot --tasks doc", "docvqa"),
        ("viscot re", "recipes"),
    ],
)
def test_the_shell_is_offered_names(line: str, offered: str) -> None:
    env = {
        **os.environ,
        "_VISCOT_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1),
    }
    ran = subprocess.run(
        [sys.executable, "-m", "viscot_cli"], env=env, capture_output=True, text=True, check=False
    )
    assert offered in ran.stdout.split(), ran.stderr
