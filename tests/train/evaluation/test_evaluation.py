"""Figures while training: on any number of processes, after a kill, and without changing what is learned."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from made_job import evaluated, held_out_data, job

from viscot_core.engines.transformers.engine import LocalEngine
from viscot_core.errors import DataError, PartlyDone
from viscot_core.train import worker
from viscot_core.train.evaluation.record import best_of
from viscot_core.train.loop.trainer import StageTrainer

pytestmark = pytest.mark.slow
STAGE = "stages/1-finetune"


def evaluations(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / STAGE / "evaluations.jsonl").read_text().splitlines()]


def losses(run: Path) -> dict[int, float]:
    lines = map(json.loads, (run / STAGE / "log.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return held_out_data(tmp_path_factory.mktemp("held_out"))


def started(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process, from its first step to its last."""
    return worker.run(started(tmp_path_factory.mktemp("whole") / "run"), evaluated(data))


def test_the_log_has_loss_answers_and_boxes_of_every_evaluation(whole: Path) -> None:
    found = evaluations(whole)
    assert [line["step"] for line in found] == [0, 2, 4]
    for line in found:
        assert line["eval_rows"] == 7 and line["eval_questions"] == 6 and "eval_failed" not in line
        assert line["eval_answers_low"] < line["eval_answers"] <= line["eval_answers_high"]
        assert line["eval_box_low"] < line["eval_box_high"] and line["eval_box_of"] == 6
    assert found[0]["eval_loss"] != found[-1]["eval_loss"]
    logged = [json.loads(line) for line in (whole / STAGE / "log.jsonl").read_text().splitlines()]
    assert [line["eval_loss"] for line in logged if "eval_loss" in line] == [x["eval_loss"] for x in found]


def test_the_figures_are_those_of_the_finished_model(whole: Path, data: Path, tmp_path: Path) -> None:
    """`viscot bench` of the model that was written says what the last evaluation said."""
    from viscot_core.engines.open import EngineOptions, open_engine
    from viscot_core.runs.answering import answer_queries
    from viscot_core.runs.opening import Query, open_items
    from viscot_core.tasks.visual_cot.task import VisualCot
    from viscot_core.train.evaluation.held_out import spread
    from viscot_core.train.evaluation.questions import questions_of

    asked = questions_of(data / "held_out.jsonl", data)
    chosen = [asked[number] for number in spread(len(asked), 6)]
    engine = open_engine(EngineOptions(str(whole)), codec=None)
    queries = [Query(each, "cot") for each in open_items([item for item, _ in chosen])]
    settings = {"box_format": "viscot", "max_new_tokens": 32}
    records = answer_queries(VisualCot, settings, engine, queries)
    ious = [record.iou for record in records if hasattr(record, "iou") and record.iou is not None]
    assert sum(ious) / 6 == pytest.approx(evaluations(whole)[-1]["eval_iou"], abs=1e-6)


def test_evaluating_does_not_change_what_is_learned(whole: Path, data: Path, tmp_path: Path) -> None:
    without = worker.run(started(tmp_path / "run"), evaluated(data, eval=None))
    assert losses(without) == losses(whole)


