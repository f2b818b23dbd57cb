"""``bench run`` and what follows it, against a server that plays the model and a judge."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_server import Action, JudgeServer, completion

from viscot_core.data.benchmarks.synth import write_benchmark
from viscot_core.openai_api import waiting
from viscot_core.runs.records import read_predictions, read_run
from viscot_core.score.verdicts import read_scores

Cli = Callable[..., Any]
CALL = (
    '<tool_call>\n{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [100, 100, 500, 500], '
    '"label": "it", "img_idx": 0}}\n</tool_call>'
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_benchmark(tmp_path / "data", "vstar", count=4)
    write_benchmark(tmp_path / "data", "treebench", count=2)
    return tmp_path / "data"


def model(number: int, body: dict[str, Any]) -> Action:
    """Looks once where it may, then says B; about every third question it says nothing certain."""
    text = json.dumps(body["messages"])
    if "image_zoom_in_tool" in text and text.count("image_url") < 4:
        return completion(CALL)
    unsure = len(re.findall("[aeiou]", str(body["messages"][-1]))) % 3 == 0
    return completion("It is hard to say." if unsure else "Based on the image, the answer is B")


def test_zoom_and_direct_at_a_temperature_scored_read_twice_and_compared(
    cli: Cli, data: Path, tmp_path: Path
) -> None:
    runs = [tmp_path / "a", tmp_path / "b"]
    with JudgeServer(model) as server:
        for out, temperature in zip(runs, ("0.7", "0"), strict=True):
            ran = cli(
                "bench", "run", "vstar,treebench", "--data", data, "--model", f"{server.url}#made",
                "--policy", "direct,zoom", "--dialect", "qwen3-vl", "--repeats", "2", "--out", out,
                "--temperature", temperature,
            )  # fmt: skip
            assert ran.code == 0, ran.err
            assert {body.get("temperature", 0) for body in server.requests} == {float(temperature)}
            server.requests.clear()
    rows = read_predictions(runs[0])
    assert len(rows) == 2 * 2 * (4 + 2)
    looked = [row for row in rows if row.strategy == "zoom"]
    assert all(row.trace and len(row.trace["looks"]) == 1 for row in looked)
    assert all((row.evidence_iou is not None) == bool(row.evidence) for row in looked)
    assert "t=0.7" in read_run(runs[0]).settings["engine"]["sampling"]

    refused = cli("compare", *runs)
    assert refused.code == 2 and "temperature (0.7 and 0)" in refused.err
    same = cli("compare", *runs, "--allow", "temperature", "--resamples", "100")
    assert same.code == 0, same.err
    beside = cli("stats", runs[0], "--compare", "published")
    assert "avg@k" in beside.out and "Warning: " in beside.out and "does not tell" in beside.out
    by_category = json.loads(cli("stats", runs[0], "--by", "category", "--format", "json").out)
    assert "vstar: relative_position" in by_category["answers"]["zoom"]["categories"]


def test_a_server_that_never_answers_is_what_is_said(
    cli: Cli, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "FIRST_WAIT", 0.005)
    ran = cli(
        "bench", "run", "vstar", "--data", data, "--model", "http://127.0.0.1:1/v1#made",
        "--policy", "direct", "--limit", "1", "--out", tmp_path / "a", "--timeout", "1",
    )  # fmt: skip
    assert ran.code == 3 and "1 pending; the same command tries them again" in ran.err, ran.err
    assert "no connection to http://127.0.0.1:1/v1" in ran.err


def test_repeats_are_draws_of_their_own_which_an_audit_meets_again(
    cli: Cli, data: Path, tmp_path: Path
) -> None:
    def drawn(number: int, body: dict[str, Any]) -> Action:
        """Looks once where it may, then says its seed."""
        first = "image_zoom_in_tool" in str(body["messages"]) and body["messages"][-1]["role"] == "user"
        looks = first and not any(message["role"] == "assistant" for message in body["messages"])
        return completion(CALL if looks else f"<answer>seed {body.get('seed')}</answer>")

    out = tmp_path / "run"
    with JudgeServer(drawn) as server:
        # Options as in the file: the repeats of a question are equal words.
        ran = cli(
            "bench", "run", "vstar", "--data", data, "--model", f"{server.url}#made", "--order", "file",
            "--policy", "direct,zoom", "--dialect", "qwen3-vl", "--repeats", "2", "--out", out,
            "--temperature", "0.7",
        )  # fmt: skip
        assert ran.code == 0, ran.err
        server.requests.clear()
        audited = cli("audit", out, "--replace", "same,blank", "--out", tmp_path / "audit")
        assert audited.code == 0, audited.err
        assert {body["temperature"] for body in server.requests} == {0.7}
        assert len({body["seed"] for body in server.requests}) == 8
    rows = {(p.strategy, str(p.question_id)): p for p in read_predictions(tmp_path / "audit")}
    assert {name for name, _ in rows} == {"direct", "zoom", "zoom:same", "zoom:blank", "zoom:alone"}
    said = {key: re.findall(r"seed \d+", row.answer or "") for key, row in rows.items()}
    assert all(seed and seed == said["direct", number] for (_, number), seed in said.items()), said


def test_other_protocols_and_a_second_reader(cli: Cli, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with JudgeServer(model) as server:
        ran = cli("bench", "run", "vstar", "--data", data, "--model", f"{server.url}#made", "--out", out)
    assert ran.code == 0, ran.err
    for protocol in ("lmms-eval", "vlmevalkit", "first-is-right", "deepeyes"):
        scored = cli("score", out, "--protocol", protocol)
        assert scored.code == 0, scored.err
        assert ("Warning: first-is-right" in scored.err) == (protocol == "first-is-right")
    unread = [p for p in read_predictions(out) if p.answer == "It is hard to say."]
    assert 0 < len(unread) < 4
    with JudgeServer(lambda *_: completion("score: 1")) as server:
        words = ("score", out, "--protocol", "shuffled", "--second-reader", "openai:made")
        read = cli(*words, "--base-url", server.url)
        assert read.code == 0, read.err
    assert f"openai:made read {len(unread)} answers that the rule could not" in read.out
    scores = read_scores(out / "scores.shuffled-openai-made.jsonl")
    assert all(scores.verdicts[p.key].outcome.score == 1.0 for p in unread)
    assert scores.judge.model.endswith("made") or "made" in scores.judge.model
    alone = cli("score", out, "--second-reader", "openai:made", "--base-url", server.url)
    assert alone.code == 2 and "name the rule with --protocol" in alone.err


def test_a_constant_answer_in_file_order_is_warned_of(cli: Cli, data: Path, tmp_path: Path) -> None:
    with JudgeServer(lambda *_: completion("A")) as server:
        ran = cli(
            "bench", "run", "vstar", "--data", data, "--model", f"{server.url}#made",
            "--order", "file", "--out", tmp_path / "run",
        )  # fmt: skip
    assert "a constant answer scores 100 % with --order file" in ran.err
    table = cli("stats", tmp_path / "run").out
    assert re.search(r"vstar, direct\s+1\.000\s+4 of 4", table)


def test_a_benchmark_that_is_not_here_says_how_to_get_it(cli: Cli, tmp_path: Path) -> None:
    ran = cli("bench", "run", "hrbench4k", "--data", tmp_path, "--out", tmp_path / "run")
    assert ran.code == 2 and "viscot data fetch --for bench:hrbench4k" in ran.err
