"""``viscot score`` from the outside: exit codes, files, interruptions, one-sentence errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_server import Action, JudgeServer, completion, error
from made_runs import prediction, sample_run, write_run

from viscot_core.score.verdicts import read_scores

Cli = Callable[..., Any]


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISCOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-made-up")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def test_exact(cli: Cli, tmp_path: Path) -> None:
    run = sample_run(tmp_path / "run", items=4)
    ran = cli("score", run, "--judge", "exact")
    assert ran.code == 0
    assert "12 scored" in ran.out
    assert "(0 new)" in cli("score", run, "--judge", "exact").out


@pytest.mark.parametrize("judge", ["anls", "vqa", "contains", "relaxed"])
def test_the_other_offline_judges_write_files_of_their_own(cli: Cli, tmp_path: Path, judge: str) -> None:
    run = sample_run(tmp_path / "run", items=4)
    assert cli("score", run, "--judge", judge).code == 0
    assert read_scores(run / f"scores.{judge}.jsonl").judge.name == judge


def test_an_unknown_judge_names_the_nearest(cli: Cli, tmp_path: Path) -> None:
    ran = cli("score", sample_run(tmp_path / "run"), "--judge", "exakt")
    assert ran.code == 2
    assert "Did you mean 'exact'" in ran.err


@pytest.mark.parametrize("judge", ["openai", "openai:", "hf:", ""])
def test_a_judge_without_a_model_is_wrong_usage(cli: Cli, tmp_path: Path, judge: str) -> None:
    assert cli("score", sample_run(tmp_path / "run"), "--judge", judge).code == 2


def test_no_run_folder(cli: Cli, tmp_path: Path) -> None:
    ran = cli("score", tmp_path / "nothing", "--judge", "exact")
    assert ran.code == 2
    assert "viscot bench" in ran.err
    assert "Traceback" not in ran.err


def test_a_failed_prediction_makes_it_partly_done(cli: Cli, tmp_path: Path) -> None:
    rows = [prediction(), prediction(question_id=2, status="failed", error="x", answer=None)]
    ran = cli("score", write_run(tmp_path / "run", rows))
    assert ran.code == 3
    assert "1 predictions failed" in ran.out


def test_a_refcoco_run_has_nothing_to_score(cli: Cli, tmp_path: Path) -> None:
    rows = [prediction(strategy="refcoco", dataset="refcoco/val", reference=None, answer=None)]
    ran = cli("score", write_run(tmp_path / "run", rows))
    assert ran.code == 0
    assert "viscot stats" in ran.out


def test_an_api_judge_from_estimate_to_scores(cli: Cli, tmp_path: Path) -> None:
    run = sample_run(tmp_path / "run", items=6)
    with JudgeServer(lambda number, body: completion("score: 0.5")) as server:
        command = ("score", run, "--judge", "openai:gpt-4o-mini", "--base-url", server.url)
        estimate = cli(*command, "--estimate")
        assert estimate.code == 0
        assert "about $0.0" in estimate.out
        assert not server.requests
        assert not (run / "scores.openai-gpt-4o-mini.jsonl").exists()
        assert "at the price of 20" in estimate.out
        ran = cli(*command)
        assert ran.code == 0
        assert "11 different answers to judge" in ran.err
        assert "18 scored" in ran.out
        assert "made-up-1" in ran.out
        assert "$0.00" in ran.out
        assert cli(*command, "--estimate").out.startswith("0 different answers")
    header = json.loads((run / "scores.openai-gpt-4o-mini.jsonl").read_text().splitlines()[0])["judge"]
    assert header["model"] == f"{server.url}#gpt-4o-mini"
    assert len(header["prompt_sha256"]) == 64
    assert header["temperature"] == 0.0


def test_the_cost_cap_stops_and_says_so(cli: Cli, tmp_path: Path) -> None:
    run = sample_run(tmp_path / "run", items=10)
    prices = tmp_path / "prices.yaml"
    prices.write_text("models: {m: {input: 1000, output: 1000}}")
    with JudgeServer(lambda number, body: completion("score: 1")) as server:
        ran = cli(
            "score",
            run,
            "--judge",
            "openai:m",
            "--base-url",
            server.url,
            "--prices",
            prices,
            "--max-cost",
            "2",
        )
        assert 0.126 * len(server.requests) <= 2
    assert ran.code == 3
    assert "--max-cost is reached" in ran.out
    assert "pending" in ran.out


def test_an_unknown_price_is_said_and_no_cap_is_taken_without_one(cli: Cli, tmp_path: Path) -> None:
    run = sample_run(tmp_path / "run", items=2)
    with JudgeServer(lambda number, body: completion("score: 1")) as server:
        command = ("score", run, "--judge", "openai:unheard-of", "--base-url", server.url)
        refused = cli(*command, "--max-cost", "1")
        assert refused.code == 2
        assert "--max-cost needs the price of 'unheard-of'" in refused.err
        assert not server.requests
        sentence = "the price of 'unheard-of' is unknown, and so is the cost"
        assert sentence in cli(*command, "--estimate").out
        ran = cli(*command)
    assert ran.code == 0
    assert sentence in ran.err
    assert "at an unknown price" in ran.out
    assert "$" not in ran.out


def test_a_wrong_key_is_one_sentence(cli: Cli, tmp_path: Path) -> None:
    with JudgeServer(lambda number, body: error(401, "Incorrect API key provided: sk-made-up")) as server:
        ran = cli("score", sample_run(tmp_path / "run"), "--judge", "openai:m", "--base-url", server.url)
    assert ran.code == 1
    assert "refuses the key" in ran.err
    assert "sk-made-up" not in ran.err + ran.out
    assert "Traceback" not in ran.err


def test_changed_words_refuse_to_mix(cli: Cli, tmp_path: Path) -> None:
    run = sample_run(tmp_path / "run", items=2)
    with JudgeServer(lambda number, body: completion("score: 1")) as server:
        command = ("score", run, "--judge", "openai:m", "--base-url", server.url)
        assert cli(*command).code == 0
        ran = cli(*command, "--prompt", "guarded")
        assert ran.code == 2
        assert "--name" in ran.err
        assert cli(*command, "--prompt", "guarded", "--name", "m-guarded").code == 0
    assert (run / "scores.m-guarded.jsonl").exists()


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_an_interruption_loses_nothing(tmp_path: Path, how: signal.Signals, code: int) -> None:
    """Stopped in the middle, the same command asks only about the rest."""
    run = sample_run(tmp_path / "run", items=40, strategies=("cot",))
    with JudgeServer(lambda number, body: completion("score: 0.5", delay=0.1)) as server:
        words = ["score", str(run), "--judge", "openai:m", "--base-url", server.url, "--concurrency", "2"]
        command = [sys.executable, "-m", "viscot_cli.app", *words]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
        )
        path = run / "scores.openai-m.jsonl"
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and not (path.exists() and path.read_bytes().count(b"\n") > 6):
            time.sleep(0.02)
        process.send_signal(how)
        _, err = process.communicate(timeout=120)
        assert process.returncode == code
        assert "Traceback" not in err
        kept = len(read_scores(path).verdicts)
        assert kept >= 6
        asked = len(server.requests)
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=True)
        assert f"({40 - kept} new)" in done.stdout
        assert len(server.requests) - asked <= 40 - kept
    assert {v.outcome.score for v in read_scores(path).verdicts.values()} == {0.5}
    assert len(read_scores(path).verdicts) == 40


def test_an_interruption_waits_for_no_reply(tmp_path: Path) -> None:
    run = sample_run(tmp_path / "run", items=4, strategies=("cot",))
    with JudgeServer(lambda number, body: completion("score: 0.5", delay=120)) as server:
        words = ["score", str(run), "--judge", "openai:m", "--base-url", server.url]
        process = subprocess.Popen(
            [sys.executable, "-m", "viscot_cli.app", *words], stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not server.requests:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_an_estimate_needs_no_key(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    run = sample_run(tmp_path / "run", items=4)
    command = ("score", run, "--judge", "openai:gpt-4o-mini")
    assert cli(*command, "--estimate").code == 0
    asked = cli(*command)
    assert asked.code == 2
    assert "OPENAI_API_KEY is not set" in asked.err


def test_a_judge_that_is_cut_off_in_its_thought(cli: Cli, tmp_path: Path) -> None:
    """``--max-tokens`` is too small: no score is invented, the exit code says so, and more tokens help."""
    run = sample_run(tmp_path / "run", items=4)
    thought = "<think>score: 0.1 would be too little"

    def script(_: int, body: dict[str, Any]) -> Action:
        if body["max_tokens"] == 8:
            return completion(thought, finish="length")
        return completion(f"{thought}</think>score: 0.5")

    with JudgeServer(script) as server:
        command = ("score", run, "--judge", "openai:made-up", "--base-url", server.url)
        ran = cli(*command, "--max-tokens", "8")
        assert ran.code == 3 and "--max-tokens" in ran.err and "truncated" in ran.out
        assert "judge cut off" in cli("stats", run).out
        assert cli(*command, "--max-tokens", "99").code == 3, "only asked again on request"
        ran = cli(*command, "--max-tokens", "99", "--retry-unscored")
        assert ran.code == 0, ran.err
    scores = read_scores(run / "scores.openai-made-up.jsonl")
    assert {verdict.outcome.score for verdict in scores.verdicts.values()} == {0.5}


def test_refused_calls_are_counted_as_calls(cli: Cli, tmp_path: Path) -> None:
    run = sample_run(tmp_path / "run", items=2)
    with JudgeServer(lambda number, body: completion(None, finish="content_filter")) as server:
        ran = cli("score", run, "--judge", "openai:made-up", "--base-url", server.url)
        assert ran.code == 3
        asked = len(server.requests)
    assert f"{asked} calls ({asked} without a usable reply), 0 from the cache" in ran.out
