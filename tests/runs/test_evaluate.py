"""Any task is evaluated and shown: what a new one needs is its module and its line in the table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from made_bench import FakeEngine, speak

import viscot_core.runs
from viscot_core.boxes.formats import Codec
from viscot_core.engines.open import EngineOptions
from viscot_core.images.view import crop
from viscot_core.policies.base import Answer, Look, Question, Step, answer_step
from viscot_core.policies.wording import Wording
from viscot_core.runs.audit.audit_task import Audit
from viscot_core.runs.audit.recorded import Recorded
from viscot_core.runs.evaluate import evaluate
from viscot_core.runs.records import read_predictions, read_run
from viscot_core.runs.replay import replay_item
from viscot_core.tasks import registry
from viscot_core.tasks.base import Benchmark, Facts, Item, Settings, Strategy, wording_of
from viscot_core.tasks.visual_cot.task import VisualCot, load_visual_cot

OPTIONS = EngineOptions(model="made", box_format="viscot")


@dataclass(frozen=True)
class Twice:
    """Two looks, the second inside the first; only then the answer."""

    wording: Wording
    name: str = "twice"

    def start(self, question: Question) -> Step:
        messages = self.wording.detection(question.text)
        return Step(question, messages, question.images, answers=False)

    def next(self, step: Step, text: str) -> Step | Answer:
        if step.answers:
            return Answer(text, step.question.size, step.looks, self.name)
        size = step.question.size
        parsed = self.wording.codec.parse(text, size)
        looks = (*step.looks, Look(parsed.box, text, size, parsed.status, (0, 0, 20, 20)))
        if len(looks) == 1:
            return Step(
                step.question, self.wording.detection("And there?"), step.images, looks, answers=False
            )
        images = (*step.images, crop(step.images[0], (0, 0, 20, 20)))
        return answer_step(step.question, self.wording.answer(step.question.text, text), images, looks)


@dataclass(frozen=True)
class Made:
    """A task of another kind, with a metric of its own."""

    kind: ClassVar[str] = "made"
    all_strategies: ClassVar[Mapping[str, Strategy]] = {
        "twice": Strategy(
            "twice", "look twice", lambda settings: Twice(wording_of(settings)), asks_for_box=True
        )
    }

    data: Path
    strategies: tuple[str, ...] = ("twice",)

    def load(self) -> Benchmark:
        return load_visual_cot(self.data)

    def settings(self, codec: Codec | None) -> dict[str, Any]:
        return {"box_format": codec.name, "depth": 2}

    @staticmethod
    def metrics(item: Item, answer: Answer, settings: Settings) -> Facts:
        return {"answer": f"{answer.text} after {len(answer.looks)} looks", "box_text": answer.box_text}


def test_a_new_task_needs_no_change_here(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine(lambda prompt: "[0.1, 0.1, 0.5, 0.5]" if "there?" in prompt else speak(prompt))
    monkeypatch.setattr("viscot_core.runs.evaluate.open_engine", lambda *_, **__: engine)
    monkeypatch.setattr("viscot_core.runs.evaluate.weights_hash", lambda _: "0")
    monkeypatch.setitem(registry.TASKS, "made", Made)
    info, tally = evaluate(Made(root), EngineOptions(), tmp_path / "run")
    assert (info.kind, tally.finished, info.settings["depth"]) == ("made", 12, 2)
    assert all((p.answer or "").endswith("after 2 looks") for p in read_predictions(tmp_path / "run"))
    (shown,) = replay_item(tmp_path / "run", "made:9")
    assert shown.prompts[0] in engine.prompts
    evaluate(Made(root), EngineOptions(), tmp_path / "run")
    # The second step is the same for both questions of an image: 12 + 6 + 12. The second call asks nothing.
    assert len(engine.prompts) == 30


def test_no_module_here_names_a_task() -> None:
    """``runs`` is the same for every task; only the format has a default, for a folder that says nothing."""
    folder = Path(viscot_core.runs.__path__[0])
    found = {
        (path.name, line.strip())
        for path in folder.glob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"""["'](cot|refcoco|vqa|general)["']""", line)
    }
    assert found == {("records.py", 'kind: str = "cot"')}


def test_what_is_on_record_is_enough_to_go_on(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished run is concluded without an engine, and says the same."""
    monkeypatch.setattr("viscot_core.runs.evaluate.open_engine", lambda *_, **__: FakeEngine())
    monkeypatch.setattr("viscot_core.runs.evaluate.weights_hash", lambda _: "0")
    before, _ = evaluate(Made(root), EngineOptions(), tmp_path)
    monkeypatch.setattr("viscot_core.runs.evaluate.open_engine", lambda *_, **__: pytest.fail("opened"))
    after, tally = evaluate(Made(root), EngineOptions(), tmp_path)
    assert tally.finished == 0
    assert read_run(tmp_path) == after
    assert after.settings == before.settings


def test_a_run_goes_on_with_the_kernels_it_was_begun_with(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new one is fused, one from before there were fused kernels is not; so is its audit."""
    asked: list[bool] = []
    said = "[0.1, 0.1, 0.5, 0.5]"
    engine = FakeEngine(lambda prompt: said if "bounding box" in prompt else speak(prompt))
    plain, fused = engine.identity, {**engine.identity, "kernels": "fused"}

    def opened(*_: object, fused: bool, **__: object) -> FakeEngine:
        asked.append(fused)
        engine.identity = {**plain, **({"kernels": "fused"} if fused else {})}
        return engine

    monkeypatch.setattr("viscot_core.runs.evaluate.open_engine", opened)
    monkeypatch.setattr("viscot_core.runs.evaluate.weights_hash", lambda _: "0")
    for name, identity in (("new", fused), ("old", plain)):
        run = tmp_path / name
        evaluate(VisualCot(root, ("cot",)), OPTIONS, run)
        assert asked == [True]
        info = read_run(run)
        info.model_copy(update={"settings": {**info.settings, "engine": identity}}).save(run)
        asked.clear()
        evaluate(VisualCot(root, ("cot", "direct")), OPTIONS, run)
        evaluate(Audit(Recorded(run), ("blank",)), OPTIONS, tmp_path / f"{name} audit")
        assert asked == [identity == fused] * 2
        assert read_run(tmp_path / f"{name} audit").settings["engine"] == identity
        asked.clear()
