"""The benchmark says what the reference says, and writes what became of each question."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_bench import FakeEngine, ask_items, speak

from viscot_core.boxes.geometry import WHOLE
from viscot_core.boxes.registry import codec
from viscot_core.engines.base import Generation
from viscot_core.policies.wording import Wording
from viscot_core.runs.answering import Pending, answer_stream
from viscot_core.runs.opening import Query, open_items
from viscot_core.runs.records import Prediction
from viscot_core.tasks.refcoco import RefCoco, load_refcoco
from viscot_core.tasks.visual_cot.task import VisualCot, load_visual_cot

PAPER = Wording(codec("viscot"))
PAPER_STRATEGIES = ("cot", "direct", "gt-box", "random-box", "center-box", "no-image")


def ask(root: Path, engine: FakeEngine, *names: str, **settings: object) -> list[Prediction | Pending]:
    return ask_items(VisualCot, engine, load_visual_cot(root).items, names, **settings)


def test_prompts_are_the_references_in_every_mode(shared: Path) -> None:
    """Over the real rows of the golden file: character for character."""
    golden = json.loads((shared / "golden" / "golden_prompts.json").read_text())
    prompt = FakeEngine().prompt
    for row in golden["rows"]:
        question = row["det_row"]["expression"]
        for mode in row["modes"]:
            words = (
                mode["prompt"].split("ASSISTANT: ")[-1].split("</s>")[0] if "</s>" in mode["prompt"] else ""
            )
            turns = {
                "detection": PAPER.detection(question),
                "direct": PAPER.direct(question),
                "cot_without_image_gt": PAPER.without_crop(question, words),
                "cot_without_image_pred": PAPER.without_crop(question, words),
            }.get(mode["mode"], PAPER.answer(question, words))
            assert prompt(turns) == mode["prompt"], mode["mode"]
    for row in golden["refcoco"]:
        turns = PAPER.refcoco(row["row"]["expression"])
        assert prompt(turns) == row["prompt"]


def test_every_strategy_finishes_every_question(root: Path) -> None:
    engine = FakeEngine()
    outcomes = ask(root, engine, *PAPER_STRATEGIES)
    assert len(outcomes) == 12 * 6
    for outcome in outcomes:
        assert isinstance(outcome, Prediction)
        assert outcome.done
        asked_model = outcome.strategy in ("cot", "no-image")
        assert (outcome.box_status == "ok") == asked_model
        assert (outcome.box is None) == (outcome.strategy == "direct")
        assert (outcome.crop is None) == (outcome.strategy in ("direct", "no-image"))
        if outcome.strategy == "gt-box":
            assert outcome.iou == pytest.approx(1, abs=0.05)
    # cot and no-image share one first turn: 12 + 6 x 12, not 24 + 72.
    assert len(engine.prompts) == 12 * 7


def test_the_second_image_is_the_crop(root: Path) -> None:
    engine = FakeEngine()
    (first, *_) = ask(root, engine, "cot")
    assert isinstance(first, Prediction)
    request = next(r for r in engine.requests if len(r.images) == 2)
    assert first.crop is not None
    left, top, right, bottom = first.crop
    assert request.images[1].image.size == (right - left, bottom - top)
    assert request.images[0].image.size == (first.width, first.height)


def test_an_unparsable_box_falls_back_to_the_whole_image_and_scores_zero(root: Path) -> None:
    def answer(prompt: str) -> str:
        return "[0.1, 0.0.893, 0.5, 0.574]" if "Please provide" in prompt else speak(prompt)

    (outcome, *_) = ask(root, FakeEngine(answer), "cot")
    assert isinstance(outcome, Prediction)
    assert (outcome.box_status, outcome.box, outcome.iou) == ("unparsable", WHOLE.coords, 0.0)
    assert outcome.box_text == "[0.1, 0.0.893, 0.5, 0.574]"
    assert outcome.answer is not None


def test_an_unreadable_image_fails_its_questions_alone(root: Path) -> None:
    (root / "cot" / "made" / "1.png").write_bytes(b"no image")
    outcomes = ask(root, FakeEngine(), "cot", "direct")
    bad = [o for o in outcomes if isinstance(o, Prediction) and o.status == "failed"]
    assert len(bad) == 4
    assert all("cannot be read" in (o.error or "") for o in bad)
    assert sum(isinstance(o, Prediction) and o.done for o in outcomes) == 20


def test_an_image_of_another_shape_fails(root: Path) -> None:
    from PIL import Image

    Image.new("RGB", (500, 100)).save(root / "cot" / "made" / "0.png")
    outcomes = ask(root, FakeEngine(), "gt-box")
    assert [isinstance(o, Prediction) and o.error and "another image" in o.error for o in outcomes[:1]] == [
        True
    ]


def test_engine_errors_are_failed_or_left_open(root: Path) -> None:
    def answer(prompt: str) -> str | Generation:
        if "place 3?" in prompt:  # a first turn
            return Generation("", 0, False, "HTTP 503", transient=True)
        if "Place 4?" in prompt:
            return Generation("", 0, False, "too long")
        return speak(prompt)

    outcomes = ask(root, FakeEngine(answer), "cot", "direct")
    still_open = [o for o in outcomes if isinstance(o, Pending)]
    assert still_open == [Pending(("cot", "made", "9"), "HTTP 503")]
    failed = [o for o in outcomes if isinstance(o, Prediction) and not o.done]
    assert {(o.strategy, o.question_id, o.error) for o in failed} == {
        ("cot", 12, "too long"),
        ("direct", 12, "too long"),
    }


def test_other_families_are_asked_for_and_read_in_their_own_form(root: Path) -> None:
    def answer(prompt: str) -> str:
        if "bbox_2d" in prompt and "</s>" not in prompt:
            return '[{"bbox_2d": [100, 200, 500, 600], "label": "it"}]'
        return speak(prompt)

    engine = FakeEngine(answer)
    outcomes = ask(root, engine, "cot", "gt-box", box_format="qwen3-vl")
    assert all(isinstance(o, Prediction) and o.done for o in outcomes)
    (first, second) = outcomes[:2]
    assert isinstance(first, Prediction) and isinstance(second, Prediction)
    assert first.box_status == "ok"
    assert second.box_text is not None and second.box_text.startswith('[{"bbox_2d": [')
    assert first.box is not None
    side = max(first.width, first.height)
    assert first.box[0] * side - (side - first.width) // 2 == pytest.approx(0.1 * first.width)


def test_native_wording_is_the_training_conversation() -> None:
    native = Wording(codec("viscot"), "native")
    prompt = FakeEngine().prompt
    text = prompt(native.answer("What?", "[0.1, 0.2, 0.3, 0.4]"))
    first = prompt(native.detection("What?"))
    assert text.startswith(first)
    assert text.endswith("</s>USER: <image> ASSISTANT:")


def test_refcoco_asks_once_and_measures(root: Path) -> None:
    engine = FakeEngine(lambda _: "[0.000, 0.000, 0.500, 0.500]")
    outcomes = ask_items(RefCoco, engine, load_refcoco(root).items, ["refcoco"])
    assert len(engine.prompts) == 12
    first = outcomes[0]
    assert isinstance(first, Prediction)
    assert first.answer is None and first.reference is None
    assert first.dataset == "refcoco_made/val"
    assert first.iou is not None and 0 <= first.iou <= 1


def test_questions_that_end_at_different_steps_come_as_they_are_finished(root: Path) -> None:
    """An image that cannot be read fails its question alone; all others are answered, each once."""
    (root / "cot" / "made" / "1.png").write_bytes(b"no image")
    items = load_visual_cot(root).items
    batches = [[Query(loaded, "zoom") for loaded in open_items(items[at : at + 5])] for at in (0, 5, 10)]
    outcomes = [
        outcome
        for part in answer_stream(VisualCot, {"zoom": {"looks": 2}}, FakeEngine(), batches, width=4)
        for outcome in part
    ]
    assert sorted(o.question_id for o in outcomes if isinstance(o, Prediction)) == sorted(
        item.question_id for item in items
    )
    failed = [o for o in outcomes if isinstance(o, Prediction) and not o.done]
    assert failed and all("1.png" in str(o.error) for o in failed)
    assert all(o.trace for o in outcomes if isinstance(o, Prediction) and o.done)
