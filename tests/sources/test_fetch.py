"""Fetching a whole world of sources: complete, repeatable, in its place; the plan and the command."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fetched import get, images, tree
from made_sources import make_world
from web_server import Web

from viscot_core.data.benchmarks.synth import write_benchmark
from viscot_core.errors import DataError
from viscot_core.sources.catalog import Catalog, load_catalog, select
from viscot_core.sources.fetch import FetchOutcome
from viscot_core.sources.plan import plan
from viscot_core.tasks.benchmarks.task import Benchmarks


def test_everything_comes_and_lies_where_it_should(hub: Web, tmp_path: Path) -> None:
    catalog, expected = make_world(hub)
    outcome = get(tmp_path, catalog)
    assert not outcome.failed
    assert sorted(outcome.done) == ["hub-file", "rows/one.json", "rows/two.json", "split", "tgz", "zip"]
    assert images(tmp_path) == expected
    assert (tmp_path / "cot/other").readlink() == Path("../cot/pics")
    assert (tmp_path / "cot/other/000.jpg").read_bytes() == expected["cot/pics/000.jpg"]
    state = {s.name: s.state(tmp_path) for s in catalog.sources}
    assert state.pop("gated") == "absent" and set(state.values()) == {"complete"}
    lock = json.loads((tmp_path / ".viscot/lock.json").read_text())
    assert lock[hub.url + "/z.zip"] == hashlib.sha256(hub.files["/z.zip"]).hexdigest()
    assert not (tmp_path / ".viscot/staging").exists()


def test_a_folder_gets_its_other_name_whichever_is_here(hub: Web, tmp_path: Path) -> None:
    catalog, _ = make_world(hub)
    turned = catalog.model_copy(update={"links": {"cot/pics": "cot/other"}})
    get(tmp_path, turned, "split")
    assert (tmp_path / "cot/other").readlink() == Path("../cot/pics")
    assert not (tmp_path / "cot/pics").is_symlink()


def test_a_second_fetch_asks_for_nothing(hub: Web, tmp_path: Path) -> None:
    catalog, _ = make_world(hub)
    get(tmp_path, catalog)
    before = tree(tmp_path)
    hub.log.clear()
    todo = plan(tmp_path, select(catalog, ["all"]))
    assert not todo.jobs and [s.name for s in todo.by_hand] == ["gated"]
    assert get(tmp_path, catalog) == FetchOutcome()
    assert not hub.log and tree(tmp_path) == before


def test_some_data_sets_of_a_purpose(hub: Web, tmp_path: Path) -> None:
    catalog, _ = make_world(hub)
    get(tmp_path, catalog, "bench:two")
    assert list(images(tmp_path)) == ["rows/two.json"]
    assert catalog.named("rows").state(tmp_path) == "partial"
    assert catalog.named("zip").state(tmp_path) == "absent"


def folder_world(hub: Web, made: Path) -> Catalog:
    """The hub with a small V*Bench, as ``data synth`` writes it, and files that nobody wants."""
    write_benchmark(made, "vstar", count=6)
    for path in (made / "bench/vstar").rglob("*.*"):
        hub.files[f"craigwu/vstar_bench/{path.relative_to(made / 'bench/vstar')}"] = path.read_bytes()
    hub.files["craigwu/vstar_bench/direct_attributes/README.md"] = b"words"
    hub.files["craigwu/vstar_bench/GPT4V-hard/1.json"] = b"{}"
    return load_catalog()


def test_a_folder_of_the_hub_comes_file_by_file(hub: Web, tmp_path: Path) -> None:
    catalog, made, root = folder_world(hub, tmp_path / "made"), tmp_path / "made", tmp_path / "data"
    jpg = max(name for name in hub.files if name.endswith(".jpg"))
    hub.faults[jpg] = ["code:404"]
    assert list(get(root, catalog, "bench:vstar").failed) == [f"vstar/{Path(jpg).parent.name}"]
    assert catalog.named("vstar").state(root) == "partial"
    hub.log.clear()
    assert not get(root, catalog, "bench:vstar").failed
    assert images(root) == images(made)
    assert catalog.named("vstar").state(root) == "complete"
    got = [served.path for served in hub.log if served.method == "GET"]
    assert set(got) == {jpg, f"{jpg.removesuffix('jpg')}json"}  # what was here is not fetched again
    assert [i.question for i in Benchmarks(root, ("vstar",)).load().items] == [
        i.question for i in Benchmarks(made, ("vstar",)).load().items
    ]


def test_two_fetches_do_not_meet(hub: Web, tmp_path: Path) -> None:
    import fcntl

    catalog, _ = make_world(hub)
    (tmp_path / ".viscot").mkdir()
    with (tmp_path / ".viscot/fetching").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DataError, match=r"another fetch into .* is running"):
            get(tmp_path, catalog)


def test_the_disk_is_planned_with_the_archives_in_it(hub: Web, tmp_path: Path) -> None:
    catalog = load_catalog()
    todo = plan(tmp_path, select(catalog, ["cot-images", "gqa", "refcoco"]))
    gb = 1_000_000_000
    assert 138 * gb < todo.to_fetch - 20.3 * gb - 13.5 * gb < 139.5 * gb
    assert todo.disk(4) > todo.to_fetch + 20 * gb


def test_the_command_fetches_and_says_what_is_left(
    hub: Web, tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog, expected = make_world(hub)
    monkeypatch.setattr("viscot_core.sources.catalog.load_catalog", lambda: catalog)
    ran = cli("data", "fetch", "--for", "all", "--data", tmp_path, "--yes")
    assert ran.code == 3 and "6 downloads done" in ran.err and "Get by hand: gated" in ran.err
    assert images(tmp_path) == expected
    hub.faults["/z.zip"] = ["code:404"]
    ran = cli("data", "fetch", "--for", "zip,rows", "--data", tmp_path / "new", "--yes")
    assert ran.code == 3 and "zip: " in ran.err and "1 of 3 downloads failed" in ran.err
    ran = cli("data", "fetch", "--for", "zip", "--data", tmp_path / "new")
    assert ran.code == 2 and "pass --yes" in ran.err
    (tmp_path / "rows/one.json").unlink()
    hub.files["/rows/one.json"] = b"other"
    ran = cli("data", "fetch", "--for", "rows", "--data", tmp_path, "--yes")
    assert ran.code == 1 and "rows/one.json: " in ran.err and "1 of 1 downloads failed" in ran.err
    ran = cli("data", "list", "--data", tmp_path)
    assert "partial" in next(line for line in ran.out.splitlines() if line.startswith("rows"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<!DOCTYPE html><title>No access</title>", "it is a web page"),
        (gzip.compress(b'[{"a": 1}]', mtime=0), "it is no complete JSON file"),
        (b'[{"a": 1}', "it is no complete JSON file"),
        (b"", "it is no complete JSON file"),
    ],
)
def test_what_is_not_the_file_is_never_locked(hub: Web, tmp_path: Path, content: bytes, says: str) -> None:
    catalog, expected = make_world(hub)
    right, hub.files["/rows/one.json"] = hub.files["/rows/one.json"], content
    why = get(tmp_path, catalog, "rows").failed["rows/one.json"]
    assert says in why and "the download is deleted, run the command again" in why
    assert not (tmp_path / "rows/one.json").exists()
    hub.files["/rows/one.json"] = right
    assert not get(tmp_path, catalog, "rows").failed
    assert (tmp_path / "rows/one.json").read_bytes() == expected["rows/one.json"]


def test_relock_accepts_what_the_origin_has_now(
    hub: Web, tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog, _ = make_world(hub)
    monkeypatch.setattr("viscot_core.sources.catalog.load_catalog", lambda: catalog)
    get(tmp_path, catalog, "rows", "zip")
    hub.files["/rows/one.json"] = b'[{"a": 2}]'
    (tmp_path / "rows/one.json").unlink()
    fetch_rows = ("data", "fetch", "--for", "rows", "--data", tmp_path, "--yes")
    ran = cli(*fetch_rows)
    assert ran.code == 1 and "accept it with --relock" in ran.err
    before = json.loads((tmp_path / ".viscot/lock.json").read_text())
    assert cli(*fetch_rows, "--relock", "rows").code == 0
    assert (tmp_path / "rows/one.json").read_bytes() == b'[{"a": 2}]'
    after = json.loads((tmp_path / ".viscot/lock.json").read_text())
    assert [key for key in before if before[key] != after[key]] == [hub.url + "/rows/one.json"]
    hub.files["/rows/one.json"] = b'[{"a": 3}]'
    assert cli("data", "fetch", "--relock", "rows", "--data", tmp_path, "--yes").code == 0
    assert (tmp_path / "rows/one.json").read_bytes() == b'[{"a": 3}]'
