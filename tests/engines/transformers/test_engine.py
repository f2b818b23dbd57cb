"""The local engine: batches equal single answers, features are reused, bad prompts fail alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from viscot_core.conversation import Message, direct_turns
from viscot_core.engines.base import Engine, Generation, Request, Sampling
from viscot_core.engines.transformers.engine import LocalEngine
from viscot_core.errors import UsageError
from viscot_core.images.reading import open_image
from viscot_core.images.view import View, crop, view_of
from viscot_core.models.load import LoadedModel, load_model


@pytest.fixture(scope="module")
def loaded(golden: Path) -> LoadedModel:
    return load_model(golden / "tiny_llava", device="cpu", dtype="fp32")


@pytest.fixture
def engine(loaded: LoadedModel) -> LocalEngine:
    """The plain way; what is shared between prompts has its own tests (test_prefix.py)."""
    return LocalEngine(loaded, reuse=False)


def ask(question: str, *views: View, max_new_tokens: int = 24) -> Request:
    turns = [Message("user", "<image>\n" * len(views) + question + " ")]
    return Request(tuple(turns), views, max_new_tokens)


@pytest.fixture(scope="module")
def views(golden: Path) -> list[View]:
    names = ("landscape.jpg", "portrait.jpg", "cmyk.jpg", "panorama.jpg", "square.png")
    return [view_of(open_image(golden / "images" / name)) for name in names]


def test_is_an_engine(engine: LocalEngine) -> None:
    assert isinstance(engine, Engine)
    assert engine.identity["weights"] and engine.identity["dtype"] == "float32"


def test_batches_equal_single_answers(loaded: LoadedModel, views: list[View]) -> None:
    """Text-only, one-image and two-image prompts of different lengths in one left-padded batch."""
    requests = [
        ask("How many circles are there?"),
        ask("What is written on the sign?", views[0]),
        ask("Which color is the large shape?", views[1], crop(views[1], (0, 0, 224, 224))),
        ask("Is the red kite left of the wooden door, or is it behind the table?", views[2]),
        ask("Where?", views[3], max_new_tokens=3),
    ]
    together = LocalEngine(loaded, batch_size=8).generate(requests)
    single = [LocalEngine(loaded, batch_size=1).generate([request])[0] for request in requests]
    assert together == single
    assert together[0].text == "Two circles." and together[0].finished
    assert together[4].tokens <= 3


def test_images_are_encoded_once(engine: LocalEngine, views: list[View]) -> None:
    engine.generate([ask("One?", views[0]), ask("Two?", views[0]), ask("Three?", views[0], views[1])])
    assert (engine.inputs.features.encoded, engine.inputs.features.reused) == (2, 2)
    engine.generate([ask("Four?", views[0])])
    assert (engine.inputs.features.encoded, engine.inputs.features.reused) == (2, 3)


def test_feature_cache_stays_within_its_bytes(loaded: LoadedModel, views: list[View]) -> None:
    import torch

    from viscot_core.families.features import FeatureCache

    one = 16 * 64 * 4
    inputs = LocalEngine(loaded).inputs
    small = FeatureCache(inputs._pixels, inputs._encode, max_bytes=2 * one)
    with torch.inference_mode():
        assert len(small.features(views)) == 5
        assert small._bytes <= 2 * one
        small.features([views[4]])
    assert (small.encoded, small.reused) == (5, 1)


def test_a_bad_prompt_fails_alone(engine: LocalEngine, views: list[View]) -> None:
    long = ask("the red kite " * 1200, views[0])
    unmatched = Request(direct_turns("What?"), ())
    good, too_long, without = engine.generate([ask("How many circles are there?"), long, unmatched])
    assert good.error is None and good.text
    assert too_long.error is not None and "context of 2048" in too_long.error
    assert without.error is not None and "1 <image> marks for 0 images" in without.error


def test_golden_over_long_prompt_is_refused(engine: LocalEngine, golden: Path, views: list[View]) -> None:
    """The reference cut it at 2048 tokens and answered half a question; here it is an error that says so."""
    prompt = json.loads((golden / "golden_forward.json").read_text())["over_long_truncated_2048"]["prompt"]
    question = prompt.partition("USER: ")[2].rpartition(" ASSISTANT:")[0]
    (generation,) = engine.generate([Request((Message("user", question),), (views[0],))])
    assert generation.error is not None and "do not fit" in generation.error


def test_added_tokens_are_never_said(loaded: LoadedModel, views: list[View]) -> None:
    """Even where every token is as likely as any other."""
    engine = LocalEngine(loaded, sampling=Sampling(temperature=1e4, seed=3))
    (generation,) = engine.generate([ask("What is written?", views[0], max_new_tokens=400)])
    assert generation.tokens > 50
    assert "<image>" not in generation.text


def test_sampling_repeats_with_its_seed(loaded: LoadedModel, views: list[View]) -> None:
    def say(seed: int) -> str:
        engine = LocalEngine(loaded, sampling=Sampling(temperature=1.5, top_p=0.95, seed=seed))
        return engine.generate([ask("What is written on the sign?", views[0], max_new_tokens=40)])[0].text

    assert say(1) == say(1)
    assert len({say(seed) for seed in range(4)}) > 1


@pytest.mark.parametrize("bad", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_impossible_sampling(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Sampling(**bad)


def test_out_of_memory_names_the_flags(
    engine: LocalEngine, views: list[View], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from viscot_core.errors import EngineError

    def full(*_: object, **__: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine.model, "generate", full, raising=False)
    with pytest.raises(EngineError, match="--batch-size 1, --load-in 4bit"):
        engine.generate([ask("What?", views[0])])


def test_an_engine_over_a_model_in_training_changes_nothing(loaded: LoadedModel) -> None:
    layers = len(loaded.model.model.vision_tower.encoder.layers)
    LocalEngine(loaded).generate([ask("What?", view_of(Image.new("RGB", (60, 40))))])
    assert len(loaded.model.model.vision_tower.encoder.layers) == layers
    assert loaded.model.config.vision_feature_layer == -2


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_forked_child_answers(golden: Path) -> None:
    """The child gets a pool of pixel threads of its own, and goes on with one of torch's threads."""
    code = """
import os, sys, torch
from PIL import Image
torch.set_num_threads(4)
from viscot_core import load
model = load(sys.argv[1], device="cpu", dtype="fp32")
first = model.ask(Image.effect_noise((90, 60), 50), "What is it?").text
child = os.fork()
if child == 0:
    second = model.ask(Image.effect_noise((60, 90), 50), "What is it?").error is None
    os._exit(0 if second else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    command = [sys.executable, "-c", code, str(golden / "tiny_llava")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert ran.stdout.strip() == "0", ran.stderr


def test_threads_and_engines_of_one_model_take_turns(loaded: LoadedModel, views: list[View]) -> None:
    """Every answer is the one given alone: threads, two engines on one model, asyncio's threads."""
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    asked = [ask(f"What is written on sign {n}?", views[n % 5], max_new_tokens=8) for n in range(24)]
    alone = [LocalEngine(loaded).generate([request])[0] for request in asked]
    engines = [LocalEngine(loaded), LocalEngine(loaded)]

    def one(number: int) -> Generation:
        return engines[number % 2].generate([asked[number]])[0]

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(one, range(24))) == alone

    async def together() -> list[Generation]:
        return list(await asyncio.gather(*(asyncio.to_thread(one, number) for number in range(24))))

    assert asyncio.run(together()) == alone
    assert loaded.model.config.text_config._attn_implementation == "sdpa"
