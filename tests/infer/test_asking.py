"""Asking items and keeping the records: rows keep their keys, a file of answers is continued, batches fit."""

from __future__ import annotations

import json
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scripted_engine import ScriptedEngine

from viscot_core.ask import VisualCoT
from viscot_core.engines.base import Generation, Request
from viscot_core.errors import UsageError
from viscot_core.infer import asking
from viscot_core.infer.answer_file import AnswerFile
from viscot_core.infer.asking import InferResult, ask_items, record_key
from viscot_core.infer.items import InferItem, collect
from viscot_core.infer.saving import places_to_save, save_drawing


@pytest.fixture
def items(tmp_path: Path) -> list[InferItem]:
    Image.new("RGB", (300, 200), "white").save(tmp_path / "a.png")
    rows: list[dict[str, Any]] = [{"image": "a.png", "question": f"{n}?", "id": n} for n in range(3)]
    rows[1] |= {"image": "gone.png"}
    rows[2] |= {"answer": "true", "split": "val", "box": [1, 2, 3, 4]}
    (tmp_path / "ask.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return collect(str(tmp_path / "ask.jsonl"), None).items


def ask(items: list[InferItem], *replies: str, **how: Any) -> list[InferResult]:
    return list(ask_items(VisualCoT(ScriptedEngine(*replies)), items, strategy="direct", **how))


def test_a_row_keeps_its_keys(items: list[InferItem]) -> None:
    first, failed, last = [result.record("m") for result in ask(items, "one", "two")]
    assert (first["id"], first["answer"], first["status"]) == (0, "one", "done")
    assert (failed["id"], failed["status"]) == (1, "failed") and "answer" not in failed
    assert (last["answer"], last["input_answer"], last["split"], last["input_box"]) == (
        "two",
        "true",
        "val",
        [1, 2, 3, 4],
    )


def test_a_file_of_answers_is_continued(items: list[InferItem], tmp_path: Path) -> None:
    """What is there is not asked again, also of equal rows; what failed is; a cut line is set aside."""
    items = [*items, items[0]]
    keys = [record_key(item, "direct", "m", None) for item in items]
    path = tmp_path / "new" / "answers.jsonl"
    with AnswerFile(path) as file:
        for result in ask(items[:2], "one"):
            file.write(result.record("m"))
        with pytest.raises(UsageError, match="Another command is writing"), AnswerFile(path):
            pass
    with path.open("a") as cut:
        cut.write('{"image": "a.p')
    Image.new("RGB", (9, 9)).save(tmp_path / "gone.png")
    with AnswerFile(path) as file:
        left = file.remaining(items, keys)
        assert left == items[1:]
        for result in ask(left, "two", "three", "four"):
            file.write(result.record("m"))
    with AnswerFile(path) as file:
        assert file.remaining(items, keys) == []
        assert file.remaining(items, [key | {"model": "n"} for key in keys]) == items
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["id"], row["answer"]) for row in records] == [
        (0, "one"),
        (1, "two"),
        (2, "three"),
        (0, "four"),
    ]
    assert "a.p" in path.with_name("answers.jsonl.broken").read_text()


@pytest.mark.parametrize("content", ["# Notes", "[1]\n", '{"a": 1}\n'])
def test_no_other_file_is_written_into(content: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text(content)
    with pytest.raises(UsageError, match=r"line 1 is no answer"), AnswerFile(tmp_path / "a"):
        pass
    assert (tmp_path / "a").read_text() == content


def test_batches_are_bounded_by_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "BATCH_PIXELS", 250)
    for number, side in enumerate((10, 10, 10, 20, 10)):
        Image.new("RGB", (side, side)).save(tmp_path / f"{number}.png")
    items = collect(str(tmp_path), "What?").items
    assert [len(batch) for batch in asking._batches(items, None)] == [2, 1, 1, 1]
    assert [len(batch) for batch in asking._batches(items, 4)] == [4, 1]


