"""Every documented format is read; converters lose nothing; what is wrong is said with its row."""

from __future__ import annotations

import base64
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from documented_rows import EXAMPLES, write_documented

from viscot_core.boxes.registry import codec
from viscot_core.data.annotations import Conversation
from viscot_core.data.encode import load_views
from viscot_core.data.formats.check import check_file
from viscot_core.data.formats.layouts import RowLayout, layout_of
from viscot_core.data.formats.prepare import prepare
from viscot_core.data.formats.read import Reader, RowFinding, is_plain
from viscot_core.data.mixture import Mixture
from viscot_core.errors import DataError, UsageError

BOX = "[0.125, 0.312, 0.375, 0.469]"
"""Of [40, 60, 120, 110] in an image of 320 x 240."""


def _read(folder: Path, *rows: Any, boxes: str | None = None) -> list[Any]:
    reader = Reader(write_documented(folder, *rows), folder, codec(boxes) if boxes else None)
    return list(reader.rows())


def _one(folder: Path, row: Any, boxes: str | None = None) -> Conversation:
    (found,) = _read(folder, row, boxes=boxes)
    assert not isinstance(found, RowFinding), found
    return found[1]


def _wrong(folder: Path, row: Any, boxes: str | None = None) -> str:
    (found,) = _read(folder, row, boxes=boxes)
    assert isinstance(found, RowFinding), found
    return str(found)


def test_the_page_shows_every_layout() -> None:
    assert set(EXAMPLES) == {layout.value for layout in RowLayout}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_of_the_page_is_read_and_can_be_trained_on(name: str, images: Path) -> None:
    options, row = EXAMPLES[name]
    boxes = codec(options.split()[1]) if options else None
    assert layout_of(row) is RowLayout(name)
    reader = Reader(write_documented(images, row), images, boxes)
    report = check_file(reader)
    assert (report.rows, report.findings) == (1, [])
    prepared = prepare(reader.path, images, images / "made", boxes)
    (read,) = Mixture.open(prepared.file)
    views = load_views(prepared.images, read.image)
    assert len(views) == len(read.image) > 0
    assert read.turns[-1].text in ("42", BOX)


def test_swift_s_boxes_are_those_that_it_declares(images: Path) -> None:
    _, row = EXAMPLES["ms-swift"]
    assert _one(images, row).turns[1].text == BOX
    shares = {"ref": ["card"], "bbox": [[0.125, 0.25, 0.375, 0.458333]], "bbox_type": "norm1"}
    assert _one(images, {**row, "objects": shares}).turns[1].text == BOX
    assert "of 320 x 240 pixels" in _wrong(
        images, {**row, "objects": {"bbox": [[0, 0, 400, 100]], "ref": ["x"]}}
    )
    assert "1 boxes have no <bbox> mark" in _wrong(
        images, {**row, "objects": {"bbox": [[1, 2, 3, 4], [1, 2, 3, 4]], "ref": ["x"]}}
    )


@pytest.mark.parametrize(
    ("said", "boxes"),
    [
        ("[40, 60, 120, 110]", "pixels"),
        ("<box>[[125, 250, 375, 458]]</box>", "internvl"),
        ('[{"bbox_2d": [125, 250, 375, 458], "label": "card"}]', "qwen3-vl"),
    ],
)
def test_boxes_of_the_declared_convention_become_viscot_s(said: str, boxes: str, images: Path) -> None:
    row = {"messages": [{"role": "user", "content": "<image>Where?"}, {"role": "assistant", "content": said}]}
    row["images"] = ["card.png"]  # type: ignore[assignment]
    read = [float(n) for n in re.findall(r"[\d.]+", _one(images, row, boxes).turns[1].text)]
    assert read == pytest.approx([0.125, 0.312, 0.375, 0.469], abs=2e-3)
    assert "names another convention" in _wrong(images, row), "without a declaration nothing is guessed"


def test_a_box_among_words_is_rewritten_and_the_words_stay(images: Path) -> None:
    said = "The card <box>[[125, 250, 375, 458]]</box> says 42."
    row = {"messages": [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": said}]}
    text = _one(images, {**row, "images": ["card.png"]}, "internvl").turns[1].text
    assert re.fullmatch(r"The card \[0\.125, 0\.31\d, 0\.375, 0\.46\d\] says 42\.", text)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"images": []}, r"row 0, images: 1 <image> marks for 0 images"),
        ({"images": ["gone.png"]}, r"row 0, images: There is no image at .*gone\.png"),
        ({"messages": [{"role": "user", "content": "<image>?"}]}, "no assistant's message is there"),
        ({"messages": [{"role": "robot", "content": "x"}]}, r"row 0, messages\.0\.role: field"),
        ({"images": ["https://host/x.png"]}, "is a URL; download the image"),
        ({"images": ["../x.png"]}, "leads outside of"),
    ],
)
def test_what_is_wrong_is_said_with_row_and_field(change: dict[str, Any], says: str, images: Path) -> None:
    row = {
        "messages": [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "yes"}],
        "images": ["card.png"],
        **change,
    }
    report = check_file(Reader(write_documented(images, row), images))
    assert [finding for finding in report.findings if re.search(says, str(finding))], report.findings


