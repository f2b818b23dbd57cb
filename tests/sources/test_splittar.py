"""A tar in parts: every cut, every interruption, and never more than one part on disk."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import pytest

from viscot_core.errors import DataError
from viscot_core.sources.archives import Most, Unpacker
from viscot_core.sources.catalog import Placing
from viscot_core.sources.splittar import unpack_parts

RANDOM = random.Random(4)
FILES = {
    f"deep/{'long-' * (30 if n % 5 == 0 else 1)}name/{n:03d}.jpg": RANDOM.randbytes(RANDOM.randrange(0, 9000))
    for n in range(60)
}


def cut(parts: int, format: int = tarfile.GNU_FORMAT) -> list[bytes]:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=format) as archive:
        for name, data in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    data = whole.getvalue()
    size = -(-len(data) // parts)
    return [data[at : at + size] for at in range(0, len(data), size)]


class Cut(Exception):
    """Stands for a kill."""


class Origin:
    """Brings parts, keeps count, and can break off before one of them."""

    def __init__(self, folder: Path, parts: list[bytes], breaks_at: int | None = None) -> None:
        self.folder, self.parts, self.breaks_at = folder, parts, breaks_at
        self.brought: list[int] = []
        self.most_on_disk = 0

    def __call__(self, number: int, path: Path) -> None:
        if number == self.breaks_at:
            self.breaks_at = None
            raise Cut
        if not path.exists():
            self.brought.append(number)
            path.write_bytes(self.parts[number])
        on_disk = sum(p.stat().st_size for p in self.folder.glob("*") if p.is_file())
        self.most_on_disk = max(self.most_on_disk, on_disk)


def run(tmp_path: Path, origin: Origin) -> Unpacker:
    unpacker = Unpacker(tmp_path / "out", Placing(), Most(1 << 30))
    unpack_parts(tmp_path / "staging", len(origin.parts), origin, unpacker)
    return unpacker


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 13, 40])
@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_cut_gives_the_same_files(tmp_path: Path, parts: int, format: int) -> None:
    origin = Origin(tmp_path / "staging", cut(parts, format))
    assert run(tmp_path, origin).files == len(FILES)
    assert tree(tmp_path / "out") == FILES
    assert origin.brought == list(range(len(origin.parts)))


def test_about_one_part_is_on_disk(tmp_path: Path) -> None:
    parts = cut(5)
    origin = Origin(tmp_path / "staging", parts)
    run(tmp_path, origin)
    # what straddles a border is kept beside the part: a member and the reader's block
    assert origin.most_on_disk <= len(parts[0]) + 9000 + 12_000


@pytest.mark.parametrize("breaks_at", range(1, 13))
def test_an_interrupted_run_fetches_no_part_twice(tmp_path: Path, breaks_at: int) -> None:
    origin = Origin(tmp_path / "staging", cut(13), breaks_at)
    with pytest.raises(Cut):
        run(tmp_path, origin)
    run(tmp_path, origin)
    assert tree(tmp_path / "out") == FILES
    assert origin.brought == list(range(len(origin.parts)))


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    parts = cut(4)
    parts[2] = bytes(range(256)) * (len(parts[2]) // 256) + bytes(len(parts[2]) % 256)
    with pytest.raises(DataError, match="part 2 of the split archive is damaged"):
        run(tmp_path, Origin(tmp_path / "staging", parts))
