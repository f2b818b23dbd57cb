"""An audit replays a run's talks with the crops replaced: through the same rollout, into the same journal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_readers import CROP, ReadingEngine, always, half, write_painted_root

from viscot_core.engines.base import Request, Sampling
from viscot_core.engines.open import EngineOptions
from viscot_core.errors import EngineError, UsageError
from viscot_core.images.view import GREY
from viscot_core.openai_api.options import ApiOptions
from viscot_core.policies.replaced import REPLACEMENTS
from viscot_core.policies.zoom_settings import ZoomSettings
from viscot_core.runs.audit.audit_task import Audit
from viscot_core.runs.audit.recorded import Recorded
from viscot_core.runs.evaluate import evaluate
from viscot_core.runs.records import Prediction, read_predictions, read_run
from viscot_core.tasks.visual_cot.task import VisualCot

COUNT = 6
OPTIONS = EngineOptions(model="made", box_format="viscot")


class Made:
    """A painted root, its run under ``cot`` or ``zoom``, and the engine that answers."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, strategy: str = "cot", **engine: Any
    ) -> None:
        self.root, boxes = write_painted_root(folder / "data", COUNT)
        self.engine = ReadingEngine(boxes, always)
        vars(self.engine).update(engine)
        monkeypatch.setattr("viscot_core.runs.evaluate.open_engine", lambda *_, **__: self.engine)
        monkeypatch.setattr("viscot_core.runs.evaluate.weights_hash", lambda _: "0")
        self.run = folder / "run"
        task = VisualCot(self.root, (strategy,), protocol="native", zoom=ZoomSettings(looks=1))
        evaluate(task, OPTIONS, self.run)
        self.engine.requests.clear()
        self.out = folder / "audit"

    def audit(self, *by: str, **options: object) -> dict[tuple[str, str], Prediction]:
        evaluate(Audit(Recorded(self.run), by, **options), OPTIONS, self.out)  # type: ignore[arg-type]
        return {(p.strategy, str(p.question_id)): p for p in read_predictions(self.out)}


