"""All terminal output of viscot: results, messages, tables, progress, and errors with their exit codes.

Results go to stdout and messages to stderr, so ``viscot ... --json > answers.jsonl`` contains only answers.
rich is imported inside the functions that need it, never at the top. All text passes
``terminal.visible``: what models, servers and files say cannot steer the terminal.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any, Literal

import typer

from viscot_core.errors import ViscotError
from viscot_core.resources import EXTRAS, install_line
from viscot_core.terminal import StderrHandler, VisibleFormatter, json_safe, visible
from viscot_core.torch_builds import misfit_behind

INTERRUPTED = 130
_WORD = 12
"""A longer word may be divided in a narrow table; in a very narrow one shorter words too."""
_GAP = 2
"""Columns of space between two columns of a table."""
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


# -- results and messages ------------------------------------------------------------------------------


class Styled(str):
    """Text with colour codes of our own around it."""


def styled(text: str, *, fg: str, bold: bool = False) -> Styled:
    """A part of a line in colour, for ``out``; plain where ``NO_COLOR`` is set (no-color.org)."""
    if os.environ.get("NO_COLOR"):
        return Styled(visible(text))
    return Styled(typer.style(visible(text), fg=fg, bold=bold or None))


def out(*parts: str) -> None:
    """Print a result to stdout; ``parts`` make one text."""
    typer.echo("".join(part if isinstance(part, Styled) else visible(part) for part in parts))


def say(text: str) -> None:
    """Print a message (what is happening, where a file was written) to stderr."""
    typer.echo(visible(text), err=True)


def emit(value: Any) -> None:
    """Print one JSON object on one line of stdout; takes dataclasses and numpy values, NaN becomes null."""
    import orjson

    flags = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    try:
        line = orjson.dumps(value, option=flags, default=str)
    except TypeError:  # a file name that is not UTF-8
        line = orjson.dumps(_spelled(value), option=flags, default=str)
    typer.echo(json_safe(line.decode()))


def _spelled(value: Any) -> Any:
    """``value`` with "?" for characters that UTF-8 cannot encode."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_spelled(key): _spelled(each) for key, each in value.items()}
    return [_spelled(each) for each in value] if isinstance(value, list | tuple) else value


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str | None = None,
    right: Iterable[str] = (),
) -> None:
    """Print a table; the columns named in ``right`` are aligned right. Markup in cells is not interpreted.

    A terminal limits the width: texts are wrapped, never cut. In a file or a pipe nothing is wrapped.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    aligned_right = set(right)
    cells = [[cell if isinstance(cell, Text) else Text(visible(str(cell))) for cell in row] for row in rows]
    # Without a terminal rich would wrap at 80 columns.
    screen = Console(width=None if sys.stdout.isatty() else 10_000)
    texts = [[Text(visible(name)), *(row[n] for row in cells)] for n, name in enumerate(columns)]
    widths = _widths([[text.plain for text in column] for column in texts], screen.width)
    for number, column in enumerate(columns):
        justify: Literal["left", "right"] = "right" if column in aligned_right else "left"
        drawn.add_column(texts[number][0], justify=justify, overflow="fold", width=widths[number])
    for row in cells:
        drawn.add_row(*row)
    with screen.capture() as captured:
        screen.print(drawn)
    lines = [visible(title)] if title else []
    typer.echo("\n".join([*lines, *(line.rstrip() for line in captured.get().splitlines())]))


def _widths(columns: Sequence[Sequence[str]], room: int) -> list[int]:
    """The widths of a table's columns within ``room``: where that is too narrow, the widest give first.

    The first column has the names, the words to type: never wrapped or cut. In the others a word is divided
    only where it is long, as a path is, or where nothing else is left (rich would cut it).
    """
    from rich.cells import cell_len

    room -= _GAP * len(columns)
    widths = [max(map(cell_len, texts)) for texts in columns]
    words = [[word for text in texts for word in text.split()] for texts in columns[1:]]
    longest = [max(map(cell_len, each), default=1) for each in words]
    for word in range(_WORD, 0, -1):
        least = [widths[0], *(min(word, each) for each in longest)]
        while sum(widths) > room:
            wide = [n for n, width in enumerate(widths) if width > least[n]]
            if not wide:
                break
            widths[max(wide, key=lambda n: widths[n])] -= 1
    return widths


# -- progress --------------------------------------------------------------------------------------


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show progress on stderr; yields ``advance(n)``. A bar in a terminal, else a line every 30 seconds."""
    bar = _bar(what, total) if sys.stderr.isatty() else _lines(what, total)
    with bar as advance:
        yield advance


@contextmanager
def _bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeElapsedColumn as Elapsed
    from rich.progress import TimeRemainingColumn as Remaining

    name = TextColumn("{task.description}", markup=False)
    columns = (name, BarColumn(), MofNCompleteColumn(), Elapsed(), Remaining())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(visible(what), total=total)
        yield lambda n: bars.advance(task, n)


