"""Fetching where something goes wrong: hubs, disks, archives, kills. The next call brings the rest."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import made_sources
import pytest
from fetched import QUICK, get, images, tree
from made_sources import HUB, make_world
from web_server import Web

from viscot_core.errors import DataError
from viscot_core.sources.archives import UnpackLimits
from viscot_core.sources.catalog import Catalog, load_catalog, select
from viscot_core.sources.fetch import fetch
from viscot_core.sources.hub import locate
from viscot_core.sources.plan import plan, staging_of
from viscot_core.sources.remote import Lost, Remote


def test_a_hub_that_is_away_is_asked_again(hub: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import viscot_core.sources.fetch as module

    catalog, expected = make_world(hub)
    away = [Lost("ConnectError"), Lost("the hub answered 503")]

    def locate(repo: str, path: str) -> Remote:
        if away:
            raise away.pop()
        return real(repo, path)

    real = module.locate
    monkeypatch.setattr(module, "locate", locate)
    assert not get(tmp_path, catalog, "hub-file").failed
    assert (tmp_path / "big.json").read_bytes() == expected["big.json"]
    (tmp_path / "big.json").unlink()
    away += [Lost("ConnectError")] * 9
    why = get(tmp_path, catalog, "hub-file").failed["hub-file"]
    assert "cannot be located at the moment (ConnectError)" in why


def test_no_hub_at_all_is_a_failure_not_a_crash(hub: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    nowhere = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", nowhere)
    with pytest.raises(Lost, match="ConnectError"):
        locate("someone/Images", "big.json")


def test_faults_on_the_way_change_nothing(hub: Web, tmp_path: Path) -> None:
    catalog, expected = make_world(hub)
    hub.faults = {
        "/rows/two.json": ["code:503", "drop:100"],
        "/z.zip": ["drop:1000", "drop:1000"],
        "/t.tgz": ["code:429:0", "long:4"],
        f"{HUB}/split/part_01": ["drop:5000", "garbage"],
        f"{HUB}/split/part_03": ["short:100"],
        f"{HUB}/big.json": ["drop:7", "code:500"],
    }
    assert not get(tmp_path, catalog).failed
    assert images(tmp_path) == expected


def test_what_fails_is_told_and_the_rest_comes(hub: Web, tmp_path: Path) -> None:
    catalog, expected = make_world(hub)
    hub.faults["/z.zip"] = ["code:404"]
    outcome = get(tmp_path, catalog)
    assert list(outcome.failed) == ["zip"] and "answered 404" in outcome.failed["zip"]
    assert len(outcome.done) == 5
    assert not get(tmp_path, catalog).failed
    assert images(tmp_path) == expected


def test_a_folder_that_the_hub_has_no_more(hub: Web, tmp_path: Path) -> None:
    failed = get(tmp_path, load_catalog(), "bench:visualprobe").failed
    assert "holds no file any more" in failed["visualprobe"]


def test_an_interrupted_archive_is_partial(hub: Web, tmp_path: Path) -> None:
    catalog, _ = make_world(hub)
    hub.faults["/z.zip"] = ["drop:1000", *["code:503"] * 4]
    assert "could not be fetched" in get(tmp_path, catalog, "zip").failed["zip"]
    assert catalog.named("zip").state(tmp_path) == "partial"


@pytest.mark.parametrize(
    ("path", "name"), [("/z.zip", "zip"), ("/t.tgz", "tgz"), (f"{HUB}/split/part_00", "split")]
)
def test_a_page_in_an_archives_place_is_not_kept(hub: Web, tmp_path: Path, path: str, name: str) -> None:
    catalog, expected = make_world(hub)
    right, hub.files[path] = hub.files[path], b"<html>You have no access.</html>" * 20
    why = get(tmp_path, catalog, name).failed[name]
    assert "archive is damaged (" in why and "the download is deleted, run the command again" in why
    hub.files[path] = right
    assert not get(tmp_path, catalog, name).failed
    placed = images(tmp_path)
    assert placed and placed.items() <= expected.items()


def test_a_staged_file_that_is_gone_is_fetched_again(hub: Web, tmp_path: Path) -> None:
    catalog, expected = make_world(hub)
    get(tmp_path, catalog, "zip", "hub-file")
    for name, staged in (("zip", "archive"), ("hub-file", "file")):
        source = catalog.named(name)
        record = json.loads((tmp_path / f".viscot/{name}.json").read_text())[source.downloads[0].key]
        staging = staging_of(tmp_path, source, source.downloads[0])
        staging.mkdir(parents=True)
        note = {"done": True, "size": record["bytes"], "sha256": record["sha256"]}
        (staging / f"{staged}.note").write_text(json.dumps(note))
        (tmp_path / f".viscot/{name}.json").unlink()
    (tmp_path / "big.json").unlink()
    assert not get(tmp_path, catalog, "zip", "hub-file").failed
    assert images(tmp_path).items() <= expected.items() and (tmp_path / "big.json").exists()


def test_a_file_that_changed_at_its_origin_is_noticed(hub: Web, tmp_path: Path) -> None:
    catalog, _ = make_world(hub)
    get(tmp_path, catalog, "rows")
    (tmp_path / "rows/one.json").unlink()
    hub.files["/rows/one.json"] = b'[{"a": 2}]'
    assert "is not the expected file" in get(tmp_path, catalog, "rows").failed["rows/one.json"]
    (tmp_path / ".viscot/lock.json").unlink()
    assert not get(tmp_path, catalog, "rows").failed
    assert (tmp_path / "rows/one.json").read_bytes() == b'[{"a": 2}]'


def test_a_hub_file_that_changed_is_noticed_before_it_comes(hub: Web, tmp_path: Path) -> None:
    catalog, expected = make_world(hub)
    get(tmp_path, catalog, "hub-file")
    (tmp_path / "big.json").unlink()
    before, hub.files[f"{HUB}/big.json"] = (tmp_path / ".viscot/lock.json").read_text(), b"{}" * 60_000
    hub.log.clear()
    why = get(tmp_path, catalog, "hub-file").failed["hub-file"]
    assert "is not the expected file" in why and hashlib.sha256(expected["big.json"]).hexdigest() in why
    assert {entry.method for entry in hub.log} == {"HEAD"}
    assert (tmp_path / ".viscot/lock.json").read_text() == before
    (tmp_path / ".viscot/lock.json").unlink()
    assert not get(tmp_path, catalog, "hub-file").failed


def test_a_full_disk_is_told_before_the_first_byte(
    hub: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog, _ = make_world(hub)
    monkeypatch.setattr("viscot_core.sources.fetch.free_bytes", lambda _: 100_000)
    with pytest.raises(
        DataError, match=r"needs about .* GB of free disk for this and has 0\.0 GB; free some"
    ):
        get(tmp_path, catalog)
    assert not hub.log


def test_a_bomb_fails_its_source_only(hub: Web, tmp_path: Path) -> None:
    catalog, _ = make_world(hub)
    todo = plan(tmp_path, select(catalog, ["zip", "rows"]))
    outcome = fetch(tmp_path, todo, catalog, limits=UnpackLimits(ratio=0, floor=1000), patience=QUICK)
    assert "would unpack to over 1,000 bytes" in outcome.failed["zip"]
    assert sorted(outcome.done) == ["rows/one.json", "rows/two.json"]


def kill_often(web: Web, root: Path, catalog: Catalog, kills: int, seed: int) -> int:
    """Kill the fetch ``kills`` times, each after a random share of bytes more; returns how many landed."""
    split = catalog.named("split").downloads[0]
    command = [sys.executable, made_sources.__file__, web.url, str(split.parts), str(split.size), str(root)]
    environment = os.environ | {"HF_ENDPOINT": web.url, "HF_HUB_OFFLINE": "0"}
    draw, landed, share = random.Random(seed), 0, sum(map(len, web.files.values())) / kills
    for _ in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        assert process.stdout and process.stdout.readline()
        goal, patience = web.bytes_sent + draw.uniform(0.0, 1.5) * share, time.monotonic() + 20
        while web.bytes_sent < goal and process.poll() is None and time.monotonic() < patience:
            time.sleep(0.001)
        time.sleep(draw.choice((0.0, draw.uniform(0.0, 0.2))))
        landed += process.poll() is None
        process.kill()  # nothing where it has ended by itself
        process.communicate()
    last = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert last.returncode == 0, last.stdout + last.stderr
    return landed


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_any_moment_the_tree_is_the_same(hub: Web, tmp_path: Path, kills: int) -> None:
    catalog, expected = make_world(hub, files=40 if kills < 10 else 400)
    get(tmp_path / "once", catalog)
    served = sum(map(len, hub.files.values()))
    hub.log.clear()
    hub.bytes_per_second = 1_000_000
    landed = kill_often(hub, tmp_path / "killed", catalog, kills, seed=kills)
    assert images(tmp_path / "killed") == expected
    assert tree(tmp_path / "killed") == tree(tmp_path / "once")
    assert landed >= kills // 2
    # What had reached the disk was kept: a kill costs what was in the sockets of four connections.
    again = sum(entry.sent for entry in hub.log if entry.method == "GET") - served
    print(f"{landed} of {kills} kills landed in a running fetch; {again:,} bytes of {served:,} came twice")
    assert again < landed * 1_000_000


def test_an_interrupt_keeps_what_came_and_says_so(hub: Web, tmp_path: Path) -> None:
    catalog, expected = make_world(hub, files=200)
    hub.bytes_per_second = 500_000
    split = catalog.named("split").downloads[0]
    command = [
        sys.executable,
        made_sources.__file__,
        hub.url,
        str(split.parts),
        str(split.size),
        str(tmp_path),
    ]
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert process.stdout and process.stdout.readline()
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert b"KeyboardInterrupt" in said
    assert list((tmp_path / ".viscot/staging").rglob("*.part"))
    hub.bytes_per_second = None
    assert not get(tmp_path, catalog).failed
    assert images(tmp_path) == expected


def test_an_unexpected_fault_ends_its_own_download_only(
    hub: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog, _ = make_world(hub)
    monkeypatch.setattr("viscot_core.sources.fetch.unpack", lambda *_, **__: 1 / 0)
    outcome = get(tmp_path, catalog, "rows", "zip")
    assert outcome.failed == {"zip": "ZeroDivisionError: division by zero"}
    assert sorted(outcome.done) == ["rows/one.json", "rows/two.json"]


@pytest.mark.parametrize("content", ["{", "[]", "\0"])
def test_a_damaged_record_is_named(hub: Web, tmp_path: Path, content: str) -> None:
    catalog, _ = make_world(hub)
    (tmp_path / ".viscot").mkdir()
    for name in ("lock", "rows"):
        path = tmp_path / f".viscot/{name}.json"
        path.write_text(content)
        with pytest.raises(DataError, match=rf"{name}\.json is damaged .*; remove it"):
            why = get(tmp_path, catalog, "rows").failed
            raise DataError(next(iter(why.values())))
        path.unlink()
