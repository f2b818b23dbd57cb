"""A talk that looks again and again reads each crop once; its words are those of the whole talk read anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from family_checks import SHARING
from made_families import make
from PIL import Image

from viscot_core.conversation import Message
from viscot_core.engines.base import Generation, Request
from viscot_core.engines.transformers import attention, static
from viscot_core.engines.transformers.batches import BatchBudget, Measured, by_image
from viscot_core.engines.transformers.engine import LocalEngine
from viscot_core.engines.transformers.prefix import PrefixStore
from viscot_core.families.inputs import Prompt
from viscot_core.images.view import View, crop, view_of
from viscot_core.models.load import LoadedModel, load_model

WINDOWS = ((0, 0, 60, 40), (20, 10, 90, 60), (5, 5, 40, 60), (30, 0, 90, 45))
FAST = ("llava", "qwen3-vl", "smolvlm")
FAMILIES = [
    *FAST,
    *(pytest.param(name, marks=pytest.mark.slow) for name in SHARING if name not in FAST),
]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Path], LoadedModel]:
    def loaded(name: str, golden: Path) -> LoadedModel:
        folder = golden / "tiny_llava" if name == "llava" else make(name, tmp_path_factory.mktemp(name))
        return load_model(folder, device="cpu", dtype="fp32")

    return loaded


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(
    request: pytest.FixtureRequest, golden: Path, load: Callable[[str, Path], LoadedModel]
) -> LoadedModel:
    return load(request.param, golden)


@pytest.fixture(scope="module")
def llava(golden: Path, load: Callable[[str, Path], LoadedModel]) -> LoadedModel:
    return load("llava", golden)


def talk(question: str, view: View, looks: int, *, last: bool = False) -> Request:
    """A question after ``looks`` crops; ``last``: nothing will follow."""
    messages = [Message("user", f"<image>\n{question}")]
    for number in range(looks):
        messages += [
            Message("assistant", "where the red card is " * (1 + number % 2) + str(number)),
            Message("user", f"<image>\nhere, {question}"),
        ]
    views = (view, *(crop(view, window) for window in WINDOWS[:looks]))
    return Request(tuple(messages), views, 6, logprobs=True, follow_ups=0 if last else 1)


@cache
def noise(number: int) -> View:
    return view_of(Image.effect_noise((90 + number, 60), 60).convert("RGB"))


def read_by(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """A list that fills with how many images of each prompt of a batch were read before."""
    read: list[tuple[int, ...]] = []
    suffix = engine.inputs.suffix  # type: ignore[attr-defined]

    def told(prompts: Sequence[Prompt], before: Sequence[int], **more: bool) -> object:
        read.append(tuple(before))
        return suffix(prompts, before, **more)

    monkeypatch.setattr(engine.inputs, "suffix", told)
    return read


def assert_same(said: Sequence[Generation], plain: Sequence[Generation]) -> None:
    """Equal words, and logprobs that differ by rounding."""
    assert [replace(one, logprobs=None) for one in said] == [replace(one, logprobs=None) for one in plain]
    for one, other in zip(said, plain, strict=True):
        assert one.error is None and one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


def test_talks_at_different_looks_say_what_each_says_anew(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three talks, two about one image, the third a look behind; all in one batch from the second look on."""
    engine = LocalEngine(loaded, batch_size=4)
    plain = LocalEngine(loaded, batch_size=1, reuse=False)
    read = read_by(engine, monkeypatch)
    first, second = noise(0), noise(7)
    for look in range(len(WINDOWS) + 1):
        asked = [talk("which number?", first, look), talk("what is on the green card?", first, look)]
        asked += [talk("how many?", second, look - 1)] if look else []
        assert_same(engine.generate(asked), plain.generate(asked))
        read_then = sorted(number for batch in read for number in batch)
        assert read_then == ([1, 1] if not look else sorted([max(1, look)] * 2 + [max(1, look - 1)]))
        read.clear()


