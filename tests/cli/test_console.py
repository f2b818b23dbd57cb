"""Tables and JSON lines as other programs read them."""

from __future__ import annotations

import json

import numpy as np

from viscot_cli import console


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
