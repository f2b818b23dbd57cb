"""A real third party: ``transformers serve`` on loopback says what the local engine says."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from viscot_core.engines.open import EngineOptions
from viscot_core.families.llava.layouts import Layout
from viscot_core.models.checkpoint import open_checkpoint
from viscot_core.models.export import export
from viscot_core.openai_api.options import ApiOptions
from viscot_core.runs.evaluate import evaluate
from viscot_core.runs.records import read_predictions
from viscot_core.tasks.visual_cot.task import VisualCot

pytestmark = pytest.mark.slow
pytest.importorskip("fastapi")


@pytest.fixture(scope="module")
def exported(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden checkpoint as other programs take it."""
    out = tmp_path_factory.mktemp("exported") / "tiny"
    return export(open_checkpoint(shared / "golden" / "tiny_llava"), out, Layout.HF)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running ``transformers serve``."""
    program = Path(sys.executable).parent / "transformers"
    if not program.exists():
        pytest.skip("transformers has no command line here")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("serve") / "log").open("w")
    command = [
        program,
        "serve",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--device",
        "cpu",
        "--dtype",
        "float32",
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(180):
            if process.poll() is not None:
                pytest.skip(f"transformers serve does not start: {Path(log.name).read_text()[-300:]}")
            try:
                httpx.get(f"http://127.0.0.1:{port}/v1/models", timeout=2)
                break
            except httpx.HTTPError:
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)


def test_its_answers_are_the_local_engines(
    served: str, exported: Path, golden_root: Path, shared: Path, tmp_path: Path
) -> None:
    """Boxes, crops and answers of the golden run, over images of every mode and shape."""
    local = EngineOptions(str(shared / "golden" / "tiny_llava"), device="cpu", dtype="fp32")
    api = ApiOptions(concurrency=2, timeout=300, cache=tmp_path / "cache")
    remote = EngineOptions(f"{served}#{exported}", box_format="viscot", api=api)
    task, tables = VisualCot(golden_root, ("cot", "direct", "gt-box")), []
    for name, engine in (("local", local), ("remote", remote)):
        info, _ = evaluate(task, engine, tmp_path / name)
        assert info.counts["done"] == 36
        tables.append({p.key: (p.box_text, p.crop, p.answer) for p in read_predictions(tmp_path / name)})
    assert tables[0] == tables[1]
    again, tally = evaluate(task, remote, tmp_path / "kept")
    assert again.counts["done"] == 36 and tally.finished == 36
    shutil.rmtree(tmp_path / "cache")