def test_an_empty_answer_is_a_fault_and_a_repeated_row_a_note(images: Path) -> None:
    _, row = EXAMPLES["messages"]
    empty = {**row, "messages": [row["messages"][0], {"role": "assistant", "content": " "}]}
    report = check_file(Reader(write_documented(images, row, row, empty), images))
    assert dict(report.wrong) == {"empty answer": 1} and report.notes["repeated row"] == 1


def test_a_broken_line_is_a_finding_and_the_rest_is_read(images: Path) -> None:
    path = write_documented(images, EXAMPLES["messages"][1])
    path.write_text(path.read_text() + '{"messages": [\n' + path.read_text())
    report = check_file(Reader(path, images))
    assert report.rows == 3 and [finding.row for finding in report.findings] == [1]


def test_rows_of_no_known_layout_are_named(images: Path) -> None:
    with pytest.raises(DataError, match=r"neither conversations nor messages \(they have: q, a\)"):
        check_file(Reader(write_documented(images, {"q": 1, "a": 2}), images))


def test_a_trace_s_crops_are_exactly_its_windows(images: Path) -> None:
    row = _one(images, EXAMPLES["trace"][1])
    sizes = [view.image.size for view in load_views(images, row.image)]
    assert sizes == [(320, 240), (120, 80), (80, 50)]


def _columns(folder: Path) -> Any:
    pyarrow = pytest.importorskip("pyarrow")
    data = (folder / "card.png").read_bytes()
    rows = [
        {
            "id": str(number),
            "images": [{"bytes": data, "path": None}],
            "messages": [
                {"role": "user", "content": "<image>\nWhat is it?"},
                {"role": "assistant", "content": f"answer {number}"},
            ],
        }
        for number in range(3)
    ]
    return pyarrow.Table.from_pylist(rows)


def test_parquet_and_a_data_set_on_disk_are_read_with_their_images(images: Path) -> None:
    table = _columns(images)
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(table, images / "rows.parquet")
    folder = images / "on_disk"
    folder.mkdir()
    with pyarrow.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as out:
        out.write_table(table)
    (folder / "state.json").write_text("{}")
    for source in (images / "rows.parquet", folder):
        assert not is_plain(source)
        prepared = prepare(source, images, images / "made" / source.name)
        rows = list(Mixture.open(prepared.file))
        assert [row.turns[1].text for row in rows] == ["answer 0", "answer 1", "answer 2"]
        (view,) = load_views(prepared.images, rows[0].image)
        assert view.image.size == (320, 240) and len(list((prepared.file.parent / "images").iterdir())) == 1
    again = prepare(folder, images, images / "made" / "on_disk", started=True)
    assert again.file == prepared.file, "a resumed run reads the same rows"


def test_several_splits_are_named(images: Path) -> None:
    pytest.importorskip("pyarrow")
    for name in ("test", "train"):
        (images / "both" / name).mkdir(parents=True)
    (images / "both/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(UsageError, match="has the splits test, train; give one of them"):
        list(Reader(images / "both", images).rows())


def test_a_run_that_began_refuses_other_rows(images: Path) -> None:
    path = write_documented(images, EXAMPLES["ms-swift"][1])
    prepare(path, images, images / "made")
    write_documented(images, EXAMPLES["ms-swift"][1], EXAMPLES["ms-swift"][1])
    with pytest.raises(DataError, match="are not those that the run began with"):
        prepare(path, images, images / "made", started=True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"images": ["card.png###[1,2]"]}, r"row 1, images: .*correct the text after ###"),
        ({"images": 5}, r"row 1, images: images is a list"),
        ({"messages": 5}, r"row 1, messages: messages is a list"),
        ({"messages": None}, r"row 1, messages: the row has no messages"),
        ({"objects": {"bbox": [["a", 1, 2, 3]]}}, r"row 1, objects: field 'bbox\.0\.0'"),
        ({"objects": {"bbox": 3}}, r"row 1, objects: field 'bbox'"),
        ({"objects": {"bbox": [[1, 2, 3, 4]], "image_id": [-1]}}, r"row 1, objects: field 'image_id\.0'"),
        ({"objects": {"bbox": [[1, 2, 3, 4]], "bbox_type": "percent"}}, r"row 1, objects: field 'bbox_type'"),
    ],
)
def test_a_row_of_a_wrong_shape_is_a_finding_and_the_rest_is_read(
    change: dict[str, Any], says: str, images: Path
) -> None:
    _, row = EXAMPLES["messages"]
    report = check_file(Reader(write_documented(images, row, {**row, **change}, row), images))
    assert report.rows == 3
    (finding,) = report.findings
    assert re.search(says, str(finding)), finding


