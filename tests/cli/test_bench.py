"""``viscot bench`` from the command line: exit codes, sentences, continuing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_server import JudgeServer, completion, error
from made_bench import write_root
from made_server import two_turns

Cli = Callable[..., Any]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_root(tmp_path / "data", count=4, images=2)


@pytest.fixture
def model(shared: Path) -> Path:
    return shared / "golden" / "tiny_llava"


def test_a_run_its_continuation_and_one_item(cli: Cli, root: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    base = ("bench", "cot", "--model", model, "--data", root, "--out", out, "--max-new-tokens", "8")
    base = (*base, "--max-truncated", "1")  # random weights never end a turn
    ran = cli(*base, "--strategy", "cot,direct")
    assert ran.code == 0, ran.err
    assert "8 of 8 done (8 now" in ran.out
    assert "0 now" in cli(*base, "--strategy", "cot,direct").out
    repeated = cli(*base, "--strategy", "cot", "--strategy", "direct", "--strategy", "no-image,cot")
    assert repeated.code == 0 and "4 now" in repeated.out, "repeated options add up: only no-image is new"
    refused = cli(*base, "--seed", "3")
    assert refused.code == 2
    assert "seed: 0 -> 3" in refused.err
    shown = cli("bench", "show", out, "made:3", "--save", tmp_path / "three.png")
    assert shown.code == 0
    assert "prompt 2" in shown.out
    assert (tmp_path / "three.png").exists()


def test_unreadable_images_make_it_partly_done(cli: Cli, root: Path, model: Path, tmp_path: Path) -> None:
    (root / "cot" / "made" / "1.png").write_bytes(b"no image")
    ran = cli(
        "bench", "cot", "--model", model, "--data", root, "--out", tmp_path / "out", "--max-new-tokens", "4"
    )
    assert ran.code == 3
    assert "2 failed and 0 pending" in ran.err
    assert "2 x " in ran.err
    assert "1.png" in ran.err
    assert "2 of 4 done" in ran.out


def test_refcoco(cli: Cli, root: Path, model: Path, tmp_path: Path) -> None:
    command = ("bench", "refcoco", "--model", model, "--data", root, "--out", tmp_path / "out")
    ran = cli(*command, "--max-new-tokens", "4", "--export", "upstream", "--max-truncated", "1")
    assert ran.code == 0, ran.err
    assert "4 of 4 done" in ran.out
    assert (tmp_path / "out" / "upstream" / "refcoco" / "REC_refcoco_made_val.jsonl").is_file()
    shown = cli("stats", tmp_path / "out")
    assert "4 (100.0 %)" in shown.out, "boxes that cannot be parsed are counted"


def test_what_is_wrong_is_told_before_a_model_is_loaded(cli: Cli, root: Path) -> None:
    for words, sentence in (
        (("--strategy", "cott"), "Did you mean 'cot'"),
        (("--tasks", "mode"), "Did you mean 'made'"),
        (("--suite", "paper"), "no data set cub"),
        (("--crop-policy", "tigth"), "Did you mean 'tight'"),
        (("--protocol", "papers"), "Did you mean 'paper'"),
        (("--box-format", "qwen25-vl"), "Did you mean 'qwen2.5-vl'"),
        (("--export", "llava"), "as upstream (the"),
        (("--export", "upstream", "--limit", "2"), "takes no --limit"),
        (("--batch-size", "big"), "auto or a number from 1"),
        (("--price", "1"), "--price is INPUT,OUTPUT"),
        (("--price", "-1,2"), "--price is INPUT,OUTPUT"),
        (("--max-cost", "1"), "--max-cost needs --price"),
    ):
        ran = cli("bench", "cot", "--model", "/no/such/model", "--data", root, "--out", root / "out", *words)
        assert ran.code == 2, ran.err
        assert sentence in ran.err
    (root / "cot" / "made" / "1.png").unlink()
    ran = cli("bench", "cot", "--model", "/no/such/model", "--data", root, "--out", root / "out")
    assert ran.code == 1
    assert "1 images are missing (2 of 4 questions need them)" in ran.err
    assert not (root / "out").exists()


def test_a_server_with_a_budget_and_kept_replies(cli: Cli, root: Path, tmp_path: Path) -> None:
    with JudgeServer(lambda number, body: completion("[0.100, 0.200, 0.300, 0.400]")) as server:
        base = ("bench", "cot", "--model", f"{server.url}#m", "--box-format", "viscot", "--data", root)
        command = (*base, "--cache", tmp_path / "replies", "--concurrency", "1", "--out")
        short = cli(*command, tmp_path / "a", "--max-requests", "3")
        assert short.code == 3
        assert "3 x --max-requests 3 are used up" in short.err
        assert "1 of 4 done" in short.out, "an answer that is paid for is kept"
        assert cli(*command, tmp_path / "a").code == 0
        assert len(server.requests) == 8, "two turns of four questions, the third reply kept"
        assert cli(*command, tmp_path / "b").code == 0
        assert len(server.requests) == 8


def test_a_refused_key_stops_at_once_and_names_the_variable(
    cli: Cli, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-made-up")
    with JudgeServer(lambda number, body: error(401, "no such key sk-made-up")) as server:
        ran = cli(
            "bench", "cot", "--model", f"{server.url}#m", "--box-format", "viscot", "--data", root,
            "--out", tmp_path / "out", "--concurrency", "1",
        )  # fmt: skip
        assert len(server.requests) == 1
    assert ran.code == 1
    assert "the key in OPENAI_API_KEY" in ran.err
    assert "sk-made-up" not in ran.err


def test_the_lists(cli: Cli) -> None:
    listed = cli("bench", "list")
    assert listed.code == 0
    for name in ("visual7w", "random-box", "refcocog:test", "qwen2.5-vl"):
        assert name in listed.out


def test_answers_that_the_limit_cuts_are_counted_and_make_it_partly_done(
    cli: Cli, root: Path, tmp_path: Path
) -> None:
    cut = two_turns(answer=completion("", finish="length", tokens=(120, 128)))
    with JudgeServer(lambda number, body: cut(number, body) if number < 4 else completion("a")) as server:
        command = ("bench", "cot", "--model", f"{server.url}#made-up", "--box-format", "viscot")
        command = (*command, "--data", root, "--out", tmp_path / "run", "--concurrency", "1")
        ran = cli(*command)
        assert ran.code == 3 and "--max-truncated 0.05" in ran.err
        assert "4 of 4 done" in ran.out and "2 of them (50.0%) cut off at the token limit" in ran.out
        assert cli(*command, "--max-truncated", "0.5").code == 0, "nothing is asked again"
        assert len(server.requests) == 8
    assert cli("score", tmp_path / "run").code == 0
    stats = cli("stats", tmp_path / "run", "--format", "json")
    found = json.loads(stats.out)
    found = found[0] if isinstance(found, list) else found.get("runs", [found])[0]
    assert found["truncated"] == {"cot": {"n": 2, "of": 4, "share": 0.5}}
    assert found["left_out"]["cot"] == {"cut off": 2}
    said = "the token limit (--max-new-tokens 128) cut 2 of 4 answers (50.0%)"
    assert said in cli("stats", tmp_path / "run").out


def test_questions_of_a_file_are_asked_on_a_server_as_the_user_says(
    cli: Cli, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "q.jsonl").write_text(
        '{"question_id": 1, "image": "0.png", "text": "What?", "answer": "a"}\n'
    )
    with JudgeServer(lambda *_: completion("a")) as server:
        ran = cli(
            *(
                "bench",
                "vqa",
                "--model",
                f"{server.url}#m",
                "--box-format",
                "viscot",
                "--out",
                tmp_path / "run",
            ),
            *("--questions", tmp_path / "q.jsonl"),
            *("--images", root / "cot" / "made"),
            *("--extra-body", '{"top_k": 1}', "--image-format", "webp"),
        )
        assert ran.code == 0, ran.err
    assert server.requests[0]["top_k"] == 1
    assert "data:image/webp" in str(server.requests[0]["messages"])
