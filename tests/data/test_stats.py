"""``data stats`` and ``data show`` from the inside: kinds, areas, shared images, prompts in spans."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from viscot_core.conversation import cot_turns
from viscot_core.data.annotations import Conversation, DetectionRow, MetadataRow, RefcocoRow
from viscot_core.data.encode import training_turns
from viscot_core.data.stats import Shared, file_stats, kind_of, shared_images
from viscot_core.errors import DataError
from viscot_core.families.table import text_template


def test_files_are_told_apart_by_their_first_row(shared: Path) -> None:
    kinds = {
        "benchmark": Conversation,
        "benchmark_det": DetectionRow,
        "metadata": MetadataRow,
        "refcoco": RefcocoRow,
    }
    for folder, kind in kinds.items():
        for path in (shared / "reference_data" / folder).iterdir():
            assert kind_of(path) is kind


def test_real_files_are_counted(shared: Path) -> None:
    facts = json.loads((shared / "golden" / "benchmark_facts.json").read_text())
    for path in sorted((shared / "reference_data" / "benchmark").glob("*.json")):
        stats = file_stats(path)
        regions = file_stats(path.parent.parent / "benchmark_det" / f"{path.stem}.jsonl")
        assert stats.rows == regions.rows == facts[path.stem]["rows"]
        assert stats.is_benchmark and regions.is_benchmark
        # Both files say the same regions, one in words of three decimals and one in pixels.
        assert sum(stats.histogram()) >= 0.9 * stats.rows
        assert abs(sum(stats.areas) / len(stats.areas) - sum(regions.areas) / len(regions.areas)) < 0.01


@pytest.mark.parametrize("text", ["", "[]", '[{"a": 1}]'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match="contains no rows that viscot knows"):
        kind_of(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("words")
    with pytest.raises(DataError, match="the first row is not valid JSON"):
        kind_of(tmp_path / "a.json")


def test_images_in_train_and_bench_are_found(tmp_path: Path) -> None:
    (tmp_path / "benchmark").mkdir()
    turns = [{"from": "gpt", "value": "[0.000, 0.000, 0.500, 0.500]"}]

    def write(path: Path, *images: str) -> Path:
        path.write_text(json.dumps([{"id": 1, "image": image, "conversations": turns} for image in images]))
        return path

    bench = write(tmp_path / "benchmark/a.json", "x/1.jpg", "x/2.jpg###[1, 2, 3, 4]")
    train, other = write(tmp_path / "t.json", "x/2.jpg", "x/3.jpg"), write(tmp_path / "o.json", "x/9.jpg")
    found = [file_stats(path) for path in (train, other, bench)]
    assert shared_images(found) == [Shared(train, bench, same_path=1, same_name=1, of=2)]
    assert found[0].data_sets == {"x": 2} and found[0].areas.tolist() == [0.25, 0.25]
    assert found[0].histogram() == [0, 0, 0, 0, 0, 2, 0]


def test_one_image_under_two_names_is_found(tmp_path: Path) -> None:
    (tmp_path / "refcoco").mkdir()
    bench, train = tmp_path / "refcoco/REC_a.jsonl", tmp_path / "t.json"
    facts = {"expression": "e", "bbox": [0, 0, 9, 9], "height": 9, "width": 9, "dataset_name": "d"}
    names = ["COCO_train2014_000000000009.jpg", "COCO_train2014_000000000008.jpg"]
    rows = [facts | {"img_path": name, "image_id": 1, "sent_id": 1} for name in names]
    bench.write_text("".join(json.dumps(row) + "\n" for row in rows))
    talk = [{"from": "gpt", "value": "a"}]
    train.write_text(
        json.dumps([{"id": 1, "image": "coco/train2017/000000000009.jpg", "conversations": talk}])
    )
    found = [file_stats(bench), file_stats(train)]
    assert shared_images(found) == []
    assert shared_images(found, ["COCO_train2014_"]) == [Shared(train, bench, 0, 1, 2)]


def test_spans_show_what_is_supervised() -> None:
    row = Conversation(
        image=("a", "a###[1, 2, 3, 4]"), turns=cot_turns("Who?", "[0.1, 0.2, 0.3, 0.4]", "Nobody")
    )
    spans = text_template("vicuna_v1").spans(training_turns(row.turns))
    whole = "".join(text for text, _ in spans)
    assert whole.startswith("A chat between") and whole.endswith("USER: <image> ASSISTANT: Nobody</s>")
    assert [text for text, said in spans if said] == [" [0.1, 0.2, 0.3, 0.4]</s>", " Nobody</s>"]
    assert [text for text, _ in spans].count("<image>") == 2
