"""Replies are kept by the content of their request, shared by runs, and never trusted when damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from judge_server import JudgeServer, completion
from made_judge import KEY, judged, some_pairs
from made_runs import sample_run

from viscot_core.errors import UsageError
from viscot_core.openai_api.replies import ReplyCache
from viscot_core.score.api import OPENAI_URL, ApiJudge
from viscot_core.score.chat import Reply
from viscot_core.score.judges import JudgeOptions, make_judge
from viscot_core.score.scoring import score_run
from viscot_core.score.verdicts import State, read_scores


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
    assert judge._cache.damaged == 6
    assert {o.score for o in outcomes.values()} == {0.5}
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_an_unreadable_reply_is_not_kept(tmp_path: Path) -> None:
    replies = ["who knows", "score: 0.5"]
    with JudgeServer(lambda number, body: completion(replies[number])) as server:
        run = sample_run(tmp_path / "run", items=1, strategies=("cot",))
        for again in (False, True):
            judge = ApiJudge("m", base_url=server.url, cache=ReplyCache(tmp_path / "cache"))
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
    judge = make_judge("openai:gpt-4o-mini", JudgeOptions(base_url=OPENAI_URL + "/"))
    assert isinstance(judge, ApiJudge)
    assert judge.read("00ab", Reply("score: 1", "stop", 1, 1, "m")).score == 1
    assert (tmp_path / "default/judge/00/00ab.json").exists()


def test_two_servers_of_one_name_are_two_judges(tmp_path: Path) -> None:
    run = sample_run(tmp_path / "run", items=2)
    said = completion("score: 0.5")
    with JudgeServer(lambda number, body: said) as first, JudgeServer(lambda number, body: said) as second:
        report = score_run(run, ApiJudge("m", base_url=first.url))
        with pytest.raises(UsageError, match=rf"openai:{first.url}#m.*now openai:{second.url}#m"):
            score_run(run, ApiJudge("m", base_url=second.url + "/"))
        assert not second.requests
    assert read_scores(report.path).judge.model == f"{first.url}#m"
    assert (
        ApiJudge("m", base_url="http://me:secret@127.0.0.1:1/v1").identity.model == "http://127.0.0.1:1/v1#m"
    )
    assert ApiJudge("gpt-4o-mini").identity.model == "gpt-4o-mini"
