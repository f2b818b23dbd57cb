"""vLLM itself (`make vllm`, or ``VISCOT_VLLM=PYTHON``) says what the local engine says; served too."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from viscot_core.ask import VisualCoT
from viscot_core.conversation import Message
from viscot_core.data.search.rows import write_search
from viscot_core.data.synth import write_dataset
from viscot_core.engines.base import Engine, Request, Sampling
from viscot_core.engines.open import EngineOptions, codec_for, open_engine
from viscot_core.engines.vllm.engine import VllmEngine
from viscot_core.errors import EngineError
from viscot_core.families.checkpoint import Layout
from viscot_core.images.view import view_of
from viscot_core.models.checkpoint import open_checkpoint
from viscot_core.models.export import export
from viscot_core.models.known import BUNDLED_ZOOM
from viscot_core.models.zoo import BUNDLED_FOLDER
from viscot_core.policies.wording import Wording
from viscot_core.policies.zoom_settings import ZoomSettings
from viscot_core.runs.evaluate import evaluate
from viscot_core.runs.records import Prediction, read_predictions
from viscot_core.tasks.base import Task
from viscot_core.tasks.loading import Selection
from viscot_core.tasks.refcoco import RefCoco
from viscot_core.tasks.visual_cot.task import VisualCot

pytestmark = pytest.mark.slow

SMALL = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
COT, EXPRESSIONS, LOOKED_AT = 60, 200, 24


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vllm") / "data"
    write_dataset(root, train=0, val=COT, seed=5)
    return root


@pytest.fixture(scope="module")
def options(vllm_python: str) -> EngineOptions:
    return EngineOptions(engine="vllm", python=vllm_python, device="cpu", dtype="fp32", batch_size=16)


@pytest.fixture(scope="module")
def vllm(options: EngineOptions) -> Iterator[VllmEngine]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setenv(name, value)
        engine = open_engine(options, codec=codec_for(options))
    assert isinstance(engine, VllmEngine)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def local() -> Engine:
    return open_engine(EngineOptions(device="cpu", dtype="fp32", batch_size=16))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model as people export it for a server."""
    return export(open_checkpoint(BUNDLED_FOLDER), tmp_path_factory.mktemp("export") / "tiny", Layout.HF)