@pytest.fixture(params=["cot", "zoom"])
def made(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    return Made(tmp_path, monkeypatch, request.param)


def test_every_replacement_shows_what_it_says(made: Made) -> None:
    found = made.audit(*REPLACEMENTS)
    name = next(strategy for strategy, _ in found if ":" not in strategy and strategy != "direct")
    run = {str(p.question_id): p for p in read_predictions(made.run)}
    for number, answered in run.items():
        assert found[name, number] == answered, "the run's own answers stand beside the replays"
        same = found[f"{name}:same", number]
        assert (same.answer, same.crop) == (answered.answer, answered.crop)
        assert found[f"{name}:gt", number].answer == answered.answer == answered.reference
        for by in ("none", "blank", "noise"):
            replay = found[f"{name}:{by}", number]
            assert replay.answer != answered.answer
            assert replay.crop is None, "no part of the image was shown"
            assert replay.box == answered.box, "the region is the one that the run named"
            if replay.trace is not None and by != "none":
                assert [look["replaced"] for look in replay.trace["looks"]] == [by]
        other = found[f"{name}:other", number].answer
        assert other is not None and other.startswith("code")
        assert found[f"{name}:alone", number].answer == answered.answer
        assert found["direct", number].answer != answered.answer
    # Every item's words up to its look are on record: nobody is asked where to look again.
    assert all(any(m.role == "assistant" for m in r.messages) for r in _with_crops(made.engine.requests))
    shown = [request.images[-1].image for request in _with_crops(made.engine.requests)]
    assert {image.size for image in shown} == {(CROP, CROP)}
    assert sum(image.getcolors(9) == [(CROP * CROP, GREY)] for image in shown) == COUNT


def _with_crops(requests: list[Request]) -> list[Request]:
    return [request for request in requests if len(request.images) > 1]


def test_it_continues_where_it_ended(made: Made) -> None:
    asked = made.engine.generate
    calls = 0

    def gone(requests: list[Request]) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise EngineError("gone")
        return asked(requests)

    made.engine.generate = gone  # type: ignore[method-assign, assignment]
    with pytest.raises(EngineError):
        made.audit("blank", "noise")
    made.engine.generate = asked  # type: ignore[method-assign]
    first = len(made.engine.requests)
    assert 0 < first < 4 * COUNT
    found = made.audit("blank", "noise")
    # the run's own, two replacements, the crop alone, no look
    assert len(found) == 5 * COUNT and read_run(made.out).counts["done"] == 5 * COUNT
    assert len(made.engine.requests) == 4 * COUNT, "what was answered is not asked again"
    before = len(made.engine.requests)
    made.audit("blank", "noise")
    assert len(made.engine.requests) == before
    made.audit("blank", "noise", "none")
    assert len(made.engine.requests) == before + COUNT, "a further replacement joins the folder"
    with pytest.raises(UsageError, match=r"audit\.seed: 0 -> 1"):
        made.audit("blank", seed=1)


def test_another_model_is_refused(made: Made) -> None:
    made.engine.identity = {"engine": "reading", "weights": "1"}
    with pytest.raises(UsageError, match="weights: '0' -> '1'"):
        made.audit("blank")
    assert made.engine.requests == []


def test_a_server_that_moved_is_the_runs_where_the_user_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(tmp_path, monkeypatch, identity={"engine": "api", "url": "http://one/v1"})
    made.engine.identity = {"engine": "api", "url": "http://two/v1"}
    with pytest.raises(UsageError, match=r"model of the run, as the run did.*add --same-engine"):
        made.audit("blank")
    same = replace(OPTIONS, api=ApiOptions(same_engine=True))
    _, tally = evaluate(Audit(Recorded(made.run), ("blank",)), same, made.out)
    assert tally.finished == 4 * COUNT
    made.engine.identity = {"engine": "api", "url": "http://two/v1", "model": "another"}
    with pytest.raises(UsageError, match="model"):
        evaluate(Audit(Recorded(made.run), ("noise",)), same, made.out)


def test_a_name_that_is_given_twice_is_one(made: Made) -> None:
    (name,) = Recorded(made.run).audited
    task = Audit(Recorded(made.run, (name, name)), ("blank", "blank"), compares=False)
    assert task.strategies == (name, f"{name}:blank")
    assert len(task.load().items) == COUNT


def test_a_run_of_other_sampling_is_refused_in_a_sentence(made: Made) -> None:
    info = read_run(made.run)
    assert Recorded(made.run).sampling.greedy, "a run that does not say it is greedy"
    for told, sampling in (("t=0.7,p=0.9,s=-3", Sampling(0.7, 0.9, -3)), ("greedy", Sampling())):
        info.model_copy(update={"settings": {"engine": {"sampling": told}}}).save(made.run)
        assert Recorded(made.run).sampling == sampling
    info.model_copy(update={"settings": {"engine": {"sampling": "beam"}}}).save(made.run)
    with pytest.raises(UsageError, match="the sampling 'beam'"):
        _ = Recorded(made.run).sampling


def test_bad_requests_are_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--replace"):
        Audit(Recorded(made.run), ("blnk",))
    with pytest.raises(UsageError, match="No replacement"):
        Audit(Recorded(made.run), ())
    with pytest.raises(UsageError, match="--strategy"):
        Recorded(made.run, ("direct",))
    made.audit("blank")
    with pytest.raises(UsageError, match="an audit itself"):
        Audit(Recorded(made.out), ("blank",))
    direct = tmp_path / "direct"
    evaluate(VisualCot(made.root, ("direct",), protocol="native"), OPTIONS, direct)
    with pytest.raises(UsageError, match="No answer of"):
        Audit(Recorded(direct), ("blank",))


def test_the_seed_draws_regions_and_other_items(made: Made) -> None:
    def seen(out: str, seed: int = 0) -> tuple[list[tuple[object, ...]], list[bytes]]:
        made.out = made.out.with_name(out)
        made.engine.requests.clear()
        found = made.audit("random", "other", seed=seed)
        shown = [request.images[-1].image.tobytes() for request in made.engine.requests]
        return [(key, p.answer, p.crop) for key, p in found.items()], shown

    assert seen("one") == seen("two")
    assert seen("one", 0)[0] != seen("three", 3)[0]


def test_a_model_that_reads_half_of_its_crops(made: Made) -> None:
    made.engine._reads = half
    found = made.audit("same")
    wrong = [p for (name, _), p in found.items() if name.endswith(":same") and p.answer != p.reference]
    assert 0 < len(wrong) < COUNT


def test_samples_without_a_look_are_drawn_apart(made: Made) -> None:
    found = made.audit("blank", samples=3, compares=False, temperature=0.7)
    drawn = [request.sampling for request in made.engine.requests if request.sampling is not None]
    assert len(drawn) == 3 * COUNT and {each.temperature for each in drawn} == {0.7}
    assert {each.seed for each in drawn} == {1, 2, 3}
    assert {name for name, _ in found if name.startswith("direct")} == {"direct:1", "direct:2", "direct:3"}
    # They begin with the question: nothing of the run's talks is in them.
    assert all(len(r.messages) == 1 and len(r.images) == 1 for r in made.engine.requests if r.sampling)
    with pytest.raises(UsageError, match="--temperature"):
        Audit(Recorded(made.run), ("blank",), samples=5, temperature=0)
