"""The preflight: bad samples are named before step 0, the first good one is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_processors import small_processor
from PIL import Image

from viscot_core.conversation import BOX_REQUEST
from viscot_core.data.mix import build, sources_of
from viscot_core.errors import DataError
from viscot_core.families.llava.processor import ChatProcessor
from viscot_core.train.loop.preflight import CLOSE, OPEN, preflight, require


@pytest.fixture(scope="module")
def processor() -> ChatProcessor:
    return small_processor()


def rows(folder: Path, *answers: str, image: str = "a.png", question: str = "<image>\nWhat?") -> Path:
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    found = [
        {"id": f"r{n}", "image": image, "conversations": [
            {"from": "human", "value": question}, {"from": "gpt", "value": answer}]}
        for n, answer in enumerate(answers)
    ]  # fmt: skip
    path = folder / "rows.json"
    path.write_text(json.dumps(found))
    return path


def look(path: Path, processor: ChatProcessor, length: int = 200) -> Any:
    return preflight([path], path.parent, processor, max_length=length, count=10)


def test_the_first_sample_is_shown_with_what_is_supervised(tmp_path: Path, processor: ChatProcessor) -> None:
    report = look(rows(tmp_path, "a cat", "a dog"), processor)
    assert report.looked_at == 2 and not report.bad
    assert f"{OPEN} a cat</s>{CLOSE}" in report.sample and report.sample.count("<image>") == 1
    require(report, 0)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"image": "gone.png"}, "gone.png"),
        ({"question": "no mark"}, "0 <image> marks for 1 images"),
        ({"question": "<image> <image> twice"}, "2 <image> marks for 1 images"),
        ({"length": 60, "answers": ("w " * 60,)}, "its answer is cut at 60"),
        ({"length": 20, "answers": ("word",)}, "no supervised token in 20"),
    ],
)
def test_bad_samples_stop_the_run_by_name(
    change: dict[str, Any], told: str, tmp_path: Path, processor: ChatProcessor
) -> None:
    change = dict(change)
    length, answers = change.pop("length", 200), change.pop("answers", ("fine",))
    report = look(rows(tmp_path, *answers, **change), processor, length)
    assert len(report.bad) == 1 and told in report.bad[0] and "rows.json, row 0" in report.bad[0]
    with pytest.raises(DataError, match="--allow-bad 1"):
        require(report, 0)
    require(report, 1)


def test_every_source_of_a_mixture_is_looked_at(tmp_path: Path, processor: ChatProcessor) -> None:
    (tmp_path / "few").mkdir()
    few = rows(tmp_path / "few", "fine", image="gone.png").rename(tmp_path / "few.json")
    sources = sources_of([rows(tmp_path, *["fine"] * 50), few], {})
    build(tmp_path / "mix", sources)
    report = preflight([tmp_path / "mix"], tmp_path, processor, max_length=200, count=5)
    assert report.looked_at == 6 and len(report.bad) == 1 and "gone.png" in report.bad[0]


def test_boxes_of_another_format_stop_the_run(tmp_path: Path, processor: ChatProcessor) -> None:
    """All boxes in pixels: the model would learn to write what cannot be read."""
    question = f"<image>\nWhat? {BOX_REQUEST}"
    told = r"rows\.json: box format 3 times; first, row 0 \(id r0\).*convert-boxes"
    with pytest.raises(DataError, match=told):
        look(rows(tmp_path, *["[40, 60, 120, 160]"] * 3, question=question), processor)
    right = ["[0.100, 0.200, 0.300, 0.400]"] * 3
    report = look(rows(tmp_path, *right, "[40, 60, 120, 160]", question=question), processor)
    assert not report.bad and len(report.odd) == 1 and "box format 1 times" in report.odd[0]
