"""An exported model behind ``transformers serve`` answers over HTTP as it does here."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from viscot_core.conversation import Message
from viscot_core.engines.base import Request
from viscot_core.engines.transformers.engine import LocalEngine
from viscot_core.families.llava.layouts import Layout
from viscot_core.images.view import view_of
from viscot_core.models.checkpoint import open_checkpoint
from viscot_core.models.export import export
from viscot_core.models.load import load_model


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@pytest.mark.slow
def test_transformers_serve(golden: Path, tmp_path: Path) -> None:
    for needed in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(needed)
    import httpx

    folder = export(open_checkpoint(golden / "tiny_llava"), tmp_path / "hf", Layout.HF)
    port = _free_port()
    command = [str(Path(sys.executable).with_name("transformers")), "serve", "--host", "127.0.0.1"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--port", str(port), "--device", "cpu", "--dtype", "float32"],
            stdout=log,
            stderr=log,
            env=environment,
        )
    try:
        base = f"http://127.0.0.1:{port}"
        _wait(base, server, tmp_path / "log")
        image = golden / "images" / "portrait.jpg"
        question = "Which color is the large shape? "
        url = "data:image/jpeg;base64," + base64.b64encode(image.read_bytes()).decode()
        body = {
            "model": str(folder),
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": url}},
                        {"type": "text", "text": question},
                    ],
                }
            ],
            "max_tokens": 40,
            "temperature": 0,
            "stream": False,
        }
        answer = httpx.post(f"{base}/v1/chat/completions", json=body, timeout=240, trust_env=False)
        assert answer.status_code == 200, answer.text
        said = answer.json()["choices"][0]["message"]["content"].strip()
    finally:
        server.terminate()
        server.wait(30)
    engine = LocalEngine(load_model(folder, device="cpu", dtype="fp32"))
    view = view_of(Image.open(image).convert("RGB"))
    (ours,) = engine.generate([Request((Message("user", f"<image>\n{question}"),), (view,), 40)])
    assert said == ours.text == "The large shape is dark green."


def _wait(base: str, server: subprocess.Popen[bytes], log: Path) -> None:
    import httpx

    for _ in range(240):
        if server.poll() is not None:
            pytest.fail(f"the server ended: {log.read_text()[-2000:]}")
        try:
            httpx.get(f"{base}/health", timeout=2, trust_env=False)
            return
        except httpx.HTTPError:
            time.sleep(0.5)
    pytest.fail("the server did not come up")
