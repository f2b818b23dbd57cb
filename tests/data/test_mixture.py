"""The memory-mapped mixture: the same rows as the files, whole or absent, weights, lengths, workers."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from viscot_core.data.annotations import Conversation
from viscot_core.data.mix import build, plainly_right, sources_of
from viscot_core.data.mixture import Mixture, MixtureSource
from viscot_core.errors import DataError, UsageError


def rows(count: int, start: int = 0) -> list[dict[str, object]]:
    return [
        {
            "id": n,
            "image": f"a/{n}.jpg",
            "conversations": [{"from": "human", "value": "q\n" * n}, {"from": "gpt", "value": "é"}],
        }
        for n in range(start, start + count)
    ]


@pytest.fixture
def files(tmp_path: Path) -> list[MixtureSource]:
    pretty, lines = tmp_path / "pretty.json", tmp_path / "lines.jsonl"
    pretty.write_text(json.dumps(rows(5), indent=2))
    lines.write_text("".join(json.dumps(row) + "\r\n" for row in rows(4, 5)))
    return [MixtureSource("pretty", str(pretty)), MixtureSource("lines", str(lines), 2.5)]


def words(conversation: Conversation) -> int:
    return len(conversation.turns[0].text)


def test_a_mixture_holds_the_rows_of_its_files_in_order(tmp_path: Path, files: list[MixtureSource]) -> None:
    mixture = build(tmp_path / "mix", files)
    assert len(mixture) == 9
    assert [json.loads(mixture.raw(i)) for i in range(9)] == rows(9)
    assert list(mixture) == [Conversation.model_validate(row) for row in rows(9)]
    assert [(s.name, s.first, s.rows, s.weight) for s in mixture.sources] == [
        ("pretty", 0, 5, 1.0),
        ("lines", 5, 4, 2.5),
    ]
    assert mixture.source_of(4).name == "pretty" and mixture.source_of(5).name == "lines"
    assert (tmp_path / "mix" / "rows.jsonl").read_bytes().count(b"\n") == 9
    with pytest.raises(IndexError):
        mixture.raw(9)


@pytest.mark.parametrize("which", [0, 1])
def test_one_file_opens_as_a_mixture(files: list[MixtureSource], which: int) -> None:
    mixture = Mixture.open(files[which].file)
    expected = rows(5) if which == 0 else rows(4, 5)
    assert [json.loads(mixture.raw(i)) for i in range(len(mixture))] == expected
    assert mixture.sources[0].name == files[which].name


def test_words_are_counted_in_one_pass(files: list[MixtureSource], monkeypatch: pytest.MonkeyPatch) -> None:
    mixture = Mixture.open(files[0].file)
    expected = [mixture.raw(index).count(b"gpt") for index in range(len(mixture))]
    assert expected != [0] * 5 and mixture.count(b"gpt").tolist() == expected
    monkeypatch.setattr("viscot_core.data.mixture._BLOCK", 7)  # a word across two blocks counts once
    assert mixture.count(b"gpt").tolist() == expected
    assert mixture.sizes().tolist() == [len(mixture.raw(index)) for index in range(len(mixture))]


def test_a_large_files_index_is_kept_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viscot_core.data.mixture._KEPT", 1)
    path = tmp_path / "large.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(3)))
    first = Mixture.open(path)
    (kept,) = (tmp_path / ".cache").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr("viscot_core.data.mixture.raw_rows", lambda _: 1 // 0)
        again = Mixture.open(path)
    assert list(again) == list(first) == list(pickle.loads(pickle.dumps(again)))
    assert again.sha256 == first.sha256
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(4)))
    assert len(Mixture.open(path)) == 4
    kept.write_bytes(kept.read_bytes()[:24])
    assert len(Mixture.open(path)) == 4, "a damaged index is made again"


def test_a_mixture_pickles(tmp_path: Path, files: list[MixtureSource]) -> None:
    for mixture in (build(tmp_path / "mix", files), Mixture.open(files[0].file)):
        again = pickle.loads(pickle.dumps(mixture))
        assert list(again) == list(mixture) and again.sha256 == mixture.sha256


def test_the_data_hash_follows_the_rows(tmp_path: Path, files: list[MixtureSource]) -> None:
    first = build(tmp_path / "a", files).sha256
    assert build(tmp_path / "b", files).sha256 == first
    assert build(tmp_path / "c", files[:1]).sha256 != first


def test_weights_choose_how_often_a_source_is_seen(tmp_path: Path, files: list[MixtureSource]) -> None:
    mixture = build(tmp_path / "mix", files)
    epoch = mixture.epoch(0, seed=3)
    seen = np.bincount(epoch, minlength=9)
    assert seen[:5].tolist() == [1] * 5
    assert sorted(seen[5:].tolist()) == [2, 2, 3, 3]
    assert mixture.epoch(0, seed=3).tolist() == epoch.tolist()
    draws = {tuple(mixture.epoch(n, seed=3)) for n in range(20)}
    assert len(draws) > 1


def test_lengths_are_measured_once_per_key(tmp_path: Path, files: list[MixtureSource]) -> None:
    mixture = build(tmp_path / "mix", files)
    expected = [words(conversation) for conversation in mixture]
    seen: list[tuple[int, int]] = []
    found = mixture.lengths(words, "key a", progress=lambda done, of: seen.append((done, of)))
    assert found.tolist() == expected and seen == [(9, 9)]
    assert mixture.lengths(lambda _: 1 // 0, "key a").tolist() == expected
    assert mixture.lengths(lambda _: 1, "key b").tolist() == [1] * 9


def test_lengths_in_parallel_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(3) * 2000))
    mixture = Mixture.open(path)
    assert mixture.lengths(words, "k", workers=2).tolist() == [words(c) for c in mixture]


def test_a_bad_row_stops_the_build_or_is_counted(tmp_path: Path, files: list[MixtureSource]) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": 1}\n' + json.dumps(rows(1)[0]) + "\n")
    sources = [*files, MixtureSource("bad", str(bad))]
    with pytest.raises(DataError, match=r"bad\.jsonl:1: field 'conversations' is missing"):
        build(tmp_path / "mix", sources)
    assert not (tmp_path / "mix").exists()
    mixture = build(tmp_path / "mix", sources, skip_bad=1)
    assert len(mixture) == 10 and mixture.sources[2].skipped == 1


def test_an_existing_mixture_is_kept_unless_replaced(tmp_path: Path, files: list[MixtureSource]) -> None:
    build(tmp_path / "mix", files)
    with pytest.raises(UsageError, match="exists"):
        build(tmp_path / "mix", files[:1])
    assert len(build(tmp_path / "mix", files[:1], overwrite=True)) == 5


def test_overwrite_replaces_a_mixture_and_nothing_else(tmp_path: Path, files: list[MixtureSource]) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="is not a mixture, and --overwrite replaces nothing else"):
        build(tmp_path, files, overwrite=True)
    with pytest.raises(UsageError, match="is not a mixture"):
        build(Path(files[0].file), files, overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "empty").mkdir()
    assert len(build(tmp_path / "empty", files, overwrite=True)) == 9
    (tmp_path / "link").symlink_to("empty")
    assert len(build(tmp_path / "link", files[:1], overwrite=True)) == 5
    assert (tmp_path / "link").is_symlink() and len(Mixture.open(tmp_path / "empty")) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "lines.jsonl", "link", "pretty.json"]


def test_a_mixture_is_deleted_only_when_the_new_one_stands(
    tmp_path: Path, files: list[MixtureSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "mix", files)
    deleted: list[Path] = []
    real = shutil.rmtree

    def rmtree(path: Path, ignore_errors: bool = False) -> None:
        if path.exists():
            deleted.append(path)
            assert len(Mixture.open(tmp_path / "mix")) == 5
        real(path, ignore_errors=ignore_errors)

    monkeypatch.setattr("viscot_core.files.shutil.rmtree", rmtree)
    build(tmp_path / "mix", files[:1], overwrite=True)
    assert [path.name for path in deleted] == [".mix.replaced.partial"]


def test_two_builds_of_one_mixture(tmp_path: Path, files: list[MixtureSource]) -> None:
    """Both failed, and a damaged folder stayed: now the second one is refused and the first ends well."""
    refused: list[str] = []

    def second(done: int, of: int) -> None:
        with pytest.raises(UsageError) as caught:
            build(tmp_path / "mix", files, overwrite=True)
        refused.append(str(caught.value))

    assert len(build(tmp_path / "mix", files, overwrite=True, progress=second)) == 9
    assert refused and "Another process is writing" in refused[0]
    assert not list(tmp_path.glob(".*"))


def test_progress_ends_where_the_files_end(tmp_path: Path, files: list[MixtureSource]) -> None:
    seen: list[tuple[int, int]] = []
    build(tmp_path / "mix", files, progress=lambda done, of: seen.append((done, of)))
    total = sum(Path(source.file).stat().st_size for source in files)
    assert seen == sorted(seen) and seen[-1] == (total, total)


def test_a_failed_build_leaves_nothing(tmp_path: Path, files: list[MixtureSource]) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match="cannot be read"):
        build(tmp_path / "mix", [*files, MixtureSource("none", str(tmp_path / "none.json"))])
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("damage", ["offsets.bin", "rows.jsonl", "mixture.json"])
def test_a_damaged_mixture_says_so(tmp_path: Path, files: list[MixtureSource], damage: str) -> None:
    build(tmp_path / "mix", files)
    victim = tmp_path / "mix" / damage
    victim.write_bytes(victim.read_bytes()[:-8])
    with pytest.raises(DataError, match="build it again with 'viscot data mix"):
        Mixture.open(tmp_path / "mix")


def test_missing_and_empty_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist; make it with 'viscot data mix"):
        Mixture.open(tmp_path / "mix")
    (tmp_path / "empty.json").write_text("[]")
    with pytest.raises(DataError, match="contains no rows"):
        Mixture.open(tmp_path / "empty.json")
    with pytest.raises(DataError, match=r"none\.json cannot be read"):
        build(tmp_path / "mix", [MixtureSource("none", str(tmp_path / "none.json"))])


def test_killed_while_building_leaves_nothing_half_done(tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(40) * 1000))
    code = (
        "from pathlib import Path; from viscot_core.data.mix import build\n"
        "from viscot_core.data.mixture import MixtureSource\n"
        f"print('start', flush=True); "
        f"build(Path({str(tmp_path / 'mix')!r}), [MixtureSource('m', {str(path)!r})])"
    )
    for wait in (0.02, 0.1, 0.2):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert process.stdout and process.stdout.readline()
        time.sleep(wait)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        if (tmp_path / "mix").exists():
            break
    assert len(build(tmp_path / "mix", [MixtureSource("m", str(path))], overwrite=True)) == 40_000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["many.jsonl", "mix"]


def test_sources_are_named_by_files_or_a_list(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text(
        "sources:\n  - file: sub/a.json\n    weight: 0.5\n  - {file: b.json, name: other}\n"
    )
    assert sources_of([tmp_path / "list.yaml"], {"other": 3.0}) == (
        MixtureSource("a", str(tmp_path / "sub/a.json"), 0.5),
        MixtureSource("other", str(tmp_path / "b.json"), 3.0),
    )
    assert sources_of([Path("x/a.json"), Path("b.jsonl")], {}) == (
        MixtureSource("a", "x/a.json"),
        MixtureSource("b", "b.jsonl"),
    )
    with pytest.raises(UsageError, match=r"no source is called 'othr'.* Did you mean 'other'"):
        sources_of([tmp_path / "list.yaml"], {"othr": 3.0})
    with pytest.raises(UsageError, match="weight of 'a' is -1"):
        sources_of([Path("a.json")], {"a": -1.0})
    (tmp_path / "bad.yaml").write_text("sources:\n  - {fil: b.json}\n")
    with pytest.raises(UsageError, match=r"bad\.yaml: field 'sources.0.file' is missing"):
        sources_of([tmp_path / "bad.yaml"], {})


odd = (
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats()
    | st.sampled_from(["", "human", "gpt", "a.jpg"])
)
odd |= st.lists(odd, max_size=2)
turn = odd | st.fixed_dictionaries(
    {"from": st.sampled_from(["human", "gpt"]) | odd, "value": st.text() | odd}
)
row = st.fixed_dictionaries(
    {"conversations": st.lists(turn, max_size=3) | odd},
    optional={"id": odd, "question_id": odd, "image": odd, "dataset": odd, "split": odd},
)


@given(row | odd)
def test_the_quick_yes_is_never_wrong(made: object) -> None:
    data = json.dumps(made).encode()
    try:
        Conversation.model_validate_json(data)
    except ValidationError:
        assert not plainly_right(data)


def test_the_quick_yes_is_said_to_usual_rows() -> None:
    assert all(plainly_right(json.dumps(made).encode()) for made in rows(3))
    assert not plainly_right(b"{")
