"""Replies are kept by the content of their request, shared by runs, and never trusted when damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from judge_server import JudgeServer, completion
from made_judge import KEY, judged, some_pairs
from made_runs import sample_run

from viscot_core.errors import UsageError
from viscot_core.score.base import JudgeOptions
from viscot_core.score.judges import make_judge
from viscot_core.score.openai import OpenAIJudge
from viscot_core.score.scoring import score_run
from viscot_core.score.verdicts import Pair, State, read_scores


def test_runs_share_the_cache_and_equal_pairs_are_asked_once(tmp_path: Path) -> None:
    with JudgeServer(lambda number, body: completion("score: 0.5")) as server:
        judged(server.url, some_pairs(10), tmp_path)
        judge, outcomes = judged(server.url, some_pairs(12), tmp_path)
        assert len(server.requests) == 12
    assert (judge.usage.cached, judge.usage.calls, len(outcomes)) == (10, 2, 12)


def test_a_cache_file_cut_in_half_is_asked_again(tmp_path: Path) -> None:
    with JudgeServer(lambda number, body: completion("score: 0.5")) as server:
        judged(server.url, some_pairs(6), tmp_path)
        files = sorted((tmp_path / "cache").rglob("*.json"))
        for file, junk in zip(files, (b"", b"{", b"[]", b"null", b'{"reply": 3}', None), strict=True):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if junk is None else junk)
        judge, outcomes = judged(server.url, some_pairs(6), tmp_path)
    assert judge.usage.calls == 6
    assert {o.score for o in outcomes.values()} == {0.5}
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_what_version_0_1_kept_is_not_asked_again(tmp_path: Path) -> None:
    """The name of the entry and its content are those of version 0.1.0."""
    key = "bc885725d1a335d1353b365e142a9292c038036a44802215db095794be26c1a5"
    (tmp_path / "cache/bc").mkdir(parents=True)
    (tmp_path / f"cache/bc/{key}.json").write_text('{"reply": "score: 0.5", "model": "made-up-1"}')
    judge, outcomes = judged("http://127.0.0.1:1/v1", [Pair("What number is on card 0?", "0", "1")], tmp_path)
    assert judge.usage.cached == 1 and judge.usage.requests == 0
    assert [o.score for o in outcomes.values()] == [0.5]


def test_an_unreadable_reply_is_not_kept(tmp_path: Path) -> None:
    replies = ["who knows", "score: 0.5"]
    with JudgeServer(lambda number, body: completion(replies[number])) as server:
        run = sample_run(tmp_path / "run", items=1, strategies=("cot",))
        for again in (False, True):
            judge = OpenAIJudge("m", base_url=server.url, options=JudgeOptions(cache=tmp_path / "cache"))
            report = score_run(run, judge, retry_unscored=again)
            assert report.states[State.SCORED] == again


def test_another_prompt_temperature_or_address_is_another_entry(tmp_path: Path) -> None:
    with JudgeServer(lambda number, body: completion('{"score": 0.5}')) as server:
        for options in ({}, {"temperature": 0.7}, {"json_mode": True}):
            judged(server.url, some_pairs(1), tmp_path, **options)
        assert len(server.requests) == 3


def test_an_address_does_not_name_weights_so_its_replies_are_kept_where_the_user_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What answers at a server's address changes from one start to the next; OpenAI's names stay."""
    monkeypatch.setenv("VISCOT_CACHE", str(tmp_path / "default"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with JudgeServer(lambda number, body: completion("score: 0.5")) as server:
        for again, folder in enumerate((None, tmp_path / "named")):
            options = JudgeOptions(base_url=server.url, cache=folder, concurrency=1)
            for _ in range(2):
                make_judge("openai:m", options).judge(some_pairs(3), lambda pair, outcome: None)
            assert len(server.requests) == (6, 9)[again]
    assert not (tmp_path / "default").exists()
    with JudgeServer(lambda number, body: completion("score: 1")) as server:
        monkeypatch.setattr("viscot_core.score.openai.OPENAI_URL", server.url)  # as if it were OpenAI's
        for _ in range(2):
            judge = make_judge("openai:gpt-4o-mini", JudgeOptions(base_url=server.url + "/"))
            judge.judge(some_pairs(1), lambda pair, outcome: None)
        assert len(server.requests) == 1
    assert len(list((tmp_path / "default/judge").rglob("*.json"))) == 1


def test_two_servers_of_one_name_are_two_judges(tmp_path: Path) -> None:
    run = sample_run(tmp_path / "run", items=2)
    said = completion("score: 0.5")
    with JudgeServer(lambda number, body: said) as first, JudgeServer(lambda number, body: said) as second:
        report = score_run(run, OpenAIJudge("m", base_url=first.url))
        with pytest.raises(UsageError, match=rf"openai:{first.url}#m.*now openai:{second.url}#m"):
            score_run(run, OpenAIJudge("m", base_url=second.url + "/"))
        assert not second.requests
    assert read_scores(report.path).judge.model == f"{first.url}#m"
    assert (
        OpenAIJudge("m", base_url="http://me:secret@127.0.0.1:1/v1").identity.model
        == "http://127.0.0.1:1/v1#m"
    )
    assert OpenAIJudge("gpt-4o-mini").identity.model == "gpt-4o-mini"
