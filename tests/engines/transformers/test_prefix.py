"""Sharing the image changes nothing but the time: token for token the plain way's text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from viscot_core.conversation import Message, answer_turns, direct_turns
from viscot_core.engines.base import Generation, Request
from viscot_core.engines.transformers import attention, prefix
from viscot_core.engines.transformers.batches import BatchBudget
from viscot_core.engines.transformers.decode_state import Decoding
from viscot_core.engines.transformers.engine import LocalEngine
from viscot_core.errors import EngineError
from viscot_core.families.llava.family import FAMILY
from viscot_core.families.llava.processor import ChatProcessor, ChatTokenizer
from viscot_core.families.llava.template import TEMPLATES
from viscot_core.families.manifest import Manifest
from viscot_core.images.reading import open_image
from viscot_core.images.view import View, crop
from viscot_core.models.load import LoadedModel, load_model

QUESTIONS = (
    "What is written on the sign?",
    "How many circles are there?",
    "Is the red kite left of the wooden door?",
    "Where?",
)


@pytest.fixture(scope="module")
def loaded(shared: Path) -> LoadedModel:
    return load_model(shared / "golden" / "tiny_llava", device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def requests(shared: Path) -> list[Request]:
    """One to four questions about each of many images, most with a crop besides, some without image."""
    made = []
    for number, path in enumerate(sorted((shared / "golden" / "images").glob("*.[jp][pn]g"))):
        view = View(open_image(path), path.name)
        for question in QUESTIONS[: 1 + number % 4]:
            made.append(request(direct_turns(question), view))
            if number % 3:
                window = (0, 0, min(224, view.image.width), min(224, view.image.height))
                made.append(request(answer_turns(question, "[0.1, 0.2, 0.3, 0.4]"), view, crop(view, window)))
        if number % 5 == 0:
            made.append(request((Message("user", QUESTIONS[1] + " "),)))
    return made


def request(turns: tuple[Message, ...], *views: View, limit: int = 40) -> Request:
    return Request(tuple(turns), views, limit)


@pytest.fixture(scope="module")
def plain(loaded: LoadedModel, requests: list[Request]) -> list[Generation]:
    return LocalEngine(loaded, batch_size=1, reuse=False).generate(requests)


@pytest.fixture(params=["folded", "merged"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both ways of attending to the prefix, for all lengths."""
    monkeypatch.setattr(attention, "attend", getattr(attention, request.param))
    yield


@pytest.mark.parametrize("batch_size", [1, 3, 8, 64])
@pytest.mark.usefixtures("way")
def test_the_text_is_the_plain_ways(
    loaded: LoadedModel, requests: list[Request], plain: list[Generation], batch_size: int
) -> None:
    engine = LocalEngine(loaded, batch_size=batch_size)
    assert engine.generate(requests) == plain
    assert engine.prefix is not None
    assert engine.prefix.store.computed == 15
    assert engine.generate(requests[:9]) == plain[:9]
    assert engine.prefix.store.computed == 15, "the second turn reads what the first computed"
    assert engine.identity["attention"] == "sdpa"