def test_images_beyond_the_feature_cache_are_encoded_once(
    golden: Path, load: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = LocalEngine(load("qwen3-vl", golden), batch_size=2)
    asked = [talk("which number?", view_of(noise(0).image.rotate(turn)), 0) for turn in (0, 90, 180, 270)]
    cache = engine.inputs.features  # type: ignore[attr-defined]
    (one,) = cache.features(asked[0].images)
    monkeypatch.setattr(cache, "_max_bytes", 2 * one.nbytes)
    engine.reset()
    before = engine.inputs.encoded
    engine.generate(asked)
    assert engine.inputs.encoded - before <= len(asked) + 1, "one more tells how many tokens its size takes"


@pytest.mark.parametrize("way", [attention.folded, attention.merged])
def test_both_ways_to_attend(
    llava: LoadedModel, monkeypatch: pytest.MonkeyPatch, way: Callable[..., torch.Tensor]
) -> None:
    monkeypatch.setattr(attention, "attend", way)
    engine = LocalEngine(llava, batch_size=4)
    plain = LocalEngine(llava, batch_size=1, reuse=False)
    for look in range(4):
        asked = [talk("which number?", noise(n), max(0, look - n)) for n in range(3)]
        assert_same(engine.generate(asked), plain.generate(asked))


@pytest.mark.parametrize("way", [attention.folded, attention.merged])
def test_static_buffers_keep_looks_too(
    llava: LoadedModel, monkeypatch: pytest.MonkeyPatch, way: Callable[..., torch.Tensor]
) -> None:
    """As on a GPU: talks at different looks in one batch, one and two about an image, and after a drop."""
    monkeypatch.setattr(static, "attend", way)
    engine = static_engine(llava)
    plain = LocalEngine(llava, batch_size=1, reuse=False)
    read = read_by(engine, monkeypatch)
    first, second = noise(0), noise(7)
    for look in range(len(WINDOWS) + 1):
        asked = [talk("which number?", first, look), talk("what is on the green card?", first, look)]
        if look:
            asked += [talk("how many?", noise(9), look), talk("how many?", second, look - 1)]
        assert_same(engine.generate(asked), plain.generate(asked))
        wanted = [1, 1] if not look else [look, look, 1 if look == 1 else look, max(1, look - 1)]
        assert sorted(number for batch in read for number in batch) == sorted(wanted)
        read.clear()
    assert engine.prefix is not None
    engine.prefix.store = PrefixStore(max_bytes=1)
    asked = [talk("which number?", first, 2), talk("how many?", second, 3)]
    assert_same(engine.generate(asked), plain.generate(asked))


def static_engine(loaded: LoadedModel) -> LocalEngine:
    engine = LocalEngine(loaded, batch_size=4)
    assert engine.prefix is not None
    engine.prefix.static = engine.prefix.static_decoder(graphs=False)
    return engine


def test_what_is_kept_stays_within_its_bytes(llava: LoadedModel) -> None:
    """Pieces that are dropped are read anew; equal talks of a batch are kept once."""
    engine = LocalEngine(llava, batch_size=2)
    plain = LocalEngine(llava, batch_size=1, reuse=False)
    assert engine.prefix is not None
    one = talk("which number?", noise(0), 1)
    engine.generate([one, one])
    piece = max(kept.nbytes for kept in engine.prefix.store._kept.values())
    for limit in (1, 3 * piece):
        engine.prefix.store = store = PrefixStore(max_bytes=limit)
        for look in range(4):
            asked = [talk(question, noise(0), look) for question in ("which number?", "which number?", "no?")]
            assert_same(engine.generate(asked), plain.generate(asked))
            assert sum(kept.nbytes for kept in store._kept.values()) == store._bytes
            assert store._bytes <= limit or len(store._kept) == 1


@pytest.mark.parametrize("in_buffers", [False, True])
def test_a_piece_that_is_dropped_while_its_batch_runs_is_not_kept_again(
    llava: LoadedModel, in_buffers: bool
) -> None:
    """A shorter talk is padded between what was known of it and what it reads, so it lies elsewhere."""
    engine = static_engine(llava) if in_buffers else LocalEngine(llava, batch_size=4)
    roomy = LocalEngine(llava, batch_size=1)
    assert engine.prefix is not None and roomy.prefix is not None
    asked = [("no?", noise(0)), ("what is on the green card, and what is behind it?", noise(7))]
    engine.generate([talk(*each, 1) for each in asked])
    engine.prefix.store._max_bytes = engine.prefix.store._bytes  # full: the next image drops another
    batch = [talk(*each, 2) for each in asked] + [talk("which number?", noise(3), 1)]
    engine.generate(batch)
    for one in batch:
        roomy.generate([one])
    kept = roomy.prefix.store._kept
    for key, piece in engine.prefix.store._kept.items():
        torch.testing.assert_close(piece, kept[key], rtol=1e-3, atol=1e-4)


def test_talks_at_different_looks_keep_to_the_budget_of_a_batch() -> None:
    """What is kept and what is read are padded each: long kept beside long read weighs as much as both."""

    def measured(number: int, read: int, length: int) -> Measured:
        prompt = SimpleNamespace(images=[SimpleNamespace(key=str(number))])
        one: Any = SimpleNamespace(prompt=prompt, ids=[0] * length, state=SimpleNamespace(limit=10))
        return Measured(one, 100, read, 1)

    talks = [measured(0, 1000, 1050), measured(1, 100, 1050)]
    budget = BatchBudget(rows=1, tokens=2 * 1060)  # two rows of 1,060 keys; padded they are of 1,960
    assert [len(batch) for batch in by_image(talks, budget)] == [1, 1]
    alike = [measured(0, 1000, 1050), measured(1, 990, 1040)]
    assert [len(batch) for batch in by_image(alike, budget)] == [2]


def test_the_last_piece_of_a_talk_is_dropped_first() -> None:
    store = PrefixStore(max_bytes=40)
    for key in ("image", "first crop", "second crop"):
        store.put(key, torch.zeros(2))
    assert len(store.known(["image", "first crop", "second crop", "third crop"])) == 3
    store.put("other", torch.zeros(6))
    assert list(store._kept) == ["first crop", "image", "other"]
    assert len(store.known(["image", "second crop", "first crop"])) == 1, "nothing behind a gap is of use"


def test_other_words_before_a_crop_are_read_anew(llava: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = LocalEngine(llava, batch_size=4)
    engine.generate([talk("which number?", noise(0), 3)])
    read = read_by(engine, monkeypatch)
    asked = talk("which number?", noise(0), 3)
    words = (*asked.messages[:3], Message("assistant", "another reply"), *asked.messages[4:])
    for other, before in (
        (asked, 4),
        (replace(asked, messages=words), 2),
        (replace(asked, images=(*asked.images[:2], noise(9), asked.images[3])), 2),
        (replace(asked, images=(noise(9), *asked.images[1:])), 1),
    ):
        assert_same(engine.generate([other]), LocalEngine(llava, reuse=False).generate([other]))
        assert read.pop() == (before,)


def test_a_talk_that_ends_keeps_nothing_but_its_image(llava: LoadedModel) -> None:
    """The second of two turns is the last one: keeping its crop would only push images out."""
    engine = LocalEngine(llava, batch_size=4)
    assert engine.prefix is not None
    engine.generate([talk("which number?", noise(0), 0)])
    engine.generate([talk("which number?", noise(0), 1, last=True)])
    assert engine.prefix.store.computed == len(engine.prefix.store._kept) == 1


def test_after_weights_changed_no_earlier_look_is_read(
    golden: Path, load: Callable[..., LoadedModel]
) -> None:
    loaded = load("llava", golden)
    engine = LocalEngine(loaded, batch_size=4)
    engine.generate([talk("which number?", noise(0), 2)])
    asked = [talk("which number?", noise(0), 3)]
    before = LocalEngine(loaded, reuse=False).generate(asked)
    with torch.no_grad():
        loaded.model.get_output_embeddings().weight.neg_()
        for weights in loaded.model.model.multi_modal_projector.parameters():
            weights.neg_()
    engine.reset()
    after = engine.generate(asked)
    assert_same(after, LocalEngine(loaded, reuse=False).generate(asked))
    assert after[0].ids != before[0].ids


def test_the_check_at_load_finds_a_look_that_goes_wrong(
    golden: Path, load: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A family in which what was said before a crop may not be kept is read the plain way."""
    loaded = load("qwen3-vl", golden)
    assert LocalEngine(loaded).prefix is not None
    begun = attention.SuffixCache._begun

    def spoiled(cache: attention.SuffixCache, *more: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = begun(cache, *more)  # type: ignore[arg-type]
        values[:, :, : cache.known_len] *= -30.0
        return keys, values

    monkeypatch.setattr(attention.SuffixCache, "_begun", spoiled)
    engine = LocalEngine(loaded)
    assert engine.prefix is None and engine.identity["prefix"] == "off"
