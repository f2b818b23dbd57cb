"""Archives made hostile on purpose: refused by name, and nothing outside the target is touched."""

from __future__ import annotations

import gzip
import io
import os
import random
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from viscot_core.errors import DataError
from viscot_core.sources import archives
from viscot_core.sources.archives import Damaged, UnpackLimits, unpack
from viscot_core.sources.catalog import Placing

FILES = {"top/a.txt": b"a" * 10, "top/sub/b.txt": b"b" * 2000, "c.txt": b""}


def make_zip(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return path


def make_tar(path: Path, files: dict[str, bytes], extra: tuple[tarfile.TarInfo, ...] = ()) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in extra:
            archive.addfile(info)
    return path


def make(kind: str, folder: Path, files: dict[str, bytes]) -> Path:
    return make_zip(folder / "x.zip", files) if kind == "zip" else make_tar(folder / f"x.{kind}", files)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def kind_of(suffix: str) -> str:
    return "zip" if suffix == "zip" else "tar"


@pytest.mark.parametrize("suffix", ["zip", "tar", "tgz"])
def test_files_are_unpacked_and_not_written_twice(tmp_path: Path, suffix: str) -> None:
    archive = make(suffix, tmp_path, FILES)
    into = tmp_path / "out"
    done = unpack(archive, kind_of(suffix), into)
    assert tree(into) == FILES
    assert (done.files, done.total) == (3, 2010)
    before = {p: p.stat().st_ino for p in into.rglob("*") if p.is_file()}
    (into / "c.txt").unlink()
    (into / "top/a.txt").write_bytes(b"cut")
    unpack(archive, kind_of(suffix), into)
    assert tree(into) == FILES
    assert (into / "top/sub/b.txt").stat().st_ino == before[into / "top/sub/b.txt"]


@pytest.mark.parametrize(
    ("placing", "expected"),
    [
        (Placing(keep_from=("sub",)), {"top/a.txt", "sub/b.txt", "c.txt"}),
        (Placing(keep_after=("top",)), {"a.txt", "sub/b.txt"}),
        (Placing(flatten=True), {"a.txt", "b.txt", "c.txt"}),
        (Placing(only=(".jpg",)), set()),
    ],
)
def test_members_go_where_the_catalogue_says(tmp_path: Path, placing: Placing, expected: set[str]) -> None:
    unpack(make_zip(tmp_path / "x.zip", FILES), "zip", tmp_path / "out", placing)
    assert set(tree(tmp_path / "out")) == expected


@pytest.mark.parametrize("suffix", ["zip", "tar", "tgz"])
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("/etc/viscot-was-here", "absolute"),
        ("../outside.txt", "leaves the folder"),
        ("top/../../outside.txt", "leaves the folder"),
        ("..\\outside.txt", "not safe"),
        ("C:/outside.txt", "not safe"),
    ],
)
def test_a_member_that_leaves_the_target_is_refused(tmp_path: Path, suffix: str, name: str, why: str) -> None:
    archive = make(suffix, tmp_path, {"fine.txt": b"1", name: b"2"})
    with pytest.raises(DataError, match=f"is refused: .*{why}") as error:
        unpack(archive, kind_of(suffix), tmp_path / "in" / "out")
    assert repr(name) in str(error.value)
    found = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert found <= {archive.name, "in/out/fine.txt"}