@pytest.mark.usefixtures("way")
def test_without_kernels(
    loaded: LoadedModel,
    requests: list[Request],
    plain: list[Generation],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on Apple's GPUs: rows of many lengths, padded on the left, some of them longer than a block."""
    monkeypatch.setattr(attention, "_on_cpu", attention._by_hand)
    monkeypatch.setattr(attention, "BLOCK", 5)
    monkeypatch.setattr(prefix, "KEYS_FIRST", 10)
    assert LocalEngine(loaded, batch_size=8).generate(requests) == plain


def test_a_listener_may_ask(loaded: LoadedModel) -> None:
    """While it is told an answer, with the engine in the middle of it."""
    engine = LocalEngine(loaded)
    view = View(Image.new("RGB", (80, 60), (200, 30, 30)), "red")
    one = request(direct_turns(QUESTIONS[0]), view, limit=4)
    alone, asked = engine.generate([one]), []

    def listen(text: str) -> None:
        if not asked:
            asked.append(engine.generate([one]))

    told = engine.generate([replace(one, on_text=listen)])
    assert told[0].text == alone[0].text and asked == [alone]
    assert not any("forward" in vars(module) for module in loaded.model.modules())


def test_the_store_stays_within_its_bytes(
    loaded: LoadedModel, requests: list[Request], plain: list[Generation]
) -> None:
    engine = LocalEngine(loaded)
    assert engine.prefix is not None
    engine.prefix.store = prefix.PrefixStore(max_bytes=400_000)
    assert engine.generate(requests) == plain
    kept = list(engine.prefix.store._kept.values())
    assert sum(tensor.nbytes for tensor in kept) == engine.prefix.store._bytes <= 400_000
    assert len(kept) < 15


def test_limits_hold_for_each_prompt(loaded: LoadedModel) -> None:
    view = View(Image.new("RGB", (80, 60), (200, 30, 30)), "red")
    asked = [
        request(direct_turns(q), view, limit=limit) for q, limit in zip(QUESTIONS, (1, 3, 40, 7), strict=True)
    ]
    together = LocalEngine(loaded).generate(asked)
    assert together == LocalEngine(loaded, batch_size=1, reuse=False).generate(asked)
    assert [g.tokens <= r.max_new_tokens for g, r in zip(together, asked, strict=True)] == [True] * 4


def test_a_batch_that_does_not_fit_is_halved(
    loaded: LoadedModel, requests: list[Request], plain: list[Generation], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = LocalEngine(loaded, batch_size=0)
    assert engine.batch_size == 16 and engine.prefix is not None
    run = engine.prefix.generate

    def small(prompts: list[Decoding], budget: BatchBudget, *more: Any) -> None:
        if budget.rows > 4:
            raise torch.cuda.OutOfMemoryError("full")
        run(prompts, budget, *more)

    monkeypatch.setattr(engine.prefix, "generate", small)
    assert engine.generate(requests[:12]) == plain[:12]
    assert engine.batch_size == 4
    fixed = LocalEngine(loaded, batch_size=8)
    monkeypatch.setattr(fixed.prefix, "generate", small)
    with pytest.raises(EngineError, match="--batch-size 1"):
        fixed.generate(requests[:12])


def test_a_model_spread_over_devices_goes_the_plain_way(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded.model, "hf_device_map", {"model.vision_tower": 0, "lm_head": 1}, raising=False)
    assert LocalEngine(loaded).prefix is None
    monkeypatch.setattr(loaded.model, "hf_device_map", {"": 0})
    assert LocalEngine(loaded).prefix is not None


def test_short_prompts_share_the_budget_of_long_ones() -> None:
    budget = BatchBudget(4, tokens=5600)
    assert budget.rows_of_one_image(prefix=634, own=168) == 29, "expressions about one image"
    assert budget.images(each=1, prefix=634, own=788) == 3, "second turns, each with a crop"
    assert budget.images(each=16, prefix=634, own=168) == 1
    fixed = BatchBudget(4)
    assert (fixed.rows_of_one_image(634, 168), fixed.images(1, 634, 788), fixed.images(3, 1, 1)) == (4, 4, 1)


@pytest.mark.parametrize("tokens", [100, 400, 4000])
def test_any_budget_gives_the_same_text(
    loaded: LoadedModel,
    requests: list[Request],
    plain: list[Generation],
    tokens: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = LocalEngine(loaded)
    monkeypatch.setattr(engine, "_budget", lambda: BatchBudget(8, tokens))
    assert engine.generate(requests) == plain


def test_words_before_the_image_are_each_prompts_own(loaded: LoadedModel, shared: Path) -> None:
    """Prompts about one image with other words of the same length in front of it share no prefix."""
    path = shared / "golden" / "images" / "landscape.jpg"
    view = View(open_image(path), path.name)
    said = [(Message("user", f"{word} <image>\nWhat is this?"),) for word in ("one", "two", "six", "ten")]
    asked = [request(turns, view) for turns in said]
    assert (
        len(
            {
                len(loaded.processor.render(each.messages, [view.image.size], generate=True).ids)
                for each in asked
            }
        )
        == 1
    )
    whole = LocalEngine(loaded, batch_size=8)
    assert whole.generate(asked) == LocalEngine(loaded, batch_size=1, reuse=False).generate(asked)
    assert whole.prefix is not None and whole.prefix.store.computed == 4


@dataclass(frozen=True)
class Sizes:
    """A scratch model's shape with grouped queries."""

    llm_kv_heads: int
    llm_heads: int = 4
    image_side: int = 56
    patch: int = 14
    vision_width: int = 32
    vision_layers: int = 2
    vision_heads: int = 2
    vision_mlp: int = 64
    llm_width: int = 32
    llm_layers: int = 2
    llm_mlp: int = 64
    max_positions: int = 512
    vocab_size: int = 300
    tie_embeddings: bool = False


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("attention_name", ["sdpa", "eager"])
def test_a_model_s_own_tensors_fit(kv_heads: int, attention_name: str) -> None:
    """Every grouping of query heads, with the transposed tensors that a model hands over."""
    from viscot_core.families.llava.scratch import build_model, train_tokenizer

    words = ["what is on the card? " + " ".join(QUESTIONS)] * 4
    tokenizer = train_tokenizer(words, vocab_size=300, max_positions=512)
    shape = Sizes(kv_heads)
    model = build_model(shape, tokenizer, feature_layer=-2, attention=attention_name, seed=kv_heads).eval()
    tokens = ChatTokenizer(tokenizer, image_tokens=16)
    processor = ChatProcessor(tokens, TEMPLATES["tiny"], model.config, len(tokenizer))
    manifest = Manifest(name="scratch", template="tiny", image_side=56)
    loaded = LoadedModel(model, FAMILY, processor, manifest, Path(), "")
    view = View(Image.effect_noise((90, 60), 50).convert("RGB"), "noise")
    asked = [request(direct_turns(question), view) for question in QUESTIONS]
    asked += [
        request(answer_turns(q, "[0.1, 0.2, 0.3, 0.4]"), view, crop(view, (9, 9, 60, 50))) for q in QUESTIONS
    ]
    together = LocalEngine(loaded, batch_size=8)
    assert together.prefix is not None
    assert together.generate(asked) == LocalEngine(loaded, batch_size=1, reuse=False).generate(asked)


def test_after_weights_changed_nothing_old_is_answered(shared: Path) -> None:
    """Evaluation during training asks one engine again and again over weights that move."""
    loaded = load_model(shared / "golden" / "tiny_llava", device="cpu", dtype="fp32")
    path = shared / "golden" / "images" / "landscape.jpg"
    asked = [request(direct_turns(question), View(open_image(path), path.name)) for question in QUESTIONS]
    engine = LocalEngine(loaded)
    before = engine.generate(asked)
    with torch.no_grad():
        for weights in loaded.model.model.multi_modal_projector.parameters():
            weights.zero_()
    engine.reset()
    after = engine.generate(asked)
    assert after == LocalEngine(loaded, reuse=False).generate(asked)
    assert after != before
