"""Streaming rows out of JSON lists and JSONL: any text, any block size, every way a file can be broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from viscot_core.data.rows import raw_rows
from viscot_core.errors import DataError

awkward = st.text(alphabet=st.sampled_from('"\\{}[],:\n é\U0001f600'), max_size=12)
rows = st.lists(
    st.dictionaries(
        awkward, st.recursive(awkward | st.integers(), lambda x: st.lists(x, max_size=3)), max_size=3
    ),
    max_size=8,
)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@settings(max_examples=150, deadline=None)
@given(rows=rows, block=st.integers(1, 60), indent=st.sampled_from([None, 1, 4]), ascii_only=st.booleans())
def test_a_list_is_cut_where_json_would_cut_it(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[object],
    block: int,
    indent: int | None,
    ascii_only: bool,
) -> None:
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    path = write(tmp_path_factory.getbasetemp() / "list.json", text)
    found = list(raw_rows(path, block))
    assert [json.loads(row.data) for row in found] == rows
    assert [row.number for row in found] == list(range(len(rows)))
    encoded = text.encode()
    for row in found:
        assert encoded[row.start :].startswith(row.data)
        assert row.line == 1 + encoded[: row.start].count(b"\n")


def test_jsonl_skips_empty_lines_and_keeps_line_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '\n{"a": 1}\r\n\n  {"a": 2}\n')
    assert [*raw_rows(path)] == [(b'{"a": 1}', 1, 2, 0), (b'{"a": 2}', 14, 4, 1)]


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "bom.json"
    path.write_bytes(b'\xef\xbb\xbf [ {"a": 1} ]')
    assert list(raw_rows(path)) == [(b'{"a": 1}', 6, 1, 0)]


@pytest.mark.parametrize("empty", ["", "\n", "[]", " [ \n ] "])
def test_an_empty_file_has_no_rows(tmp_path: Path, empty: str) -> None:
    assert list(raw_rows(write(tmp_path / "a.json", empty))) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[{"a": 1}, {"a": ', "inside row 1"),
        ('[{"a": 1}', "inside row 1"),
        ('[{"a": 1} {"a": 2}]', "stands before a row"),
        ('[{"a": 1}, 7, {"a": 2}]', "', 7,' stands before"),
        ('[{"a": 1},]', "stands before the list's end"),
        ("[7]", "stands before the list's end"),
    ],
)
@pytest.mark.parametrize("block", [3, 1 << 20])
def test_a_broken_list_says_where(tmp_path: Path, text: str, says: str, block: int) -> None:
    with pytest.raises(DataError, match="a.json:1: .*" + says):
        list(raw_rows(write(tmp_path / "a.json", text), block))


def test_a_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no.json cannot be read: No such file or directory; check the path\."
    ):
        list(raw_rows(tmp_path / "no.json"))
