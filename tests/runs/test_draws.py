"""Random numbers of a run that samples: each question has its own, whatever is asked beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_server import Action, JudgeServer, completion, error
from PIL import Image

from viscot_core.data.benchmarks.synth import write_benchmark
from viscot_core.openai_api import waiting
from viscot_core.runs.records import PREDICTIONS_FILE, RUN_FILE, read_run

Cli = Callable[..., Any]
BOX = "[0.1, 0.2, 0.6, 0.7]"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(waiting, "FIRST_WAIT", 0.01)
    write_benchmark(tmp_path / "data", "vstar", count=4)
    return tmp_path / "data"


def seer(number: int, body: dict[str, Any]) -> Action:
    asks_for_box = "bounding box" in str(body["messages"][-1]).lower()
    return completion(BOX if asks_for_box else "The answer is B")


def seeds(server: JudgeServer) -> dict[tuple[str, int], int]:
    """The seed of each request by its messages and which of equal ones it is; the server forgets them."""
    found: dict[tuple[str, int], int] = {}
    for body in sorted(server.requests, key=lambda body: int(body["seed"])):
        words = json.dumps(body["messages"])
        found[words, sum(1 for each, _ in found if each == words)] = int(body["seed"])
    server.requests.clear()
    return found


def run(cli: Cli, server: JudgeServer, data: Path, out: Path, *more: str, code: int = 0) -> Any:
    ran = cli(
        "bench", "run", "vstar", "--data", data, "--model", f"{server.url}#made", "--box-format", "viscot",
        "--order", "file", "--temperature", "0.7", "--out", out, *more,
    )  # fmt: skip
    assert ran.code == code, ran.err
    return ran


def test_every_question_and_repeat_has_a_seed_of_its_own(cli: Cli, data: Path, tmp_path: Path) -> None:
    """All questions of a repeat were asked with one seed, and their answers went up and down together."""
    with JudgeServer(seer) as server:
        run(cli, server, data, tmp_path / "a", "--repeats", "2")
        whole = seeds(server)
        assert len(set(whole.values())) == len(whole) == 8
        assert all(0 <= seed < 2**31 for seed in whole.values())
        assert read_run(tmp_path / "a").settings["draws"] == "item"
        run(cli, server, data, tmp_path / "b", "--concurrency", "1")
        once = seeds(server)
        assert set(once.values()) < set(whole.values()), "a repeat is added: the first ones are as before"
        run(cli, server, data, tmp_path / "b", "--repeats", "2", "--concurrency", "1")
        assert once.keys() == {(words, 0) for words, _ in once}
        assert {*once.values(), *seeds(server).values()} == set(whole.values())
        run(cli, server, data, tmp_path / "c", "--seed", "5", "--repeats", "2")
        assert set(seeds(server).values()) == {seed + 5 for seed in whole.values()}


def test_a_run_that_was_stopped_goes_on_with_the_same_seeds(cli: Cli, data: Path, tmp_path: Path) -> None:
    with JudgeServer(seer) as server:
        run(cli, server, data, tmp_path / "whole", "--policy", "two-turn")
        wanted = seeds(server)
    out = tmp_path / "run"
    with JudgeServer(lambda n, body: error(400, "no") if n % 3 == 2 else seer(n, body)) as server:
        run(cli, server, data, out, "--policy", "two-turn", "--concurrency", "1", code=3)
        found = seeds(server)
    with JudgeServer(seer) as server:
        run(cli, server, data, out, "--policy", "two-turn", "--same-engine")
        assert server.requests
        found |= seeds(server)
    assert found == wanted


def test_an_older_run_goes_on_with_its_own_numbers(cli: Cli, data: Path, tmp_path: Path) -> None:
    """One seed for all questions of a repeat, as it began: answers of both ways never stand in one folder."""
    out = tmp_path / "run"
    with JudgeServer(seer) as server:
        run(cli, server, data, out, "--repeats", "2")
        info = json.loads((out / RUN_FILE).read_text())
        del info["settings"]["draws"]
        (out / RUN_FILE).write_text(json.dumps(info))
        done = (out / PREDICTIONS_FILE).read_text().splitlines(keepends=True)
        (out / PREDICTIONS_FILE).write_text("".join(done[:2]))
        seeds(server)
        run(cli, server, data, out, "--repeats", "2")
        assert set(seeds(server).values()) <= {0, 1}
        assert "draws" not in read_run(out).settings


@pytest.mark.parametrize("old", [False, True])
def test_an_audit_draws_with_the_numbers_of_its_run(cli: Cli, data: Path, tmp_path: Path, old: bool) -> None:
    out = tmp_path / "run"
    with JudgeServer(seer) as server:
        if old:
            run(cli, server, data, out, "--policy", "two-turn", "--limit", "1")
            info = json.loads((out / RUN_FILE).read_text())
            del info["settings"]["draws"]
            (out / RUN_FILE).write_text(json.dumps(info))
            (out / PREDICTIONS_FILE).unlink()
            seeds(server)
        run(cli, server, data, out, "--policy", "two-turn")
        asked = seeds(server)
        assert len(set(asked.values())) == (1 if old else 4)
        ran = cli("audit", out, "--replace", "same", "--no-baselines", "--out", tmp_path / "audit")
        assert ran.code == 0, ran.err
        replayed = seeds(server)
        assert len(replayed) == 4 and replayed.items() <= asked.items()


def test_samples_of_a_greedy_run_have_seeds_of_their_own(cli: Cli, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with JudgeServer(seer) as server:
        run(cli, server, data, out, "--policy", "two-turn", "--temperature", "0")
        server.requests.clear()
        audit = ("audit", out, "--replace", "same", "--no-baselines", "--samples", "2")
        ran = cli(*audit, "--out", tmp_path / "audit")
        assert ran.code == 0, ran.err
        server.requests[:] = [body for body in server.requests if "seed" in body]
        assert len(set(seeds(server).values())) == 8


def test_images_of_a_folder_have_seeds_of_their_own(cli: Cli, tmp_path: Path) -> None:
    """Equal ones under two names too, and after a stop; a row that is asked twice is drawn twice."""
    (tmp_path / "images").mkdir()
    for name in ("a", "b", "c"):
        Image.new("RGB", (64, 48), "red" if name == "c" else "blue").save(tmp_path / "images" / f"{name}.png")
    out = tmp_path / "out.jsonl"

    def infer(what: Path, *more: object) -> list[int]:
        ran = cli(
            "infer", what, "What is it?", "--direct", "--model", f"{server.url}#made", "--temperature", "1",
            *more,
        )  # fmt: skip
        assert ran.code == 0, ran.err
        found = [int(body["seed"]) for body in server.requests]
        server.requests.clear()
        return found

    with JudgeServer(lambda *_: completion("a wall")) as server:
        whole = infer(tmp_path / "images", "--batch-size", "1")
        assert len(set(whole)) == 3
        assert infer(tmp_path / "images" / "b.png") == [whole[1]], "alone as among others"
        assert infer(tmp_path / "images", "--seed", "3", "--batch-size", "1") == [each + 3 for each in whole]
        infer(tmp_path / "images", "--out", out, "--batch-size", "1")
        first, *_ = out.read_text().splitlines(keepends=True)
        out.write_text(first)
        assert infer(tmp_path / "images", "--out", out, "--batch-size", "1") == whole[1:]
        row = json.dumps({"image": str(tmp_path / "images" / "a.png")}) + "\n"
        (tmp_path / "rows.jsonl").write_text(row * 2)
        twice = infer(tmp_path / "rows.jsonl", "--batch-size", "1")
        assert len(set(twice)) == 2 and twice[0] == whole[0]
