"""Replies are kept by the content of their request, shared by runs, and never trusted when damaged."""

from __future__ import annotations

from pathlib import Path

from judge_server import JudgeServer, completion
from made_judge import judged, some_pairs
from made_runs import sample_run

from viscot_core.engines.replies import ReplyCache
from viscot_core.score.api import ApiJudge
from viscot_core.score.run import score_run
from viscot_core.score.verdicts import State


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