def _bytes_of(images: Path, data: bytes) -> Path:
    (images / "rows.jsonl").write_bytes(data)
    return images / "rows.jsonl"


@pytest.mark.parametrize("as_list", [False, True])
def test_a_mark_of_byte_order_and_windows_line_ends_change_nothing(as_list: bool, images: Path) -> None:
    rows = [json.dumps(EXAMPLES["messages"][1]).encode()] * 2
    text = b"[\r\n" + b",\r\n".join(rows) + b"\r\n]\r\n" if as_list else b"\r\n".join(rows) + b"\r\n"
    path = _bytes_of(images, b"\xef\xbb\xbf" + text)
    assert (check_file(Reader(path, images)).findings, len(Mixture.open(path))) == ([], 2)


def test_another_encoding_is_named(images: Path) -> None:
    line = (json.dumps(EXAMPLES["messages"][1]) + "\n").replace("42", "caf\u00e9")
    with pytest.raises(DataError, match="row 0: the row is not in UTF-8"):
        check_file(Reader(_bytes_of(images, line.encode("utf-16")), images))
    plain = json.dumps(EXAMPLES["messages"][1]).encode() + b"\n"
    report = check_file(Reader(_bytes_of(images, plain + line.encode("latin-1")), images))
    assert [str(finding) for finding in report.findings] == [
        "row 1: the row is not in UTF-8 (save the file in UTF-8)"
    ]


@pytest.mark.parametrize("data", [b"", b"\r\n \n", b"[]"])
def test_a_file_without_rows_is_said(data: bytes, images: Path) -> None:
    path = _bytes_of(images, data)
    with pytest.raises(DataError, match="contains no rows"):
        check_file(Reader(path, images))
    assert prepare(path, images, images / "made").file == path, "training says it, too"


def test_what_training_would_misread_is_read_before_wherever_it_stands(images: Path) -> None:
    _, plain = EXAMPLES["messages"]
    _, swift = EXAMPLES["ms-swift"]
    talked = {**plain, "messages": [{"role": "user", "content": '"objects": [1]'}, plain["messages"][3]]}
    assert is_plain(
        write_documented(images, {**plain, "objects": [], "system": ""}, {**talked, "images": []})
    )
    path = write_documented(images, plain, swift)
    assert not is_plain(path)
    first, second = Mixture.open(prepare(path, images, images / "made").file)
    assert (first.turns[-1].text, second.turns[-1].text) == ("42", BOX)
    path = write_documented(images, plain, {**plain, "system": "Be brief."})
    _, second = Mixture.open(prepare(path, images, images / "made").file)
    assert (second.turns[0].role, second.turns[0].text) == ("system", "Be brief.")


def test_images_as_urls_are_read_before_training(images: Path) -> None:
    data = "data:image/png;base64," + base64.b64encode((images / "card.png").read_bytes()).decode()
    for number, name in enumerate((data, f"file://{images}/card.png")):
        path = write_documented(images, {**EXAMPLES["messages"][1], "images": [name]})
        prepared = prepare(path, images, images / f"made{number}")
        (row,) = Mixture.open(prepared.file)
        (view,) = load_views(prepared.images, row.image)
        assert view.image.size == (320, 240)


def test_the_machines_of_one_job_make_the_rows_once(images: Path) -> None:
    path = write_documented(images, *[EXAMPLES["ms-swift"][1]] * 500)
    together = threading.Barrier(3)

    def ask(_: int) -> tuple[Path, int]:
        together.wait()
        made = prepare(path, images, images / "run/rows/training")
        return made.file, made.file.stat().st_ino

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(ask, range(3)))
    assert len(set(found)) == 1, "one made them, the others waited"
    assert [path.name for path in (images / "run/rows").iterdir()] == ["training"]


def test_a_row_that_cannot_be_read_leaves_no_folder(images: Path) -> None:
    path = write_documented(images, EXAMPLES["ms-swift"][1], {"messages": 5, "objects": {"ref": ["x"]}})
    with pytest.raises(DataError, match="row 1, messages"):
        prepare(path, images, images / "run/rows/training")
    assert not (images / "run").exists()
