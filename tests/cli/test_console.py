"""Tables and JSON lines as other programs read them."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import typer

from viscot_cli import console
from viscot_core.errors import DataError


def test_a_table_in_a_pipe_is_neither_cut_nor_wrapped(capfd) -> None:
    long = "x" * 300
    console.table(["name", "value"], [[long, "[1, 2]"], ["b", 3.5]], title="Figures", right=["value"])
    out = capfd.readouterr().out
    assert long in out
    assert "[1, 2]" in out
    assert out.startswith("Figures")


def test_emit_is_one_json_object_on_one_line(capfd) -> None:
    console.emit({"box": np.array([0.25, 0.5]), "n": np.int64(3), "nan": float("nan")})
    out = capfd.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {"box": [0.25, 0.5], "n": 3, "nan": None}


def test_progress_off_a_terminal_stays_quiet_when_short(capfd) -> None:
    with console.progress("Work", total=3) as advance:
        for _ in range(3):
            advance(1)
    assert capfd.readouterr().err == ""


NASTY = "\x1b]52;c;cm0gLXJm\x07\x1b[2J\x9b31m\x7f\r\u202egnp.\u2066 ok\tä中"
SPELLED = r"\x1b]52;c;cm0gLXJm\x07\x1b[2J\x9b31m\x7f\x0d\u202egnp.\u2066 ok" + "\tä中"


def test_control_characters_are_spelled_out_everywhere(capfd: pytest.CaptureFixture[str]) -> None:
    """An answer of a model, an error of a server, the name of a tensor: none can steer the terminal."""
    console.prepare(debug=False)
    console.out(NASTY)
    console.out(console.styled(NASTY, fg="red"), NASTY)
    console.say(NASTY)
    console.table([NASTY], [[NASTY]], title=NASTY)
    logging.getLogger("viscot_core.x").warning("%s", NASTY)
    for fault in (DataError(NASTY), RuntimeError(NASTY), typer.BadParameter(NASTY)):

        def run(fault: Exception = fault) -> int:
            raise fault

        assert console.guarded(run, debug=True) in (1, 2)
    seen = capfd.readouterr()
    for text in (seen.out, seen.err):
        assert not set(text) & set("\x1b\x07\x9b\x7f\r\u202e\u2066")
        assert text.count(SPELLED.split("\t")[0]) >= 3


def test_json_keeps_the_text(capfd: pytest.CaptureFixture[str]) -> None:
    console.emit({"answer": NASTY})
    out = capfd.readouterr().out
    assert json.loads(out) == {"answer": NASTY} and out.isprintable() is False
    assert not set(out) & set("\x1b\x07\x9b\x7f\r\u202e\u2066")


def test_colours_of_our_own_reach_a_terminal() -> None:
    assert console.styled("ok", fg="green") == "\x1b[32mok\x1b[0m"


def test_progress_bars_draw_names_as_they_are() -> None:
    """A pseudo-terminal, since bars are drawn only there: no markup, no control characters of the name."""
    code = (
        "from viscot_cli import console\n"
        f"name = {NASTY!r} + '[red]x[/red]'\n"
        "with console.progress(name, 2) as advance: advance(2)\n"
        "with console.transfers() as update: update(name, 1, 2)"
    )
    argv = [sys.executable, "-c", f"import pty; pty.spawn([{sys.executable!r}, '-c', {code!r}])"]
    env = {**os.environ, "COLUMNS": "200", "TERM": "xterm"}
    ran = subprocess.run(argv, capture_output=True, text=True, env=env, check=True)
    assert ran.stdout.count(r"\x1b]52;c;cm0gLXJm\x07") >= 2 and ran.stdout.count("[red]x") >= 2
    assert not set(ran.stdout) & set("\x07\x9b\u202e")


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert console.styled("wrong", fg="red") == "\x1b[31mwrong\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert console.styled("wrong", fg="red") == "wrong"


@pytest.mark.parametrize("words", ["models list", "data list", "recipes list", "bench list"])
@pytest.mark.parametrize("width", [80, 60])
def test_the_words_to_type_are_whole_in_a_narrow_terminal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: str, width: int
) -> None:
    from viscot_cli.app import main

    def names() -> set[str]:
        assert main(words.split()) == 0
        lines = re.sub(r"\x1b\[[0-9;]*m", "", capfd.readouterr().out).splitlines()
        return {line.split()[0] for line in lines if line and line[0] != " "}

    wide = names()
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    narrow = names()
    assert wide <= narrow and not any("…" in name for name in narrow)


@pytest.mark.parametrize("width", range(36, 100, 4))
def test_a_narrow_terminal_cuts_nothing(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    console.table(("name", *"abcd"), [("a-long-name", *["Community License"] * 4)])
    told = re.sub(r"\x1b\[[0-9;]*m", "", capfd.readouterr().out)
    assert max(map(len, told.splitlines())) <= width
    assert sorted("".join(told.split())) == sorted("nameabcda-long-name" + "CommunityLicense" * 4)


def test_log_lines_follow_stderr_when_it_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run in one process wrote to the stream of the first one, which was closed by then."""
    log, kept = logging.getLogger("viscot_core.train.loop.preflight"), logging.getLogger("viscot_core")
    monkeypatch.setattr(kept, "handlers", [])
    monkeypatch.setattr(kept, "level", kept.level)
    first, second = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", first)
    console.prepare(debug=False)
    log.info("one")
    first_said = first.getvalue()
    first.close()
    monkeypatch.setattr(sys, "stderr", second)
    log.info("two")
    assert (first_said, second.getvalue()) == ("one\n", "two\n")