def test_pythons_filter_stands_beneath_our_own_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should a check of ours be wrong one day, a tar still writes nothing outside."""
    monkeypatch.setattr(archives, "safe_name", lambda member: None)
    archive = make_tar(tmp_path / "x.tar", {"top/../../outside.txt": b"2"})
    with pytest.raises(DataError, match=r"is refused: .*outside the destination"):
        unpack(archive, "tar", tmp_path / "in" / "out")
    assert not list(tmp_path.rglob("outside.txt"))


@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_viscots_own_records_are_out_of_reach(tmp_path: Path, suffix: str) -> None:
    archive = make(suffix, tmp_path, {".viscot/lock.json": b"{}"})
    with pytest.raises(DataError, match=r"'\.viscot/lock\.json' is refused: viscot keeps its own records"):
        unpack(archive, kind_of(suffix), tmp_path / "out")
    assert not (tmp_path / "out" / ".viscot").exists()


def test_a_tar_of_a_whole_folder_names_the_folder_itself(tmp_path: Path) -> None:
    here = tarfile.TarInfo("./")
    here.type = tarfile.DIRTYPE
    archive = make_tar(tmp_path / "x.tar", {"./a/b.txt": b"1"}, (here,))
    unpack(archive, "tar", tmp_path / "out")
    assert tree(tmp_path / "out") == {"a/b.txt": b"1"}


def link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


@pytest.mark.parametrize(
    "member",
    [
        link("way-out", "/etc"),
        link("hard", "/etc/passwd", tarfile.LNKTYPE),
        link("device", "", tarfile.CHRTYPE),
        link("pipe", "", tarfile.FIFOTYPE),
    ],
)
def test_links_and_devices_are_refused(tmp_path: Path, member: tarfile.TarInfo) -> None:
    archive = make_tar(tmp_path / "x.tar", FILES, (member,))
    with pytest.raises(DataError, match=f"'{member.name}' is refused: it is a link, a device or sparse"):
        unpack(archive, "tar", tmp_path / "out")
    assert not os.path.lexists(tmp_path / "out" / member.name)


def test_a_link_inside_a_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        info = zipfile.ZipInfo("way-out")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc")
    with pytest.raises(DataError, match="'way-out' is refused: it is a link"):
        unpack(tmp_path / "x.zip", "zip", tmp_path / "out")


def test_a_link_that_waits_in_the_target_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "top").symlink_to(outside)
    with pytest.raises(DataError, match="is a link"):
        unpack(make_zip(tmp_path / "x.zip", FILES), "zip", tmp_path / "out")
    assert not any(outside.iterdir())


@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_two_members_of_one_name_are_refused(tmp_path: Path, suffix: str) -> None:
    archive = make(suffix, tmp_path, {"x/a.txt": b"1", "y/a.txt": b"2"})
    with pytest.raises(DataError, match=r"'y/a\.txt' is refused: another member is already called a\.txt"):
        unpack(archive, kind_of(suffix), tmp_path / "out", Placing(flatten=True))


def test_a_file_where_a_folder_should_be_is_refused(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "x.tar", {"a": b"1", "a/b": b"2"})
    with pytest.raises(DataError, match=r"'a/b' is refused: its folder .* is a file"):
        unpack(archive, "tar", tmp_path / "out")


@pytest.mark.parametrize("suffix", ["zip", "tgz"])
def test_a_bomb_is_refused_before_it_bursts(tmp_path: Path, suffix: str) -> None:
    archive = make(suffix, tmp_path, {"small.txt": b"1", "bomb.txt": bytes(5_000_000)})
    with pytest.raises(DataError, match=r"'bomb\.txt' is refused: with it the archive would unpack to over"):
        unpack(archive, kind_of(suffix), tmp_path / "out", limits=UnpackLimits(ratio=10, floor=1000))
    assert set(tree(tmp_path / "out")) <= {"small.txt"}


@pytest.mark.parametrize("suffix", ["zip", "tar", "tgz"])
def test_a_damaged_archive_says_so(tmp_path: Path, suffix: str) -> None:
    archive = make(suffix, tmp_path, {"a.bin": os.urandom(5000), "b.bin": os.urandom(5000)})
    archive.write_bytes(archive.read_bytes()[:3000])
    with pytest.raises(Damaged, match="the archive is damaged"):
        unpack(archive, kind_of(suffix), tmp_path / "out")
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize("suffix", ["zip", "tar", "tgz", "txz", "tbz2"])
def test_any_byte_may_be_wrong(tmp_path: Path, suffix: str) -> None:
    whole = make_any(tmp_path / f"x.{suffix}").read_bytes()
    draw, refusals = random.Random(suffix), 0
    for number in range(60):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 1, 5))):
            data[draw.randrange(len(data))] = draw.randrange(256)
        broken, into = tmp_path / "broken", tmp_path / str(number) / "out"
        broken.write_bytes(data[: draw.choice((len(data), len(data) // 2))])
        try:
            unpack(broken, kind_of(suffix), into)
        except DataError:
            refusals += 1
        assert {p.name for p in into.parent.iterdir()} == {"out"} and not list(into.glob(".unpacking-*"))
    assert refusals > 20


def make_any(path: Path) -> Path:
    if path.suffix == ".zip":
        return make_zip(path, FILES)
    with tarfile.open(
        path, "w:" + {".tar": "", ".tgz": "gz", ".txz": "xz", ".tbz2": "bz2"}[path.suffix]
    ) as tar:
        for name, data in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "x.zip", {"a.txt": b"abc"})
    data = bytearray(archive.read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + at] |= 1
    archive.write_bytes(data)
    with pytest.raises(DataError, match=r"'a\.txt' is refused: it is encrypted"):
        unpack(archive, "zip", tmp_path / "out")


def test_a_zips_list_of_members_is_not_read_at_any_length(tmp_path: Path) -> None:
    """The end of the archive says how long it is; the file may be sparse, and the list bytes of any kind."""
    end = b"PK\x05\x06" + bytes(4) + struct.pack("<HHIIH", 1, 1, 200 << 20, 0, 0)
    with (tmp_path / "x.zip").open("wb") as file:
        file.seek(200 << 20)
        file.write(end)
    tracemalloc.start()
    with pytest.raises(DataError, match="list of members has 209,715,200 bytes"):
        unpack(tmp_path / "x.zip", "zip", tmp_path / "out")
    assert tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()


def test_a_zip_with_a_wrong_checksum_leaves_no_file(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "x.zip", {"a.txt": b"abcdefgh"}, zipfile.ZIP_STORED)
    archive.write_bytes(archive.read_bytes().replace(b"abcdefgh", b"abcdefgX"))
    with pytest.raises(DataError, match="is damaged"):
        unpack(archive, "zip", tmp_path / "out")
    assert not tree(tmp_path / "out")


def test_damage_in_the_middle_of_a_tar_is_not_taken_for_its_end(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "x.tar", {f"{n}.txt": b"x" * 512 for n in range(4)})
    data = bytearray(archive.read_bytes())
    data[2048:2560] = os.urandom(512)
    archive.write_bytes(data)
    with pytest.raises(DataError, match="no member starts where one should"):
        unpack(archive, "tar", tmp_path / "out")


def header(name: str, kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE]
)
def test_a_name_of_a_gigabyte_is_not_read(tmp_path: Path, kind: bytes) -> None:
    """A megabyte of gzip holds it; tarfile would read it into memory at once."""
    with gzip.open(tmp_path / "x.tgz", "wb", compresslevel=1) as file:
        file.write(header("x", kind, 1 << 30))
        for _ in range(64):
            file.write(b"a" * (1 << 20))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"a name or an attribute of 1,073,741,824 bytes"):
        unpack(tmp_path / "x.tgz", "tar", tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


def test_a_sparse_map_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(header("x", tarfile.GNUTYPE_SPARSE, 0) + bytes(10240))
    with pytest.raises(DataError, match="'x' is refused: it is a link, a device or sparse"):
        unpack(tmp_path / "x.tar", "tar", tmp_path / "out")
    info = tarfile.TarInfo("x")
    info.size, info.pax_headers = 512, {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.PAX_FORMAT) + b"9" * 512 + bytes(10240))
    with pytest.raises(DataError, match="is refused: it is a link, a device or sparse"):
        unpack(tmp_path / "x.tar", "tar", tmp_path / "out")


@pytest.mark.parametrize("folders", [False, True])
def test_a_hundred_thousand_empty_members_are_refused(tmp_path: Path, folders: bool) -> None:
    with gzip.open(tmp_path / "x.tgz", "wb", compresslevel=1) as file:
        for number in range(12_000):
            kind = tarfile.DIRTYPE if folders else tarfile.REGTYPE
            file.write(header(f"{number}.txt", kind, 0))
    with pytest.raises(DataError, match="the archive has more than 10,000 members"):
        unpack(tmp_path / "x.tgz", "tar", tmp_path / "out", Placing(only=(".jpg",)))
    archive = make_zip(tmp_path / "x.zip", {f"{number}.txt": b"" for number in range(30)})
    with pytest.raises(DataError, match="more than 20 members"):
        unpack(archive, "zip", tmp_path / "out", limits=UnpackLimits(few=20))


def test_names_are_limited_each_and_together(tmp_path: Path) -> None:
    for name in ("n" * 5000, "/".join("d" * 101)):
        with pytest.raises(DataError, match="its name is too long"):
            unpack(make_tar(tmp_path / "x.tar", {name: b""}), "tar", tmp_path / "out")
    archive = make_tar(tmp_path / "x.tar", {f"{n}{'n' * 90}": b"" for n in range(10)})
    with pytest.raises(DataError, match="names have over 500 characters together"):
        unpack(archive, "tar", tmp_path / "out", limits=UnpackLimits(names=500))


def test_what_is_skipped_counts_too(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "x.tgz", {"bomb.txt": bytes(5_000_000), "a.jpg": b"1"})
    with pytest.raises(DataError, match=r"'bomb\.txt' is refused: with it the archive would unpack to over"):
        unpack(archive, "tar", tmp_path / "out", Placing(only=(".jpg",)), limits=UnpackLimits(10, 1000))
