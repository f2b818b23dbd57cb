"""viscot-tiny-zoom: the loop says what its training rows said, and with three looks it finds the number."""

from __future__ import annotations

import pytest

from viscot_core import load
from viscot_core.ask import VisualCoT
from viscot_core.data.annotations import Conversation
from viscot_core.data.encode import encode
from viscot_core.data.search.rows import Search, searches_of, training_rows
from viscot_core.data.search.scenes import SearchScene, draw_search_scene, make_search_scene
from viscot_core.data.synth import HELD_OUT_SEED
from viscot_core.engines.transformers.engine import LocalEngine
from viscot_core.families.inputs import IGNORE
from viscot_core.images.view import view_of
from viscot_core.models.known import BUNDLED_ZOOM
from viscot_core.models.zoo import BUNDLED_FOLDERS
from viscot_core.policies.base import Question
from viscot_core.policies.dialects.known import dialect
from viscot_core.policies.zoom import Zoom
from viscot_core.rollout import replay, run

FIRST = HELD_OUT_SEED + 30_000_000
"""Neither trained on, nor looked at while the model was made."""


@pytest.fixture(scope="module")
def cot() -> VisualCoT:
    if not (BUNDLED_FOLDERS[BUNDLED_ZOOM] / "config.json").exists():
        pytest.skip("no bundled model in this checkout")
    return load(BUNDLED_ZOOM, device="cpu")


def zoom(looks: int) -> Zoom:
    return Zoom(dialect("viscot"), looks=looks)


def test_the_loop_asks_in_the_words_that_the_rows_taught(cot: VisualCoT) -> None:
    """Token for token, at every look: up to the model's own words, which follow there."""
    assert isinstance(cot.engine, LocalEngine)
    processor = cot.engine.processor
    view = view_of(draw_search_scene(make_search_scene(2)))
    endings = set()
    scenes = [make_search_scene(seed) for seed in range(12)]
    questions = [search.question for scene in scenes for search in searches_of(scene)]
    for question, row in zip(questions, training_rows(scenes), strict=True):
        conversation = Conversation.model_validate(row)
        taught = encode(conversation, processor, max_length=512).encoded  # type: ignore[arg-type]
        said = [turn.text for turn in conversation.turns if turn.role == "assistant"]
        asked = conversation.turns[-2].text != "<image>"
        looks = len(said) - 1
        steps, answer = replay(zoom(looks if asked else looks + 1), Question(question, (view,)), said)
        assert answer is not None and answer.text == said[-1] and not answer.refusals
        for step in steps:
            sizes = [shown.image.size for shown in step.images]
            ids = processor.render(step.messages, sizes, generate=True).ids
            assert taught.ids[: len(ids)] == ids
            assert taught.labels[len(ids) - 1] == IGNORE and taught.labels[len(ids)] != IGNORE
        endings.add((looks, asked))
    assert endings == {(1, True), (2, False), (2, True), (3, False), (3, True)}


def _held_out(first: int, count: int) -> list[tuple[SearchScene, Search]]:
    """One question about each scene, as likely a simple one as the benchmark's."""
    scenes = [make_search_scene(seed) for seed in range(first, first + count)]
    return [(scene, searches_of(scene)[number % 2]) for number, scene in enumerate(scenes)]


def _right(cot: VisualCoT, asked: list[tuple[SearchScene, Search]], *looks: int) -> list[int]:
    """How many answers are right with so many looks."""
    right = [0] * len(looks)
    for start in range(0, len(asked), 8):
        some = asked[start : start + 8]
        views = [view_of(draw_search_scene(scene)) for scene, _ in some]
        for number, most in enumerate(looks):
            questions = [Question(s.question, (view,)) for (_, s), view in zip(some, views, strict=True)]
            answers = run(zoom(most), cot.engine, questions)
            right[number] += sum(a.text == s.answer for a, (_, s) in zip(answers, some, strict=True))
    return right


def test_a_question_of_three_looks_is_answered(cot: VisualCoT) -> None:
    deep = [pair for pair in _held_out(FIRST, 12) if pair[0].deep][:3]
    assert len(deep) == 3 and all(len(search.chain) == 3 for _, search in deep)
    assert _right(cot, deep, 3, 1) == [3, 0]


def test_without_a_word_it_looks_as_it_was_made_to(cot: VisualCoT) -> None:
    scene, search = next(pair for pair in _held_out(FIRST, 12) if not pair[0].deep)
    answer = cot.ask(draw_search_scene(scene), search.question)
    assert (answer.text, answer.policy, len(answer.looks)) == (search.answer, "zoom", 2)


@pytest.mark.slow
def test_the_figures_of_its_card_hold(cot: VisualCoT) -> None:
    three, one = _right(cot, _held_out(FIRST, 500), 3, 1)
    assert three >= 425 and one <= 150
