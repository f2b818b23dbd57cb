"""One URL becomes one file over a network that drops, stalls, lies and is busy."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from threading import Event

import httpx
import pytest
from web_server import Web

from viscot_core.errors import DataError
from viscot_core.sources.remote import Remote
from viscot_core.sources.transfer import Fetched, Patience, Stopped, download, finished

DATA = random.Random(1).randbytes(300_000)
SHA = hashlib.sha256(DATA).hexdigest()
QUICK = Patience(attempts=4, first_wait=0.001, longest_wait=0.05)


@pytest.fixture
def client() -> httpx.Client:
    return httpx.Client(follow_redirects=True, timeout=0.5)


def get(
    web: Web, to: Path, client: httpx.Client, sha256: str | None = None, size: int | None = None
) -> Fetched:
    return download(Remote(web.url + "/a.bin", size=size, sha256=sha256), to, client, patience=QUICK)


@pytest.mark.parametrize(
    "faults",
    [
        [],
        ["drop:1000"],
        ["drop:100000", "drop:50000", "drop:1"],
        ["stall:70000"],
        ["code:503", "code:429", "drop:200000", "code:500"],
        ["code:429:0"],
        ["drop:100000", "no-range"],
        ["long:500"],
        ["weak", "drop:10"],
        ["odd-etag", "drop:10"],
        ["drop:10+no-range", "drop:100000+no-range"],
    ],
)
def test_the_file_comes_whole_whatever_happens(
    web: Web, tmp_path: Path, client: httpx.Client, faults: list[str]
) -> None:
    web.files["/a.bin"], web.faults["/a.bin"] = DATA, list(faults)
    to = tmp_path / "new" / "a.bin"
    assert get(web, to, client) == Fetched(len(DATA), SHA)
    assert to.read_bytes() == DATA
    assert sorted(path.name for path in to.parent.iterdir()) == ["a.bin", "a.bin.note"]
    assert finished(to) == Fetched(len(DATA), SHA)


@pytest.mark.parametrize("size", [0, None])
def test_an_empty_file_comes_too(web: Web, tmp_path: Path, client: httpx.Client, size: int | None) -> None:
    web.files["/a.bin"] = b""
    assert get(web, tmp_path / "a.bin", client, size=size).size == 0
    assert (tmp_path / "a.bin").read_bytes() == b""


def test_a_dropped_download_goes_on_from_its_last_byte(
    web: Web, tmp_path: Path, client: httpx.Client
) -> None:
    web.files["/a.bin"], web.faults["/a.bin"] = DATA, ["drop:100000", "drop:100000"]
    get(web, tmp_path / "a.bin", client)
    assert [served.range for served in web.log] == [None, "bytes=100000-", "bytes=200000-"]
    assert web.sent("/a.bin") == len(DATA)


def test_a_complete_file_is_not_fetched_again(web: Web, tmp_path: Path, client: httpx.Client) -> None:
    web.files["/a.bin"] = DATA
    get(web, tmp_path / "a.bin", client)
    web.log.clear()
    assert get(web, tmp_path / "a.bin", client) == Fetched(len(DATA), SHA)
    assert not web.log


def test_another_run_goes_on_where_one_gave_up(web: Web, tmp_path: Path, client: httpx.Client) -> None:
    web.files["/a.bin"], web.faults["/a.bin"] = DATA, ["drop:120000", *["code:503"] * 4]
    with pytest.raises(DataError, match="120,000 bytes so far are kept, run the command again"):
        get(web, tmp_path / "a.bin", client)
    assert get(web, tmp_path / "a.bin", client) == Fetched(len(DATA), SHA)
    assert web.sent("/a.bin") == len(DATA)


def test_a_file_that_changed_meanwhile_starts_over(web: Web, tmp_path: Path, client: httpx.Client) -> None:
    web.files["/a.bin"], web.faults["/a.bin"] = DATA, ["drop:120000", *["code:503"] * 4]
    with pytest.raises(DataError):
        get(web, tmp_path / "a.bin", client)
    web.files["/a.bin"] = other = DATA[::-1]
    assert get(web, tmp_path / "a.bin", client).sha256 == hashlib.sha256(other).hexdigest()


def test_a_part_without_a_validator_is_not_trusted(web: Web, tmp_path: Path, client: httpx.Client) -> None:
    web.files["/a.bin"], web.faults["/a.bin"] = DATA, ["weak"]
    (tmp_path / "a.bin.part").write_bytes(b"something else")
    assert get(web, tmp_path / "a.bin", client).sha256 == SHA


def test_wrong_content_is_fetched_once_more_then_refused(
    web: Web, tmp_path: Path, client: httpx.Client
) -> None:
    web.files["/a.bin"], web.faults["/a.bin"] = DATA, ["garbage"]
    assert get(web, tmp_path / "a.bin", client, sha256=SHA).sha256 == SHA
    web.faults["/a.bin"] = ["garbage", "garbage"]
    with pytest.raises(DataError, match=f"is not the expected file: its sha256 is .*, not {SHA}"):
        get(web, tmp_path / "b.bin", client, sha256=SHA)
    assert not (tmp_path / "b.bin").exists() and not (tmp_path / "b.bin.part").exists()


def test_a_server_that_declares_too_little_is_caught_by_size_or_sum(
    web: Web, tmp_path: Path, client: httpx.Client
) -> None:
    web.files["/a.bin"], web.faults["/a.bin"] = DATA, ["short:5"]
    assert get(web, tmp_path / "a.bin", client, sha256=SHA).sha256 == SHA
    web.faults["/a.bin"] = ["short:5"]
    assert get(web, tmp_path / "b.bin", client, size=len(DATA)).sha256 == SHA


@pytest.mark.parametrize(
    ("code", "says"), [(404, "it has moved"), (403, "needs a login"), (418, "try again later")]
)
def test_a_refusal_is_told_at_once(
    web: Web, tmp_path: Path, client: httpx.Client, code: int, says: str
) -> None:
    web.files["/a.bin"], web.faults["/a.bin"] = DATA, [f"code:{code}"] * 9
    with pytest.raises(DataError, match=f"answered {code}.*{says}"):
        get(web, tmp_path / "a.bin", client)
    assert len(web.log) == 1


def test_no_server_at_all(tmp_path: Path, client: httpx.Client) -> None:
    with pytest.raises(DataError, match="could not be fetched"):
        download(Remote("http://127.0.0.1:9/x"), tmp_path / "x", client, patience=QUICK)


def test_a_stop_keeps_what_came(web: Web, tmp_path: Path, client: httpx.Client) -> None:
    web.files["/a.bin"] = DATA * 20
    stop, seen = Event(), []

    def progress(here: int, of: int | None) -> None:
        seen.append((here, of))
        stop.set()

    with pytest.raises(Stopped):
        download(Remote(web.url + "/a.bin"), tmp_path / "a.bin", client, stop=stop, progress=progress)
    assert (tmp_path / "a.bin.part").stat().st_size == seen[-1][0] > 0
    assert seen[-1][1] == len(DATA) * 20
    get(web, tmp_path / "a.bin", client)
    assert (tmp_path / "a.bin").read_bytes() == DATA * 20


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("html", "sends a web page instead of the file: it has moved or needs a login"),
        ("gzip", "sends gzip-encoded bytes, not the stored ones"),
        ("unsized", "comes without its length, so a cut would go unnoticed"),
        ("part", "a part of the file without saying which"),
    ],
)
def test_what_is_certainly_not_the_file_is_refused(
    web: Web, tmp_path: Path, client: httpx.Client, fault: str, says: str
) -> None:
    web.files["/a.bin"], web.faults["/a.bin"] = DATA, [fault] * 20
    with pytest.raises(DataError, match=says):
        get(web, tmp_path / "a.bin", client)
    assert not (tmp_path / "a.bin").exists() and finished(tmp_path / "a.bin") is None
    web.faults["/a.bin"] = []
    assert get(web, tmp_path / "a.bin", client) == Fetched(len(DATA), SHA)


@pytest.mark.parametrize("fault", ["changed", "wrong-range", "part", "odd-etag"])
def test_halves_of_two_files_are_never_joined(
    web: Web, tmp_path: Path, client: httpx.Client, fault: str
) -> None:
    web.files["/a.bin"], web.faults["/a.bin"] = DATA, ["drop:120000", fault]
    assert get(web, tmp_path / "a.bin", client) == Fetched(len(DATA), SHA)
    assert (tmp_path / "a.bin").read_bytes() == DATA


@pytest.mark.parametrize(
    "faults",
    [
        [f"drop:{n}+no-range" for n in random.Random(2).choices(range(1000, 290_000), k=90)],
        [f"drop:{n * 1000}+no-range" for n in range(1, 90)],  # a little further each time
        ["drop:150000", "code:416"] * 45,
        ["drop:150000", "wrong-range"] * 45,
        ["drop:150000", "changed"] * 45,
    ],
)
def test_a_server_that_always_starts_anew_is_given_up(
    web: Web, tmp_path: Path, client: httpx.Client, faults: list[str]
) -> None:
    web.files["/a.bin"], web.faults["/a.bin"] = DATA, faults
    with pytest.raises(DataError, match="could not be fetched"):
        get(web, tmp_path / "a.bin", client)
    assert len(web.log) <= 2 * QUICK.attempts + 1


def test_a_download_of_tiny_steps_ends(web: Web, tmp_path: Path, client: httpx.Client) -> None:
    web.files["/a.bin"], web.faults["/a.bin"] = DATA, ["drop:1"] * 90
    with pytest.raises(DataError, match="the 20 bytes so far are kept"):
        download(
            Remote(web.url + "/a.bin"),
            tmp_path / "a.bin",
            client,
            patience=Patience(attempts=4, most_attempts=20, first_wait=0.0),
        )


def test_a_file_that_grows_beyond_the_catalogue_is_cut_off(
    web: Web, tmp_path: Path, client: httpx.Client
) -> None:
    web.files["/a.bin"], web.faults["/a.bin"] = DATA, ["endless"]
    remote = Remote(web.url + "/a.bin", most=1_000_000)
    with pytest.raises(DataError, match="has more than 1,000,000 bytes, far more than the catalogue says"):
        download(remote, tmp_path / "a.bin", client, patience=QUICK)
    assert not (tmp_path / "a.bin.part").exists()
    web.files["/a.bin"] = bytes(1_000_001)
    with pytest.raises(DataError, match="far more than the catalogue"):
        download(remote, tmp_path / "a.bin", client, patience=QUICK)
    assert web.sent("/a.bin") < 50_000_000
