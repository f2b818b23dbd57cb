"""Files that are whole or not there, whoever writes beside."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from viscot_core.errors import UsageError
from viscot_core.files import atomic_folder, atomic_write, expanded, link_or_copy


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
        list(pool.map(write, range(100)))
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
    (tmp_path / ".new.partial").mkdir()  # a kill left both
    (tmp_path / ".new.lock").touch()
    with atomic_folder(Path()) as building:
        (building / "folder").mkdir()
        (building / "one").write_text("1")
        assert building.parent == tmp_path
    assert sorted(path.name for path in Path().iterdir()) == ["folder", "one"]
    with pytest.raises(UsageError, match="is not empty"), atomic_folder(tmp_path):
        pass


KILLED = """
import os, signal, sys
from pathlib import Path
from viscot_core import files

out, step = Path(sys.argv[1]), int(sys.argv[2])

def audit(event, arguments):
    global step
    if event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"):
        step -= 1
        if step < 0:
            os.kill(os.getpid(), signal.SIGKILL)

with files.atomic_write(out.with_name("before")) as file:
    file.write("imports what it needs")
sys.addaudithook(audit)
with files.atomic_folder(out, replace=sys.argv[3] == "replace") as building:
    for name in ("one", "two", "three"):
        (building / name).write_text("new " + name)
    (building / "folder").mkdir()
    (building / "folder" / "four").write_text("new four")
"""


@pytest.mark.parametrize("there", ["missing", "empty", "replace"])
def test_kills_at_every_step_of_a_new_folder(tmp_path: Path, there: str) -> None:
    """Killed before each rename and deletion in turn: the next call works, and nothing stays."""
    names = ["folder", "one", "three", "two"]
    for step in range(30):
        out = tmp_path / f"{step}" / "out"
        out.parent.mkdir()
        if there != "missing":
            out.mkdir()
            if there == "replace":
                (out / "old").touch()
        before = out.stat().st_ino if there == "empty" else None
        ran = subprocess.run([sys.executable, "-c", KILLED, out, str(step), there], check=False)
        whole = out.is_dir() and sorted(path.name for path in out.iterdir() if path.suffix == "") == names
        if ran.returncode == 0:
            assert step > 3 and whole
            return
        assert ran.returncode == -signal.SIGKILL
        try:
            with atomic_folder(out, replace=there == "replace") as building:
                for name in names:
                    (building / name).touch()
        except UsageError:
            assert whole  # killed after the last step: it was complete
        left = {path.name for path in out.iterdir()} - {".new.lock"}
        assert left == set(names)
        assert before in (None, out.stat().st_ino), "an existing folder stays the one it is"
        assert {path.name for path in out.parent.iterdir()} <= {"before", "out", ".out.lock"}
    pytest.fail("it never came to its end")


@pytest.mark.parametrize("lock", ["out/.new.lock", ".out.lock"])
def test_a_lock_that_a_kill_left_at_a_complete_folder_goes(tmp_path: Path, lock: str) -> None:
    """Killed between the last move and the end of the lock: the folder is complete, the lock is nobody's."""
    out = tmp_path / "out"
    with atomic_folder(out) as building:
        (building / "one").write_text("1")
    (tmp_path / lock).touch()
    with pytest.raises(UsageError, match="is not empty"), atomic_folder(out):
        pass
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    assert left == ["out", "out/one"]


def test_what_others_put_into_a_half_filled_folder_is_kept(tmp_path: Path) -> None:
    """A killed call had moved one of its two files; a user has since written another of its names."""
    half = tmp_path / ".new.partial"
    half.mkdir()
    (tmp_path / "moved").write_text("ours")
    (half / "waiting").write_text("ours")
    moves = {"moved": (tmp_path / "moved").stat().st_ino, "waiting": (half / "waiting").stat().st_ino}
    (half / ".moves.json").write_text(json.dumps(moves))
    (tmp_path / "waiting").write_text("the user's")
    with pytest.raises(UsageError, match="is not empty"), atomic_folder(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["waiting"]


def test_one_writer_of_a_folder_at_a_time(tmp_path: Path) -> None:
    for out in (tmp_path / "new", tmp_path / "there"):
        (tmp_path / "there").mkdir(exist_ok=True)
        with atomic_folder(out) as building:
            with pytest.raises(UsageError, match=r"Another process is writing .*; wait"), atomic_folder(out):
                pass
            (building / "one").touch()
        assert [path.name for path in out.iterdir()] == ["one"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "there"]


def test_a_killed_writer_s_partial_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    code = (
        "import os, signal, sys; from pathlib import Path; from viscot_core.files import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as file:\n"
        "    file.write('half' * 9999); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, path], check=False)
    assert [left.name for left in tmp_path.iterdir()] == [".file.json.partial"]
    with atomic_write(path) as file:
        file.write("whole")
    assert path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]


def test_a_link_in_a_partial_s_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("not ours")
    (tmp_path / ".file.partial").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic links"), atomic_write(tmp_path / "file") as file:
        file.write("new")
    assert (tmp_path / "other").read_text() == "not ours"


def test_a_link_of_the_same_file_leaves_no_second_name(tmp_path: Path) -> None:
    """A rename between two links of one file does nothing: the partial one stayed."""
    path, target = tmp_path / "a", tmp_path / "folder" / "b"
    path.write_text("1")
    for _ in range(2):
        link_or_copy(path, target)
        assert target.samefile(path) and list(target.parent.iterdir()) == [target]
    path.unlink()
    path.write_text("2")
    link_or_copy(path, target)
    assert target.read_text() == "2" and list(target.parent.iterdir()) == [target]


def test_the_home_of_nobody_is_a_name() -> None:
    assert expanded("~/a") == Path.home() / "a"
    assert expanded("~nobody-at-all/a") == Path("~nobody-at-all/a")
