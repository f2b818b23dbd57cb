"""The root of the command line: a table of commands; each is imported only when it is called.

``viscot --help`` reads only the table, so it imports neither torch nor any command. To add a command, write
``viscot_cli/NAME.py`` and one line of ``COMMANDS``; a line without its file is ignored.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from viscot_cli import console
from viscot_cli.help import Commands, dressed
from viscot_cli.renamed import with_new_names

if TYPE_CHECKING:  # typer has its own copy of click; for annotations only
    from typer._click import Command, Context, HelpFormatter


class Entry(NamedTuple):
    """A command: ``module:attribute`` in viscot_cli, its heading and its line in the help."""

    where: str
    heading: str
    help: str


COMMANDS: dict[str, Entry] = {
    "tour": Entry("tour:tour", "Try", "Three images and a small benchmark with the bundled model."),
    "infer": Entry("infer:infer", "Ask", "Ask a question about an image: box, crop and answer."),
    "chat": Entry("chat:chat", "Ask", "Ask several questions about one image."),
    "demo": Entry("demo:demo", "Ask", "Try a model on a web page."),
    "serve": Entry("serve:serve", "Ask", "An OpenAI-compatible server for the two-turn chain."),
    "data": Entry("data:app", "Prepare", "Fetch, organise, check, convert and make data."),
    "traces": Entry("traces:app", "Prepare", "Talks of the zoom loop: show them, convert them for training."),
    "rewards": Entry("rewards:app", "Train", "What an answer earns in training, and why."),
    "mcp": Entry("mcp:mcp", "Ask", "An MCP server with the zoom tool, for agents."),
    "models": Entry("models:app", "Prepare", "List, pull, inspect and export checkpoints."),
    "recipes": Entry("recipes:app", "Train", "List, show, copy and check training recipes."),
    "train": Entry("train:train", "Train", "Train all stages of a recipe, on one machine or many."),
    "pretrain": Entry("train:pretrain", "Train", "Train only stage 1: the projector."),
    "finetune": Entry("train:finetune", "Train", "Train only stage 2: all parts that the recipe names."),
    "prefer": Entry("train:prefer", "Train", "Learn from pairs of looks, a better and a worse one (DPO)."),
    "reinforce": Entry("train:reinforce", "Train", "Learn from rewards for looks and answers (GRPO)."),
    "bench": Entry("bench:app", "Measure", "Run or continue a benchmark in a run folder."),
    "score": Entry("score:score", "Measure", "Let a judge score the answers of a run folder."),
    "stats": Entry("stats:stats", "Measure", "Tables of a run folder: means, intervals, boxes."),
    "compare": Entry("compare:compare", "Measure", "Two runs, question by question, if measured alike."),
    "audit": Entry("audit:audit", "Measure", "Does looking matter? A run again with its crops replaced."),
    "paper": Entry("paper:paper", "Measure", "How each table of the paper is made again."),
    "doctor": Entry("doctor:doctor", "Check", "What this machine has, which models fit, and what to fix."),
}


class LazyGroup(Commands):
    """A command group that lists ``COMMANDS`` and imports a command only when it is called."""

    def list_commands(self, ctx: Context) -> list[str]:
        """The commands whose module exists, in the table's order."""
        return [name for name, entry in COMMANDS.items() if _exists(entry)]

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        """The command called ``cmd_name``, imported now; None if there is none."""
        entry = COMMANDS.get(cmd_name)
        return None if entry is None or not _exists(entry) else _load(cmd_name, entry)

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        """As typer does, with the nearest names where the command is unknown."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            from viscot_core.errors import UsageError, nearest

            hint = nearest(args[0], self.list_commands(ctx)) or " 'viscot --help' lists all commands."
            raise UsageError(f"There is no command '{args[0]}'.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        """The table under its headings, without importing a command."""
        names = self.list_commands(ctx)
        width = max((len(name) for name in names), default=0)
        for heading in dict.fromkeys(COMMANDS[name].heading for name in names):
            under = [name for name in names if COMMANDS[name].heading == heading]
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), COMMANDS[name].help) for name in under])


def _exists(entry: Entry) -> bool:
    return importlib.util.find_spec(f"viscot_cli.{entry.where.partition(':')[0]}") is not None


def _load(name: str, entry: Entry) -> Command:
    module, _, attribute = entry.where.partition(":")
    found: Any = getattr(importlib.import_module(f"viscot_cli.{module}"), attribute)
    if not isinstance(found, typer.Typer):
        single = typer.Typer(rich_markup_mode=None, add_completion=False)
        single.command(name)(found)
        found = single
    command = typer.main.get_command(found)
    command.name = name
    return dressed(command, name)


app = typer.Typer(
    cls=LazyGroup,
    rich_markup_mode=None,  # rich would double the time --help takes
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="--debug, before or after a command, shows the traceback of an error. "
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 partly done.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from viscot_core import __version__

        typer.echo(f"viscot {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Visual chain of thought: the model names the important region, looks at it closely, then answers."""


def _with_home(argv: Sequence[str]) -> list[str]:
    """``~/`` at the start of a word or of ``--option=``: shells leave it where it is quoted or behind "="."""
    words = []
    for word in argv:
        option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        home = os.path.expanduser("~") if value.startswith("~/") else ""  # noqa: PTH111 - of a text
        words.append(f"{option}{equals}{home}{value.removeprefix('~') if home else value}")
    return words


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; every error becomes one sentence on stderr."""
    command = dressed(typer.main.get_command(app), "")
    if "_VISCOT_COMPLETE" in os.environ:  # the shell asks for completions
        command.main(prog_name="viscot")
    args, debug = console.split_debug(_with_home(sys.argv[1:] if argv is None else argv))

    def run() -> int:
        console.prepare(debug)
        # Not app(): click's standalone mode would print errors and exit by itself, past `guarded`.
        with command.make_context("viscot", with_new_names(args) or ["--help"]) as context:
            command.invoke(context)
        return 0

    code = console.guarded(run, debug=debug)
    if argv is None and code == console.INTERRUPTED:
        console.leave(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
