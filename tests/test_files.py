"""Files that are whole or not there, whoever writes beside."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from viscot_core.files import written_whole


def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file.json"
    with written_whole(path) as file:
        file.write("old")
    with pytest.raises(ZeroDivisionError), written_whole(path) as file:
        file.write("new" + str(1 / 0))
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_many_may_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"

    def write(number: int) -> None:
        with written_whole(path) as file:
            file.write(f"{number:04d}" * 500)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(400)))
    text = path.read_text()
    assert len(text) == 2000 and len({text[n : n + 4] for n in range(0, 2000, 4)}) == 1
    assert list(tmp_path.iterdir()) == [path]
