"""Where vLLM is; the engine over a stand-in for it (tests/support/stub_vllm), a process as vLLM's own is."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from viscot_core.engines.open import EngineOptions, open_engine
from viscot_core.engines.vllm.engine import VllmEngine
from viscot_core.models.checkpoint import open_checkpoint
from viscot_core.models.zoo import BUNDLED_FOLDER

STUB = Path(__file__).parents[2] / "support" / "stub_vllm"
REPO = Path(__file__).parents[3]


def ids_of(text: str, *, end: bool = True) -> list[int]:
    """What the bundled model says for ``text``."""
    checkpoint = open_checkpoint(BUNDLED_FOLDER)
    processor = checkpoint.family.processor(checkpoint)
    ids: list[int] = processor.tokens.hf(text, add_special_tokens=False)["input_ids"]  # type: ignore[attr-defined]
    return ids + sorted(processor.stop_ids) if end else ids


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """The Python that has vLLM."""
    named = os.environ.get("VISCOT_VLLM") or str(REPO / ".vllm" / "bin" / "python")
    if not Path(named).exists():
        pytest.skip("no vLLM here: make vllm, or VISCOT_VLLM=PYTHON")
    return named


@pytest.fixture
def stub_python(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes this Python one that has the stand-in; ``STUB_VLLM`` tells it what to do."""
    path = [str(STUB), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    monkeypatch.setenv("VISCOT_CACHE", str(tmp_path_factory.getbasetemp() / "vllm-cache"))
    return Path(sys.executable)


@pytest.fixture
def stub(stub_python: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., VllmEngine]]:
    """``stub("what it says", dies_at=2)`` opens the engine of ``--engine vllm`` over the stand-in."""
    opened: list[VllmEngine] = []

    def start(says: str = "99", *, end: bool = True, on: str = "auto", **told: object) -> VllmEngine:
        monkeypatch.setenv("STUB_VLLM", json.dumps({"says": ids_of(says, end=end), **told}))
        engine = open_engine(EngineOptions(engine="vllm", python=str(stub_python), dtype="fp32", device=on))
        assert isinstance(engine, VllmEngine)
        opened.append(engine)
        return engine

    yield start
    for engine in opened:
        engine.close()
