"""A run folder keeps what is finished, through kills, second writers and changed settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from viscot_core.errors import DataError, UsageError
from viscot_core.runs.journal import BROKEN_FILE, Journal
from viscot_core.runs.records import PREDICTIONS_FILE, Prediction, RunInfo, read_predictions, read_run


def prediction(number: int, *, strategy: str = "cot", **changes: object) -> Prediction:
    values: dict[str, object] = {
        "strategy": strategy,
        "dataset": "synth",
        "question_id": number,
        "status": "done",
        "image": "cot/synth/val/1.jpg",
        "width": 640,
        "height": 480,
        "question": "What number is on the red card?",
        "reference": "17",
        "answer": "17",
        "box_text": "[0.100, 0.200, 0.300, 0.400]",
        "box_status": "ok",
        "box": (0.1, 0.2, 0.3, 0.4),
        "box_gt": (0.1, 0.2, 0.3, 0.5),
        "crop": (0, 0, 224, 224),
        "iou": 2 / 3,
        "seconds": 0.25,
    }
    return Prediction.model_validate({**values, **changes})


def info(**settings: object) -> RunInfo:
    return RunInfo(
        settings={"seed": 0, "engine": {"dtype": "float32"}, **settings}, planned={"cot": {"synth": 10}}
    )


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    with Journal(tmp_path / "run") as journal:
        journal.begin(info())
        journal.add([prediction(1), prediction(2, status="failed", error="no image", answer=None)])
        journal.add([prediction(3)])
    found = read_predictions(tmp_path / "run")
    assert [p.question_id for p in found] == [1, 2, 3]
    assert found[0] == prediction(1)
    assert found[1].error == "no image"
    assert read_run(tmp_path / "run").planned == {"cot": {"synth": 10}}


def test_lines_are_in_the_file_before_add_returns(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.begin(info())
        journal.add([prediction(1)])
        assert len(read_predictions(tmp_path)) == 1


@settings(deadline=None)
@given(cut=st.integers(1, len(prediction(2).to_line())))
def test_a_line_cut_short_anywhere_is_set_aside_and_redone(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("run")
    info().save(folder)
    whole, broken = prediction(1).to_line(), prediction(2).to_line()
    (folder / PREDICTIONS_FILE).write_bytes(whole + broken[: len(broken) - cut])
    with Journal(folder) as journal:
        assert journal.is_done(("cot", "synth", "1"))
        assert not journal.is_done(("cot", "synth", "2"))
        journal.begin(info())
        journal.add([prediction(2)])
    assert read_predictions(folder) == [prediction(1), prediction(2)]
    assert (folder / BROKEN_FILE).exists() == (cut < len(broken))


def test_a_failed_item_is_tried_again_and_the_later_line_counts(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.begin(info())
        journal.add([prediction(1, status="failed", error="timeout")])
        assert not journal.is_done(("cot", "synth", "1"))
        journal.add([prediction(1)])
        assert journal.is_done(("cot", "synth", "1"))
    assert read_predictions(tmp_path) == [prediction(1)]


def test_no_failure_of_another_rank_hides_an_answer(tmp_path: Path) -> None:
    """``slurm5_10`` sorts before ``slurm5_2``, which ran earlier."""
    info().save(tmp_path)
    failed = prediction(1, status="failed", error="timeout")
    (tmp_path / "predictions.slurm5_10_0-0.jsonl").write_bytes(prediction(1).to_line())
    (tmp_path / "predictions.slurm5_2_0-0.jsonl").write_bytes(failed.to_line())
    assert read_predictions(tmp_path) == [prediction(1)]
    with Journal(tmp_path) as journal:
        assert journal.is_done(("cot", "synth", "1"))
    assert read_predictions(tmp_path) == [prediction(1)]


def test_changed_settings_are_refused_and_shown(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.begin(info())
    with Journal(tmp_path) as journal, pytest.raises(UsageError) as refusal:
        journal.begin(info(seed=1, engine={"dtype": "bfloat16"}))
    assert "seed: 0 -> 1" in str(refusal.value)
    assert "engine.dtype: 'float32' -> 'bfloat16'" in str(refusal.value)


def test_a_run_that_never_began_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the model"), Journal(tmp_path / "a" / "b"):
        raise ValueError("the model cannot be loaded")
    assert not any(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    with Journal(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").is_dir()


def test_what_is_asked_may_grow(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.begin(info())
    more = info().model_copy(update={"planned": {"cot": {"synth": 4, "made": 2}, "direct": {"synth": 3}}})
    with Journal(tmp_path) as journal:
        assert journal.begin(more).planned == {"cot": {"synth": 10, "made": 2}, "direct": {"synth": 3}}


def test_settings_of_one_strategy_are_of_that_one_alone(tmp_path: Path) -> None:
    """A strategy with settings of its own may join a folder, and be left out of a later call."""
    cot, zoom = {"cot": {"synth": 10}}, {"zoom": {"synth": 10}}
    looks = {"looks": 3}
    calls = [(cot, info()), (zoom, info(zoom=looks)), (cot, info()), ({**cot, **zoom}, info(zoom=looks))]
    for planned, asked in calls:
        with Journal(tmp_path) as journal:
            journal.check(asked.model_copy(update={"planned": planned}))
            journal.begin(asked.model_copy(update={"planned": planned}))
    assert read_run(tmp_path).settings == info(zoom=looks).settings
    with Journal(tmp_path) as journal, pytest.raises(UsageError, match=r"zoom.looks: 3 -> 4"):
        journal.begin(info(zoom={"looks": 4}).model_copy(update={"planned": zoom}))
    with Journal(tmp_path) as journal, pytest.raises(UsageError, match=r"seed: 0 -> 1"):
        journal.begin(info(seed=1))


def test_a_second_writer_waits(tmp_path: Path) -> None:
    with Journal(tmp_path), pytest.raises(UsageError, match="Another process"), Journal(tmp_path):
        pass
    with Journal(tmp_path):
        pass


def test_damage_is_named_by_file_and_line(tmp_path: Path) -> None:
    (tmp_path / PREDICTIONS_FILE).write_bytes(prediction(1).to_line() + b'{"strategy": "cot"}\n')
    with pytest.raises(DataError, match=r"predictions.jsonl:2: dataset: Field required"):
        read_predictions(tmp_path)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a run folder"):
        read_run(tmp_path)
    with pytest.raises(UsageError, match="has no predictions"):
        read_predictions(tmp_path)
    (tmp_path / PREDICTIONS_FILE).write_bytes(prediction(1).to_line())
    with pytest.raises(UsageError, match=r"no run.json"), Journal(tmp_path):
        pass
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(DataError, match="damaged"), Journal(tmp_path):
        pass


def test_images_that_are_found_later_are_missing_no_more(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.begin(info().model_copy(update={"missing": {"synth": 3, "made": 1}}))
    with Journal(tmp_path) as journal:
        assert journal.begin(info()).missing == {"made": 1}
