"""Files that are whole or not there, whoever writes beside."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from viscot_core.errors import UsageError
from viscot_core.files import atomic_folder, atomic_write, expanded


def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file.json"
    with atomic_write(path) as file:
        file.write("old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.write("new" + str(1 / 0))
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_many_may_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"

    def write(number: int) -> None:
        with atomic_write(path) as file:
            file.write(f"{number:04d}" * 500)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(400)))
    text = path.read_text()
    assert len(text) == 2000 and len({text[n : n + 4] for n in range(0, 2000, 4)}) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_folder_goes_again_when_nothing_came_into_it(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "a" / "b" / "file") as file:
        file.write(str(1 / 0))
    assert not any(tmp_path.iterdir())


def test_a_folder_is_there_when_it_is_whole(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "new" / "data") as building:
        (building / "one").write_text("1")
        assert not (tmp_path / "new" / "data").exists()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["data"]
    with pytest.raises(UsageError, match="is not empty"), atomic_folder(tmp_path / "new" / "data"):
        pass
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "other" / "data") as building:
        (building / "one").write_text("1")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["new"]


def test_an_empty_folder_stays_the_one_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".new.5eed.partial").mkdir()  # a kill left it
    with atomic_folder(Path()) as building:
        (building / "folder").mkdir()
        (building / "one").write_text("1")
        assert building.parent == tmp_path
    assert sorted(path.name for path in Path().iterdir()) == [".new.5eed.partial", "folder", "one"]
    with pytest.raises(UsageError, match="is not empty"), atomic_folder(tmp_path):
        pass


def test_the_home_of_nobody_is_a_name() -> None:
    assert expanded("~/a") == Path.home() / "a"
    assert expanded("~nobody-at-all/a") == Path("~nobody-at-all/a")