@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8, "dropout": 0.0}])
def test_questions_are_asked_in_the_precision_of_the_steps_and_share_the_image(
    lora: dict[str, Any] | None, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside adapters and in packed stages too, whose layers have an attention of their own."""
    generate, found = LocalEngine.generate, set[tuple[torch.dtype, bool]]()

    def watched(self: LocalEngine, *given: Any, **more: Any) -> Any:
        weight = self.model.get_input_embeddings().weight
        found.add(((weight @ weight[0]).dtype, self.prefix is not None))
        return generate(self, *given, **more)

    monkeypatch.setattr(LocalEngine, "generate", watched)
    stage = {"precision": "bf16", "packing": True, "group_by": "none", "lora": lora, "max_steps": 2}
    worker.run(started(tmp_path / "run"), evaluated(data, **stage))
    assert found == {(torch.bfloat16, True)}


def test_a_killed_run_goes_on_with_the_same_log_and_the_same_best(
    whole: Path, data: Path, tmp_path: Path
) -> None:
    """Killed after the evaluation of step 4, whose checkpoint was not written any more."""
    run = shutil.copytree(whole, tmp_path / "run")
    for name in ("viscot.json", "config.json", "model.safetensors"):
        (run / name).unlink()
    shutil.rmtree(run / STAGE / "model")
    shutil.rmtree(run / STAGE / "checkpoint-4")
    worker.run(run, evaluated(data))
    assert evaluations(run) == evaluations(whole)
    assert best_of(run / STAGE) == best_of(whole / STAGE)
    best = (run / STAGE / "best/model.safetensors", whole / STAGE / "best/model.safetensors")
    assert best[0].read_bytes() == best[1].read_bytes()


def test_a_run_that_is_told_to_stop_saves_first_and_is_evaluated_when_it_goes_on(
    whole: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An evaluation takes minutes, and between SIGTERM and SIGKILL there are seconds."""
    take, run = StageTrainer.get_batch_samples, started(tmp_path / "run")

    def told_in_the_second_step(self: Any, *given: Any) -> Any:
        if self.state.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(self, *given)

    with monkeypatch.context() as patch, pytest.raises(PartlyDone):
        patch.setattr(StageTrainer, "get_batch_samples", told_in_the_second_step)
        worker.run(run, evaluated(data))
    assert (run / STAGE / "checkpoint-2/complete.json").exists()
    assert [line["step"] for line in evaluations(run)] == [0]
    worker.run(run, evaluated(data))
    assert evaluations(run) == evaluations(whole) and best_of(run / STAGE) == best_of(whole / STAGE)


def test_the_best_model_answers(whole: Path) -> None:
    from viscot_core.models.load import load_model

    best = best_of(whole / STAGE)
    figures = {line["step"]: line["eval_iou"] for line in evaluations(whole)}
    assert best is not None and best.value == max(figures.values()) == figures[best.step]
    assert load_model(whole / STAGE / "best").manifest.template == "tiny"


def test_a_figure_that_does_not_get_better_ends_the_stage(data: Path, tmp_path: Path) -> None:
    spec = {"file": "held_out.jsonl", "steps": 1, "questions": 0, "patience": 1}
    recipe = evaluated(data, learning_rate=0.5, max_steps=30, eval=spec)
    run = worker.run(started(tmp_path / "run"), recipe)
    found = [line["eval_loss"] for line in evaluations(run)]
    assert 2 <= len(found) < 30 and found[-1] >= min(found[:-1])
    assert (run / "viscot.json").exists()


def test_a_held_out_row_that_is_trained_on_stops_the_run_with_counts(data: Path, tmp_path: Path) -> None:
    rows = (data / "held_out.jsonl").read_text() + (data / "chain.jsonl").read_text()[:2000].splitlines()[0]
    (tmp_path / "both.jsonl").write_text(rows + "\n")
    spec = {"file": str(tmp_path / "both.jsonl"), "questions": 0}
    with pytest.raises(DataError, match=r"1 of 8 held-out rows are also in the training files"):
        worker.run(started(tmp_path / "run"), evaluated(data, eval=spec))
    assert not (tmp_path / "run" / STAGE / "log.jsonl").exists()


@pytest.mark.multiprocess
@pytest.mark.parametrize("mode", ["eval-ddp", "eval-zero2", "eval-zero3"])
def test_two_processes_find_what_one_finds(mode: str, whole: Path, data: Path, tmp_path: Path) -> None:
    job(2, data, tmp_path, [mode])
    for two, one in zip(evaluations(tmp_path / mode), evaluations(whole), strict=True):
        assert two.keys() == one.keys()
        assert two == pytest.approx(one, abs=2e-3)
    assert best_of(tmp_path / mode / STAGE) is not None
