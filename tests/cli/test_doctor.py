"""``viscot doctor`` as a person and as a program reads it."""

from __future__ import annotations

import json

from viscot_core import doctor


def test_every_line_has_a_state(cli) -> None:
    ran = cli("doctor", "--no-measure")
    assert ran.code == 0, ran.err
    lines = [line for line in ran.out.splitlines() if line.startswith("  ") and "->" not in line]
    assert len(lines) > 15
    assert all(line.split()[0] in ("ok", "warn", "missing") for line in lines)


def test_json_lines_carry_the_fix(cli) -> None:
    rows = [json.loads(line) for line in cli("doctor", "--json", "--no-measure").out.splitlines()]
    assert {"torch", "transformers", "memory", "viscot-tiny", "7b-336"} <= {row["name"] for row in rows}
    assert all(set(row) == {"group", "name", "state", "text", "fix"} for row in rows)


def test_a_missing_essential_fails(cli, monkeypatch) -> None:
    real = doctor.version_of
    monkeypatch.setattr(doctor, "version_of", lambda name: None if name == "transformers" else real(name))
    ran = cli("doctor", "--no-measure")
    assert ran.code == 1
    assert "pip install transformers" in ran.out
