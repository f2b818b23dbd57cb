"""vLLM itself reads what training writes of other families, and says what the local engine says."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_families import make_wide
from made_rows import family_recipe, write_rows
from PIL import Image

from viscot_core.conversation import Message
from viscot_core.engines.base import Request
from viscot_core.engines.open import EngineOptions, codec_for, open_engine
from viscot_core.engines.vllm.engine import VllmEngine
from viscot_core.images.view import view_of
from viscot_core.train import worker

pytestmark = pytest.mark.slow
pytest.importorskip("torchvision", reason="most processors have a video part; make test installs it")

ASKED = (((320, 240), "where is it?"), ((200, 300), "what is it?"), ((64, 64), "red"))


@pytest.mark.parametrize("name", ["qwen2.5-vl", "qwen3-vl", "internvl", "llava-onevision"])
def test_a_trained_model_says_the_same(
    name: str, vllm_python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    folder, data = make_wide(name, tmp_path / "model"), write_rows(tmp_path / "data")
    run = worker.run(tmp_path / "run", family_recipe(folder, data, max_steps=2))
    asked = [
        Request((Message("user", f"<image>\n{question}"),), (view_of(_image(size)),), 16, logprobs=True)
        for size, question in ASKED
    ]
    local_options = EngineOptions(model=str(run), device="cpu", dtype="fp32")
    local = open_engine(local_options, codec=codec_for(local_options)).generate(asked)
    options = EngineOptions(
        model=str(run), engine="vllm", python=vllm_python, device="cpu", dtype="fp32", batch_size=4
    )
    engine = open_engine(options, codec=codec_for(options))
    assert isinstance(engine, VllmEngine)
    try:
        found = engine.generate(asked)
    finally:
        engine.close()
    assert [each.text for each in found] == [each.text for each in local]
    assert [(each.error, each.tokens) for each in found] == [(None, each.tokens) for each in local]
    assert sum(each.tokens for each in found) > 16
    for ours, theirs in zip(local, found, strict=True):
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)


def _image(size: tuple[int, int]) -> Image.Image:
    return Image.effect_mandelbrot(size, (-2, -1.5, 1, 1.5), 20).convert("RGB")
