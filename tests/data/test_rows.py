"""Streaming rows out of JSON lists and JSONL: any text, any block size, every way a file can be broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from viscot_core.data.rows import RawRow, proven_rows, raw_rows
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


def is_object(data: bytes) -> bool:
    """A proof as ``proven_rows`` wants it; says no to some good rows as well."""
    try:
        return type(json.loads(data)) is dict and len(data) % 7 != 0
    except ValueError:
        return False


@settings(max_examples=100, deadline=None)
@given(
    rows=rows
    | st.lists(st.fixed_dictionaries({"id": awkward, "x": st.lists(st.just({"id": 1}))}), max_size=9),
    block=st.integers(1, 200),
    indent=st.sampled_from([None, 1]),
    compact=st.booleans(),
)
def test_a_proof_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[object],
    block: int,
    indent: int | None,
    compact: bool,
) -> None:
    text = json.dumps(rows, indent=indent, separators=(",", ":") if compact else None)
    path = write(tmp_path_factory.getbasetemp() / "list.json", text)
    expected, found = list(raw_rows(path)), []
    for some in proven_rows(path, is_object, block):
        if isinstance(some, RawRow):
            assert some == expected[len(found)]
        found += [some.data] if isinstance(some, RawRow) else some
    assert found == [row.data for row in expected]


def test_usual_rows_are_proven_not_counted(tmp_path: Path) -> None:
    made = [{"id": n, "turns": [{"a": "}, {"}, {"b": n}]} for n in range(400)]
    path = write(tmp_path / "a.json", json.dumps(made))
    found = list(proven_rows(path, lambda data: type(json.loads(data)) is dict, block=4096))
    assert sum(len(some) for some in found if isinstance(some, list)) > 250
    odd = write(tmp_path / "b.json", json.dumps([*made[:300], 7, *made]))
    with pytest.raises(DataError, match=r"b\.json:1: unexpected ', 7,' before a row"):
        list(proven_rows(odd, is_object, block=4096))


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
        ('[{"a": 1} {"a": 2}]', "there is no comma before a row"),
        ('[{"a": 1}, 7, {"a": 2}]', "unexpected ', 7,' before"),
        ('[{"a": 1},]', "unexpected ',' before the list's end"),
        ("[7]", "unexpected '7' before the list's end"),
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
