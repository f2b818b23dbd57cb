"""The root command: it lists without importing, suggests, and maps every error to one sentence and a code."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest
import typer

from viscot_cli import app as root
from viscot_cli import console
from viscot_core.errors import DataError, PartlyDone, RecipeError, UsageError

HEAVY = ("torch", "transformers", "numpy", "pydantic", "rich", "PIL", "huggingface_hub", "tokenizers")
COMMANDS = [name for name, entry in root.COMMANDS.items() if root._exists(entry)]


def _modules_after(argv: list[str]) -> tuple[set[str], float]:
    """The top-level modules that one command line imports, and its CPU seconds, in a process of its own."""
    script = (
        "import sys, time\n"
        "from viscot_cli.app import main\n"
        f"code = main({argv!r})\n"
        "print('MODULES', time.process_time(), *sorted({name.partition('.')[0] for name in sys.modules}))\n"
        "sys.exit(code)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    words = ran.stdout.splitlines()[-1].split()
    return set(words[2:]), float(words[1])


def test_help_imports_nothing_heavy_and_stays_within_its_budget() -> None:
    modules, seconds = min((_modules_after(["--help"]) for _ in range(3)), key=lambda pair: pair[1])
    assert not modules & set(HEAVY)
    assert seconds < 0.250


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_imports_no_model_library(name: str) -> None:
    modules, _ = _modules_after([name, "--help"])
    assert not modules & {"torch", "transformers", "huggingface_hub", "tokenizers"}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_is_its_own(cli, name: str) -> None:
    ran = cli(name, "--help")
    assert ran.code == 0
    assert ran.out.startswith(f"Usage: viscot {name}")
    assert "--install-completion" not in ran.out


def test_help_lists_every_command_that_exists(cli) -> None:
    ran = cli("--help")
    assert ran.code == 0
    assert all(f"\n  {name} " in ran.out for name in COMMANDS)
    assert cli().out == ran.out


def test_version(cli) -> None:
    from viscot_core import __version__

    assert cli("--version").out == f"viscot {__version__}\n"


def test_unknown_command_suggests_the_nearest(cli) -> None:
    ran = cli("doctr")
    assert ran.code == 2
    assert ran.err == "Error: There is no command 'doctr'. Did you mean 'doctor'?\n"


def test_unknown_option_suggests_the_nearest(cli) -> None:
    ran = cli("--versoin")
    assert ran.code == 2
    assert "--version" in ran.err


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, cli):
    """``failing(error)`` runs a command that raises ``error``."""

    def run(error: BaseException, *options: str):
        def command() -> None:
            raise error

        monkeypatch.setitem(root.COMMANDS, "fails", root.Entry("app:command", "Try", "Fails."))
        monkeypatch.setattr(root, "command", command, raising=False)
        return cli("fails", *options)

    return run


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (DataError("The image a.png is missing; run 'viscot data check'."), 1, "viscot data check"),
        (UsageError("The question is empty; ask something."), 2, "ask something"),
        (RecipeError("2 problems:", ["a.b = 1: too small", "c = x: unknown key"]), 2, "c = x: unknown key"),
        (PartlyDone("3 of 10 are pending; run it again."), 3, "3 of 10"),
        (OSError(errno.ENOSPC, "No space left", "out.json"), 1, "The disk is full while writing out.json"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 1, "The disk is full"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x.png"), 1, "x.png: No such file"),
        (ModuleNotFoundError("No module", name="deepspeed.ops"), 1, "pip install 'viscot[train]'"),
        (MemoryError(), 1, "--batch-size"),
        (KeyboardInterrupt(), 130, "finished work is kept"),
        (ValueError("surprise"), 1, "ValueError: surprise"),
        (typer.Exit(3), 3, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_errors_become_one_sentence_and_a_code(failing, error: BaseException, code: int, says: str) -> None:
    ran = failing(error)
    assert ran.code == code
    assert says in ran.err
    assert "Traceback" not in ran.err
    assert ran.out == ""


def test_debug_shows_the_traceback(failing) -> None:
    ran = failing(DataError("broken"), "--debug")
    assert ran.code == 1
    assert "Traceback" in ran.err
    assert ran.err.endswith("Error: broken\n")


def test_split_debug_leaves_what_follows_the_double_dash() -> None:
    assert console.split_debug(["train", "--debug", "--", "--debug"]) == (["train", "--", "--debug"], True)
    assert console.split_debug(["train", "--", "--debug"]) == (["train", "--", "--debug"], False)


def test_a_closed_pipe_is_no_error() -> None:
    line = f"{sys.executable} -m viscot_cli.app --help | true"
    ran = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert ran.stderr == ""


def test_the_table_is_well_formed() -> None:
    for name, entry in root.COMMANDS.items():
        module, _, attribute = entry.where.partition(":")
        assert module.isidentifier(), name
        assert attribute.isidentifier(), name
        assert entry.help.endswith("."), name


def test_the_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    words = [
        "infer",
        "~/a.png",
        "Is ~/b a path?",
        "--save",
        "~/x.png",
        "--out=~/y=1/a",
        "~nobody/c",
        "--",
        "~",
    ]
    assert root._with_home(words) == [
        *("infer", "/home/me/a.png", "Is ~/b a path?", "--save", "/home/me/x.png"),
        *("--out=/home/me/y=1/a", "~nobody/c", "--", "~"),
    ]