def _serve(python: str, folder: Path, log: Path, *more: str) -> tuple[subprocess.Popen[bytes], str]:
    """vLLM's own server of a folder on loopback, and its address; it answers when this returns."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # (`vllm serve` looks for a package called vllm, and the one for the CPU has another name.)
    argv = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", folder, "--dtype", "float32"]
    argv += ["--served-model-name", "viscot-tiny", "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--block-size", "32", "--enforce-eager", "--mm-processor-kwargs", json.dumps({"backend": "pil"})]
    env = {**os.environ, **SMALL, "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as file:
        child = subprocess.Popen([*map(str, argv), *more], env=env, stdout=file, stderr=file)
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                return child, f"{url}/v1#viscot-tiny"
        except httpx.HTTPError:
            pass
        if child.poll() is not None:
            break
        time.sleep(0.5)
    child.kill()
    raise AssertionError(log.read_text(errors="replace")[-3000:])


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(30)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


@pytest.fixture(scope="module")
def served(vllm_python: str, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    child, url = _serve(vllm_python, folder, tmp_path_factory.mktemp("served") / "log")
    yield url
    _stop(child)


def _bench(engine: Engine, options: EngineOptions, data: Path, out: Path) -> list[dict[str, object]]:
    """What ``bench cot`` and ``bench refcoco`` record of an engine that is open already."""
    tasks: list[Task] = [
        VisualCot(data, ("cot",), select=Selection(COT)),
        RefCoco(data, (), Selection(EXPRESSIONS), 128),
    ]
    found: list[Prediction] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("viscot_core.runs.evaluate.open_engine", lambda *_, **__: engine)
        for number, task in enumerate(tasks):
            evaluate(task, options, out / str(number))
            found += read_predictions(out / str(number))
    told = [
        one.model_dump(include={"strategy", "question_id", "answer", "box_text", "error"}) for one in found
    ]
    return sorted(told, key=str)


def test_local_in_process_and_served_say_the_same(
    local: Engine, vllm: VllmEngine, served: str, options: EngineOptions, data: Path, tmp_path: Path
) -> None:
    ours = _bench(local, EngineOptions(device="cpu", dtype="fp32"), data, tmp_path / "local")
    assert len(ours) == COT + EXPRESSIONS
    assert not any(one["error"] for one in ours)
    assert _bench(vllm, options, data, tmp_path / "vllm") == ours
    # The chat template, the tokenizer and the images go over HTTP: all three must be the checkpoint's.
    there = EngineOptions(served, box_format="viscot")
    assert _bench(open_engine(there, codec=codec_for(there)), there, data, tmp_path / "served") == ours


def test_talks_of_the_zoom_loop_are_the_local_engines(options: EngineOptions, tmp_path: Path) -> None:
    """Two and three looks, 64 talks at a time; every word of every talk."""
    write_search(tmp_path / "data", train=0, val=LOOKED_AT, seed=1)
    task = VisualCot(tmp_path / "data", ("zoom",), tasks=("search",), zoom=ZoomSettings(looks=3))
    said = []
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setenv(name, value)
        for engine in (replace(options, model=BUNDLED_ZOOM), EngineOptions(BUNDLED_ZOOM, device="cpu")):
            out = tmp_path / engine.engine
            evaluate(task, engine, out)
            said.append({one.question_id: (one.trace or {})["messages"] for one in read_predictions(out)})
    assert said[0] == said[1] and len(said[0]) == LOOKED_AT
    assert {len(messages) for messages in said[0].values()} == {6, 8}


def test_sampling_and_probabilities(local: Engine, vllm: VllmEngine, data: Path) -> None:
    view = view_of(Image.open(next(data.rglob("*.jpg"))).convert("RGB"))
    message = (Message("user", "<image>\nWhat number is on the red card?"),)
    greedy = Request(message, (view,), 24, logprobs=True, top_logprobs=3)
    (theirs,), (ours,) = vllm.generate([greedy]), local.generate([greedy])
    assert theirs.ids == ours.ids
    assert theirs.logprobs == pytest.approx(ours.logprobs, abs=1e-3)
    assert [word for word, _ in theirs.top_logprobs] == [word for word, _ in ours.top_logprobs]
    hot = Request(message, (view,), 24, sampling=Sampling(1.5, 1.0, 7))
    drawn = [one.text for one in vllm.generate([hot] * 4)]
    assert len(set(drawn)) > 1
    assert [one.text for one in vllm.generate([hot] * 4)] == drawn


def test_viscot_serve_in_front_of_vllm(local: Engine, vllm: VllmEngine, data: Path) -> None:
    from serve_help import as_data_url, question, running

    rows = json.loads((data / "benchmark" / "synth.json").read_text())[:6]
    images = [data / _first(row["image"]) for row in rows]
    words = [row["conversations"][0]["value"].split("\n")[1].partition(" Please")[0] for row in rows]
    codec = codec_for(EngineOptions())
    asked = VisualCoT(local, wording=Wording(codec))
    ours = [asked.ask(image, word) for image, word in zip(images, words, strict=True)]
    with running(vllm, wording=Wording(codec)) as here:  # type: ignore[arg-type]

        def ask(number: int) -> tuple[str, Any, int]:
            body = question(words[number], as_data_url(images[number].read_bytes(), "JPEG")) | {
                "stream": True
            }
            return _streamed(f"{here.url}/v1/chat/completions", body)

        with ThreadPoolExecutor(6) as threads:
            said = list(threads.map(ask, range(6)))
    for answer, (text, extra, chunks) in zip(ours, said, strict=True):
        assert text == answer.text and chunks >= 1
        assert extra["box_status"] == answer.status
        assert answer.look is not None


def _first(image: str | Sequence[str]) -> str:
    return (image if isinstance(image, str) else image[0]).partition("###")[0]


def _streamed(url: str, body: dict[str, Any]) -> tuple[str, Any, int]:
    """The text of a stream, its extra field, and how many chunks it came in."""
    words, extra = [], None
    with httpx.stream("POST", url, json=body, timeout=120, trust_env=False) as got:
        for line in got.iter_lines():
            if line.startswith("data: {"):
                event = json.loads(line.removeprefix("data: "))
                extra = event.get("viscot") or extra
                if event["choices"] and (word := event["choices"][0]["delta"].get("content")):
                    words.append(word)
    return "".join(words), extra, len(words)


def test_too_little_memory_for_the_kv_cache(options: EngineOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "100000")
    with pytest.raises(EngineError, match="too little memory for viscot-tiny and its KV cache"):
        open_engine(options)


def test_a_server_with_another_chat_template_is_found_out(
    vllm_python: str, folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.jinja"
    other.write_text((folder / "chat_template.jinja").read_text().replace("ASSISTANT:", "ASSISTANT: :"))
    child, url = _serve(vllm_python, folder, tmp_path / "log", "--chat-template", str(other))
    try:
        with pytest.raises(EngineError, match="it uses another chat template"):
            open_engine(EngineOptions(url, box_format="viscot"))
    finally:
        _stop(child)
