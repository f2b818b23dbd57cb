"""The reference's result files: its tables digit for digit, and the right figures beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from viscot_core.boxes.geometry import Box, Frame
from viscot_core.errors import DataError, UsageError
from viscot_core.report.analysis import analyse
from viscot_core.report.reference.printed_tables import reference_hit, reference_tables
from viscot_core.report.reference.results import is_reference_results, read_reference_results


@pytest.fixture(scope="module")
def golden(shared: Path) -> Path:
    return shared / "golden" / "scoring"


def expected(path: Path) -> str:
    """What the reference printed, without its echoed command lines and its shell's errors."""
    lines = json.loads(path.read_text())["stdout"].splitlines()
    return "\n".join(line for line in lines if not line.startswith(("python ", "Error running"))).strip()


@pytest.mark.parametrize(
    "name", ["cot_get_result", "cot_get_result_empty_list", "cot_detection_get_result", "refcoco_get_result"]
)
def test_the_references_tables_digit_for_digit(golden: Path, name: str) -> None:
    (run,) = read_reference_results(golden / f"{name}.json")
    assert reference_tables(run) == expected(golden / f"{name}.json")


@pytest.mark.parametrize("name", ["clean", "mixed", "odd", "all_wrong", "iou_edge"])
def test_the_references_accuracy_of_one_file(golden: Path, name: str) -> None:
    printed = json.loads((golden / "calculation_outputs.json").read_text())["files"][name]["stdout"]
    accuracy, correct, total = printed.splitlines()[-1].split()
    (run,) = read_reference_results(golden / "detection" / f"{name}.jsonl")
    hits = [reference_hit(item) is True for item in run.items]
    assert (sum(hits), len(hits)) == (int(correct), int(total))
    assert sum(hits) / len(hits) == float(accuracy)


def test_row_by_row(golden: Path, tmp_path: Path) -> None:
    rows = json.loads((golden / "calculation_outputs.json").read_text())["per_row"]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(r["row"]) + "\n" for r in rows))
    (run,) = read_reference_results(file)
    for item, row in zip(run.items, rows, strict=True):
        hit = reference_hit(item)
        assert (hit is True) == bool(row["correct"]), row
        assert (hit is None) == row["malformed_printed"], row


def test_the_default_mode_repairs_what_the_reference_calls_malformed(golden: Path) -> None:
    """``[0.1,0.2,0.3,0.4]``, ``[.1, .2, .3, .4]`` and boxes among words are boxes; ``No`` is not."""
    (run,) = read_reference_results(golden / "detection" / "odd.jsonl")
    status = {i.prediction.box_text: i.prediction.box_status for i in run.items}
    for text in ("[0.1,0.2,0.3,0.4]", "[.1, .2, .3, .4]", "The box is [0.1, 0.2, 0.3, 0.4]"):
        assert status[text] == "repaired"
    assert status["No"] == status["[0.1, 0.2, 0.3]"] == "unparsable"
    boxes = analyse(run).boxes["cot"].overall
    assert boxes.acc50 is not None
    assert boxes.acc50 > sum(reference_hit(i) is True for i in run.items) / len(run.items)


def test_the_default_average_keeps_zeros_and_leaves_out_what_is_missing(golden: Path) -> None:
    (detection,) = read_reference_results(golden / "cot_detection_get_result.json")
    boxes = analyse(detection).boxes["cot"]
    assert boxes.groups["cub"].acc50 == 0
    assert boxes.groups["openimages"].acc50 is None
    found = [g.acc50 for g in boxes.groups.values() if g.acc50 is not None]
    assert len(found) == 9
    assert boxes.overall.acc50 == pytest.approx(sum(found) / 9)

    (answers,) = read_reference_results(golden / "cot_get_result.json")
    gt_box = analyse(answers).answers["gt-box"]
    assert "vsr" not in gt_box.groups
    means = [g.mean for g in gt_box.groups.values() if g.mean is not None]
    assert gt_box.overall.mean == pytest.approx(sum(means) / 10)
    assert gt_box.overall.mean > 0.456  # what the reference prints, with vsr as 0


def test_an_empty_list_is_no_nan(golden: Path) -> None:
    (run,) = read_reference_results(golden / "cot_get_result_empty_list.json")
    direct = analyse(run).answers["direct"]
    assert direct.groups["gqa"].mean is None
    assert direct.overall.mean == pytest.approx(sum(g.mean or 0 for g in direct.groups.values()) / 10)


def test_its_results_folder(tmp_path: Path) -> None:
    scores = tmp_path / "scores" / "cot" / "docvqa"
    scores.mkdir(parents=True)
    (scores / "7b.json").write_text(
        json.dumps([{"question_id": 1, "score": 1.0}, {"question_id": 2, "score": 0.0}])
    )
    row = {"text": "[0.000, 0.000, 1.000, 1.000]", "bbox": [0, 0, 50, 50], "width": 50, "height": 50}
    for folder in ("detection/docvqa", "REC_refcoco+_unc_testA/results"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "7b.jsonl").write_text(json.dumps(row) + "\n")
    assert is_reference_results(tmp_path)
    runs = {run.name: run for run in read_reference_results(tmp_path)}
    assert set(runs) == {"7b answers", "7b detection", "7b refcoco"}
    assert analyse(runs["7b answers"]).answers["cot"].overall.mean == 0.5
    assert analyse(runs["7b detection"]).boxes["cot"].overall.acc50 == 1
    assert list(analyse(runs["7b refcoco"]).boxes["refcoco"].groups) == ["refcoco+/testA"]
    assert "Accuracy for docvqa: 100.00, Error format: 1" in reference_tables(runs["7b detection"])


def test_a_box_half_inside_the_padding_uses_the_references_whole_pixel_offset(tmp_path: Path) -> None:
    row = {"text": "[0.0, 0.178, 1.0, 0.812]", "bbox": [0, 0, 101, 64], "height": 64, "width": 101}
    (tmp_path / "r.jsonl").write_text(json.dumps(row))
    (run,) = read_reference_results(tmp_path / "r.jsonl")
    assert run.items[0].prediction.box_gt == Box(0, 0, 101, 64, Frame.ORIGINAL).to_square((101, 64)).coords


@pytest.mark.parametrize("content", ["", "{}", "[1", '{"scores": 3}', '{"inputs": {"cub": [{"text": "x"}]}}'])
def test_other_files_are_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(content)
    with pytest.raises(DataError, match=r"x\.json"):
        read_reference_results(file)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        read_reference_results(tmp_path)
