"""Images are prepared in the order in which they are encoded, also over batches; nothing else changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from made_families import make

from viscot_core.conversation import answer_turns, direct_turns
from viscot_core.engines.base import Request
from viscot_core.engines.transformers.engine import LocalEngine
from viscot_core.families.features import FeatureCache
from viscot_core.images.reading import open_image
from viscot_core.images.view import View, crop
from viscot_core.models.load import LoadedModel, load_model

QUESTIONS = ("What is written on the sign?", "How many circles are there?", "Where?")
BOX = "[0.1, 0.2, 0.3, 0.4]"


@pytest.fixture(scope="module")
def loaded(golden: Path) -> LoadedModel:
    return load_model(golden / "tiny_llava", device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def views(golden: Path) -> list[View]:
    return [View(open_image(path), path.name) for path in sorted((golden / "images").glob("*.[jp][pn]g"))[:5]]


def first_turns(views: Iterable[View]) -> list[Request]:
    """One to three questions about each image: batches of different sizes, in another order than asked."""
    return [
        Request(tuple(direct_turns(question)), (view,), 4)
        for number, view in enumerate(views)
        for question in QUESTIONS[: 1 + number % 3]
    ]


def second_turns(views: Iterable[View]) -> list[Request]:
    return [
        Request(tuple(answer_turns(QUESTIONS[0], BOX)), (view, crop(view, (3, 2, 40 + number, 44))), 4)
        for number, view in enumerate(views)
    ]


def looks_ahead(engine: LocalEngine) -> tuple[list[str], list[str]]:
    """Let it do so although it is on a CPU; keys of the images that were announced, and those encoded."""
    inputs = engine.inputs
    cache = FeatureCache(inputs._pixels, inputs._encode, threads=2, ahead=3, batch=2)  # type: ignore[attr-defined]
    inputs.features = cache  # type: ignore[attr-defined]
    announced: list[str] = []
    taken: list[str] = []
    announce, take = cache._pixels.announce, cache._pixels.take

    def announces(views: Iterable[View]) -> None:
        views = list(views)
        announced.extend(dict.fromkeys(view.key for view in views))
        announce(views)

    def takes(views: list[View]) -> list[object]:
        taken.extend(view.key for view in views)
        return take(views)

    cache._pixels.announce, cache._pixels.take = announces, takes  # type: ignore[method-assign, assignment]
    return announced, taken


@pytest.mark.parametrize("reuse", [True, False])
def test_images_are_encoded_in_the_order_that_was_announced(
    loaded: LoadedModel, views: list[View], reuse: bool
) -> None:
    engine, plain = (LocalEngine(loaded, batch_size=3, reuse=reuse) for _ in range(2))
    announced, taken = looks_ahead(engine)
    asked = first_turns(views)
    assert engine.generate(asked) == plain.generate(asked)
    assert taken == announced and len(taken) == len(views)
    then = second_turns(views)
    assert engine.generate(then) == plain.generate(then)
    # The whole images' keys and values, or features, are there: only the crops are new.
    assert taken == announced and taken[len(views) :] and all("###" in key for key in taken[len(views) :])
    assert not engine.inputs.features._pixels._begun, "nothing is left over"  # type: ignore[attr-defined]
    engine.reset()
    assert engine.generate(then) == plain.generate(then)
    assert sorted(taken[2 * len(views) :]) == sorted(view.key for one in then for view in one.images)


def test_features_are_those_without_threads(loaded: LoadedModel, views: list[View]) -> None:
    engine, plain = LocalEngine(loaded), LocalEngine(loaded)
    looks_ahead(engine)
    engine.inputs.prefetch(views)
    caches = [one.inputs.features for one in (engine, plain)]  # type: ignore[attr-defined]
    with torch.inference_mode():
        ahead = [feature for view in views for feature in caches[0].features([view])]
        at_once = [feature for view in views for feature in caches[1].features([view])]
    assert all(map(torch.equal, ahead, at_once))


@pytest.mark.parametrize("number", range(5))
def test_an_image_that_cannot_be_prepared_ends_the_call_and_no_other(
    loaded: LoadedModel, views: list[View], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """It raises where the image is wanted, as without threads; nothing is left over, the next begins anew."""
    engine = LocalEngine(loaded, batch_size=3)
    asked = first_turns(views)
    said = LocalEngine(loaded, batch_size=3).generate(asked)
    prepare: Callable[[View], object] = engine.inputs._pixels  # type: ignore[attr-defined]

    def fails(view: View) -> object:
        if view.key == views[number].key:
            raise OSError("truncated")
        return prepare(view)

    monkeypatch.setattr(engine.inputs, "_pixels", fails)
    looks_ahead(engine)
    with pytest.raises(OSError, match="truncated"):
        engine.generate(asked)
    waiting = engine.inputs.features._pixels  # type: ignore[attr-defined]
    assert not waiting._begun and not waiting._next
    monkeypatch.undo()
    looks_ahead(engine)
    assert engine.generate(asked) == said


def test_a_family_of_other_processors_looks_ahead_too(tmp_path: Path, views: list[View]) -> None:
    model = load_model(make("qwen3-vl", tmp_path), device="cpu", dtype="fp32")
    engine, plain = (LocalEngine(model, batch_size=3) for _ in range(2))
    _, taken = looks_ahead(engine)
    for asked in (first_turns(views[:4]), second_turns(views[:4])):
        assert engine.generate(asked) == plain.generate(asked)
    assert len(taken) == len(set(taken)) == 8