def test_images_are_freed_before_those_of_the_next_batch(items: list[InferItem]) -> None:
    """Eight images of 108 million pixels took 7.8 GB."""
    seen: list[weakref.ref[Image.Image]] = []

    class Forgetful(ScriptedEngine):
        def generate(self, requests: Sequence[Request]) -> list[Generation]:
            assert [ref() for ref in seen] == [None] * len(seen)
            seen.extend(weakref.ref(view.image) for request in requests for view in request.images)
            generations = super().generate(requests)
            self.calls.clear()
            return generations

    cot = VisualCoT(Forgetful("one", "two", "three"))
    asked = [items[0], items[2], items[0]]
    assert len(list(ask_items(cot, asked, strategy="direct", batch_size=1))) == len(seen) == 3


def test_what_is_left_of_equal_items_draws_as_it_would_have(items: list[InferItem], tmp_path: Path) -> None:
    """Of three draws the second was answered before the command was stopped; older files have no draws."""
    rows = [{"image": str(items[0].image), "question": "?"}] * 3
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    equal = collect(str(tmp_path / "rows.jsonl"), None).items
    keys = [record_key(item, "direct", "m", None) for item in equal]
    path = tmp_path / "out.jsonl"
    with AnswerFile(path) as file:
        assert [item.draw for item in file.remaining(equal, keys)] == [0, 1, 2]
        (result,) = ask([equal[1]], "two")
        file.write(result.record("m"))
    with AnswerFile(path) as file:
        left = file.remaining(equal, keys)
        assert [item.draw for item in left] == [0, 2]
        engine = ScriptedEngine("one", "three", deterministic=False)
        said = list(ask_items(VisualCoT(engine, strategy="direct"), left, strategy="direct"))
        assert len(said) == 2
        whole = ScriptedEngine("one", "two", "three", deterministic=False)
        list(ask_items(VisualCoT(whole, strategy="direct"), equal, strategy="direct"))
        drawn = [request.draw for request in whole.requests]
        assert len(set(drawn)) == 3 and [request.draw for request in engine.requests] == drawn[::2]
    old = result.record("m")
    del old["draw"]
    path.write_text(json.dumps(old) + "\n" + json.dumps(old) + "\n")
    with AnswerFile(path) as file:
        assert [item.draw for item in file.remaining(equal, keys)] == [2]


def test_a_given_box(items: list[InferItem]) -> None:
    engine = ScriptedEngine("sign")
    (result,) = ask_items(VisualCoT(engine), items[:1], box=(50.0, 20.0, 100.0, 60.0))
    record = result.record("m")
    assert record["given_box"] == [50, 20, 100, 60] == record["box_pixels"]
    assert len(engine.requests) == 1 and len(engine.requests[0].images) == 2
    (outside,) = ask_items(VisualCoT(ScriptedEngine()), items[:1], box=(400.0, 20.0, 500.0, 60.0))
    assert outside.error and "no part in the image of 300 x 200" in outside.error


def test_a_cut_answer_has_a_state_of_its_own(items: list[InferItem], tmp_path: Path) -> None:
    cut = Generation("half an ans", 5, False, truncated=True)
    (result,) = ask_items(VisualCoT(ScriptedEngine(cut)), items[:1], strategy="direct")
    record = result.record("m")
    assert (record["status"], record["answer"], record["truncated"]) == ("truncated", "half an ans", True)
    with AnswerFile(tmp_path / "out.jsonl") as file:
        file.write(record)
    with AnswerFile(tmp_path / "out.jsonl") as file:
        assert file.remaining(items[:1], [record]) == [], "it is an answer, and not asked again"


def test_drawings_go_home(items: list[InferItem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (place,) = places_to_save(items[:1], Path("~/x.png"))
    save_drawing(ask(items[:1], "one")[0], place)
    assert (tmp_path / "x.png").is_file()
