"""The benchmarks of small details as tasks of lmms-eval: same questions as ``bench run``, same scores."""

from __future__ import annotations

from pathlib import Path

import pytest

from viscot_core.data.benchmarks.synth import write_benchmark
from viscot_core.errors import UsageError
from viscot_core.lmms_eval import TASKS
from viscot_core.score.lmms import search_results
from viscot_core.tasks.benchmarks.known_benchmarks import BENCHMARKS
from viscot_core.tasks.benchmarks.task import Benchmarks


def test_every_benchmark_has_its_task() -> None:
    from viscot_core.lmms_eval import search

    for name in BENCHMARKS:
        plain = name.replace("-", "_")
        text = (TASKS / f"viscot_{plain}.yaml").read_text()
        assert f"task: viscot_{plain}\n" in text and f"search.{plain}\n" in text
        assert getattr(search, plain).args == (name,)


def test_rows_are_those_of_bench_run_and_are_scored_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets")
    from viscot_core.lmms_eval import search

    with pytest.raises(UsageError, match="VISCOT_DATA"):
        search.vstar(None)
    write_benchmark(tmp_path, "vstar", count=4)
    monkeypatch.setenv("VISCOT_DATA", str(tmp_path))
    rows = search.vstar(None)
    items = Benchmarks(tmp_path, ("vstar",)).load().items
    assert [row["question"] for row in rows] == [item.question for item in items]
    doc = rows[0]
    right = doc["reference"][0]
    said = search_results(doc, [f"Based on the image, the answer is {right}"])["accuracy"]
    assert said["score"] == 1.0 and said["dataset"] == "vstar"
    assert search_results(doc, ["I cannot say"])["accuracy"]["score"] == 0.0