@contextmanager
def transfers() -> Iterator[Callable[[str, int, int | None], None]]:
    """Show downloads on stderr; yields ``update(label, bytes done, total bytes)``, which threads may call."""

    said: dict[str, float] = {}
    lock = Lock()
    if not sys.stderr.isatty():

        def tell(label: str, done: int, of: int | None) -> None:
            with lock:
                if done == of or time.monotonic() - said.get(label, -30.0) >= 30.0:
                    said[label] = time.monotonic()
                    say(f"{label}: {done / 1e6:,.1f} MB" + (f" of {of / 1e6:,.1f}" if of else ""))

        yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        Remaining(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True)) as bars:

        def update(label: str, done: int, of: int | None) -> None:
            with lock:
                if label not in tasks:
                    tasks[label] = bars.add_task(visible(label), total=of)
            bars.update(tasks[label], completed=done, total=of)

        yield update


@contextmanager
def _lines(what: str, total: int | None, every: float = 30.0) -> Iterator[Callable[[int], None]]:
    done, said = 0, time.monotonic()

    def advance(n: int) -> None:
        nonlocal done, said
        done += n
        if time.monotonic() - said >= every:
            said = time.monotonic()
            say(f"{what}: {done}" + (f" of {total}" if total else ""))

    yield advance


# -- errors and exit codes -------------------------------------------------------------------------


def split_debug(argv: Sequence[str]) -> tuple[list[str], bool]:
    """Remove ``--debug`` from the words before ``--``; the second value: was it (or VISCOT_DEBUG) set."""
    end = argv.index("--") if "--" in argv else len(argv)
    kept = [word for word in argv[:end] if word != "--debug"]
    debug = len(kept) < end or os.environ.get("VISCOT_DEBUG", "") not in ("", "0")
    return [*kept, *argv[end:]], debug


def prepare(debug: bool) -> None:
    """Silence the libraries unless debugging; viscot's logger writes plain lines to stderr."""
    import logging

    # Spinning OpenMP threads make a small model twenty times slower on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not debug:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        for library in ("PIL", "bitsandbytes"):  # their errors reach us as exceptions
            logging.getLogger(library).setLevel(logging.CRITICAL)
    handler = StderrHandler()
    handler.setFormatter(VisibleFormatter("%(name)s: %(message)s" if debug else "%(message)s"))
    logger = logging.getLogger("viscot_core")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG if debug else logging.INFO)


def guarded(run: Callable[[], int], *, debug: bool = False) -> int:
    """Call ``run`` and return the exit code; every exception becomes one sentence on stderr."""
    try:
        return run()
    except typer.Exit as stop:
        return stop.exit_code
    except typer.TyperException as wrong:
        say(_usage(wrong))
        return wrong.exit_code
    except BrokenPipeError:
        # `viscot ... | head`: the reader is gone; avoid the interpreter's complaint at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - recorded: shown as a sentence, whole with --debug
        if debug:
            import traceback

            say(traceback.format_exc())
        message, code = explain(error)
        typer.echo(styled(f"Error: {message}" if code != INTERRUPTED else message, fg="red"), err=True)
        return code


def _usage(wrong: typer.TyperException) -> str:
    """Typer's own message: usage, the error, the nearest option."""
    shown = io.StringIO()
    if show := getattr(wrong, "show", None):
        show(file=shown)
    return shown.getvalue().rstrip("\n") or f"Error: {wrong}"


def leave(code: int) -> None:
    """Exit at once if threads still wait for a server; a normal exit would wait for them, for minutes."""
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def explain(error: BaseException) -> tuple[str, int]:
    """The sentence to show for ``error``, and the exit code."""
    if isinstance(error, ViscotError):
        return str(error), error.exit_code
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return "Stopped; finished work is kept.", INTERRUPTED
    return _sentence(error), 1


def _sentence(error: BaseException) -> str:
    if _says_no_space(error):
        where = f" while writing {error.filename}" if isinstance(error, OSError) and error.filename else ""
        return f"The disk is full{where}; free some space, then run the same command again."
    if isinstance(error, ModuleNotFoundError):
        name = (error.name or "").partition(".")[0]
        if name in EXTRAS:
            return f"{name} is not installed; get it with: {install_line([name])}"
    if misfit := misfit_behind(error):
        return misfit
    if isinstance(error, OSError) and error.strerror:
        about = f"{error.filename}: " if error.filename else ""
        if error.errno == errno.EFBIG:
            return f"{about}this disk or this shell (ulimit -f) allows no file so large; use another."
        return f"{about}{error.strerror}."
    if isinstance(error, MemoryError):
        return "This machine ran out of memory; try a smaller --batch-size, --dtype bf16 or --load-in 8bit."
    kind = type(error).__name__
    if kind == "OutOfMemoryError":  # torch's; compared by name so that torch is not imported
        return "The GPU ran out of memory; try a smaller --batch-size, --load-in 8bit or 4bit, --device cpu."
    return f"Unexpected error ({kind}: {error}); run the command again with --debug and report it."


def _says_no_space(error: BaseException | None) -> bool:
    """Whether ``error`` or its cause is a full disk; libraries in other languages report it only as text."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            return True
        if "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
