"""The speed that scoring and statistics promise, measured as ``judge.py`` and ``stats.py`` measure it.

The better of two measurements counts: other work on the machine only ever slows them down.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def script(name: str) -> ModuleType:
    """A file of this folder as a module; ``stats`` and ``judge`` are too common to import by name."""
    spec = importlib.util.spec_from_file_location(f"speed_of_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("distinct", [False, True])
def test_ten_thousand_items_and_resamples_within_three_seconds(distinct: bool) -> None:
    figures = [script("stats").measure(distinct) for _ in range(2)]
    assert min(f["cpu_s"] for f in figures) <= 3, figures


@pytest.mark.slow
def test_many_calls_at_once_are_twenty_times_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))  # the server's process finds the script by name
    import judge

    figures = [judge.measure(calls=600, concurrency=32) for _ in range(2)]
    assert min(f["cpu_ms_per_call"] for f in figures) <= 3, figures
    assert max(f["ratio"] for f in figures) >= 20, figures
