"""Paid replies are kept as they come, and no question is begun that the budget cannot end."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from judge_server import Action, JudgeServer, completion, error
from made_bench import tasks_of_srun, write_root
from made_server import BOX, bench, is_answer, two_turns

from viscot_core.openai_api import waiting
from viscot_core.openai_api.budget import Price
from viscot_core.rollout import Turn
from viscot_core.runs.records import read_predictions
from viscot_core.runs.shards import Shard
from viscot_core.runs.turns import TURNS_FILE, Turns, forget_turns


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(waiting, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(waiting, "LONGEST_WAIT", 0.02)
    return write_root(tmp_path / "data", count=12)


def test_a_budget_of_eight_calls_ends_four_questions_each_time(root: Path, tmp_path: Path) -> None:
    """``--max-requests 8`` three times was 24 calls and one item."""
    with JudgeServer(two_turns()) as server:
        for done in (4, 8, 12):
            info, _ = bench(server, root, tmp_path / "run", max_requests=8, concurrency=8)
            assert (info.counts["done"], len(server.requests)) == (done, 2 * done)
    assert not (tmp_path / "run" / TURNS_FILE).exists()


@pytest.mark.parametrize("limit", [1, 5])
def test_a_question_is_not_begun_that_cannot_be_ended(root: Path, tmp_path: Path, limit: int) -> None:
    with JudgeServer(two_turns()) as server:
        info, tally = bench(server, root, tmp_path / "run", max_requests=limit)
        assert (info.counts["done"], len(server.requests)) == (limit // 2, limit // 2 * 2)
    said = "one question takes 2 calls" if limit == 1 else "are used up"
    assert all(f"--max-requests {limit}" in why and said in why for why in tally.open)


def test_dollars_are_held_for_the_second_turn(root: Path, tmp_path: Path) -> None:
    price = Price(input=0.0, output=1e6)  # at most 128 dollars a call, and 6 in the end
    with JudgeServer(two_turns()) as server:
        info, _ = bench(server, root, tmp_path / "run", max_cost=3 * 128.0, price=price, concurrency=1)
        assert 2 * info.counts["done"] == len(server.requests) > 0
        info, _ = bench(server, root, tmp_path / "other", max_cost=3 * 128.0 - 1, price=price)
        assert (info.counts["done"], info.counts["pending"]) == (0, 12)


def test_first_turns_outlive_a_server_that_breaks(root: Path, tmp_path: Path) -> None:
    broken = two_turns(answer=error(503))
    with JudgeServer(broken) as server:
        info, _ = bench(server, root, tmp_path / "run")
        assert info.counts["pending"] == 12
        firsts = sum(not is_answer(body) for body in server.requests)
        assert firsts == 12
        server.script = two_turns(box="nothing", answer="a word")
        server.requests.clear()
        info, _ = bench(server, root, tmp_path / "run")
        assert info.counts["done"] == len(server.requests) == 12
    assert {p.box_text for p in read_predictions(tmp_path / "run")} == {BOX}
    assert not (tmp_path / "run" / TURNS_FILE).exists()


@pytest.mark.parametrize("concurrency", [1, 4])
def test_the_looks_of_a_loop_outlive_it_too(root: Path, tmp_path: Path, concurrency: int) -> None:
    """However many requests are open at once: each look is a reply, and paid for."""
    with JudgeServer(two_turns(answer=error(503))) as server:
        info, _ = bench(server, root, tmp_path / "run", ("zoom",), concurrency=concurrency)
        assert info.counts["pending"] == 12
        server.script = two_turns(box="nothing", answer="a word")
        server.requests.clear()
        info, _ = bench(server, root, tmp_path / "run", ("zoom",), concurrency=concurrency)
        assert info.counts["done"] == len(server.requests) == 12
    looked = [p.trace["looks"] for p in read_predictions(tmp_path / "run") if p.trace]
    assert len(looked) == 12 and all(len(looks) == 1 for looks in looked)


def test_a_damaged_line_is_asked_once_more(root: Path, tmp_path: Path) -> None:
    with JudgeServer(two_turns(answer=error(503))) as server:
        bench(server, root, tmp_path / "run", concurrency=1)
        kept = tmp_path / "run" / TURNS_FILE
        lines = kept.read_bytes().splitlines(keepends=True)
        kept.write_bytes(b"".join([b"{}\n", *lines[2:-1], lines[-1][:20]]))
        server.script, before = two_turns(), len(server.requests)
        info, _ = bench(server, root, tmp_path / "run")
        assert info.counts["done"] == 12
        assert len(server.requests) - before == 12 + 3  # two lines are gone and one was cut


def test_a_shared_first_turn_holds_room_for_both_strategies(root: Path, tmp_path: Path) -> None:
    """cot and no-image begin with the same call: three calls a question."""

    def script(_: int, body: dict[str, object]) -> Action:
        messages = body["messages"]
        assert isinstance(messages, list)
        return completion(BOX if len(messages) == 1 else "a word")

    with JudgeServer(script) as server:
        info, _ = bench(server, root, tmp_path / "run", ("cot", "no-image"), max_requests=8, concurrency=1)
        assert (info.counts["done"], len(server.requests)) == (4, 6)


def test_thoughts_and_cut_replies_have_their_own_places(root: Path, tmp_path: Path) -> None:
    """A thought's numbers are no box, and an answer that was cut is no ordinary one."""
    box = f"<think>maybe [0.5, 0.5, 0.9, 0.9]</think>\n{BOX}"
    with JudgeServer(two_turns(box, completion("half an ans", finish="length"))) as server:
        info, _ = bench(server, root, tmp_path / "run")
    first = read_predictions(tmp_path / "run")[0]
    assert (first.box_status, first.box_text, first.box) == ("ok", BOX, (0.25, 0.25, 0.5, 0.5))
    assert (first.status, first.answer, first.done) == ("truncated", "half an ans", True)
    assert first.thoughts == ("maybe [0.5, 0.5, 0.9, 0.9]", "")
    assert info.counts == {"done": 0, "failed": 0, "missing": 0, "pending": 0, "truncated": 12}


def test_without_thoughts_a_record_is_what_it_was(root: Path, tmp_path: Path) -> None:
    with JudgeServer(two_turns()) as server:
        info, _ = bench(server, root, tmp_path / "run")
    row = json.loads((tmp_path / "run" / "predictions.jsonl").read_text().splitlines()[0])
    assert "thoughts" not in row and "boxes" not in row and row["status"] == "done"
    assert "truncated" not in info.counts


def test_a_rank_cuts_no_line_that_another_is_writing(tmp_path: Path) -> None:
    """Each has a file of its own; what is half written is neither read nor lost."""
    key, ranks = ("cot", "made", "1"), [Turns(tmp_path, Shard(rank, 2, rank, "s")) for rank in (0, 1)]
    ranks[0].add(key, Turn("first"))
    mine = tmp_path / "turns.s-0.jsonl"
    whole = mine.read_bytes() * 2
    mine.write_bytes(whole[:-9])
    assert Turns(tmp_path, Shard(1, 2, 1, "s")).of(key) == [Turn("first")]
    with mine.open("ab") as file:
        file.write(whole[-9:])
    assert mine.read_bytes() == whole and Turns(tmp_path, Shard(1, 2, 1, "s")).of(key) == [Turn("first")] * 2


def test_turns_of_ranks_and_of_one_process_follow_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question's turns may lie in several files: the order is that of time, also where a clock is set back.

    A file of an older version has no times and is the oldest.
    """
    key, turn = ("zoom", "made", "1"), asdict(Turn("0"))
    row = {"strategy": "zoom", "dataset": "made", "question_id": "1", **turn}
    (tmp_path / TURNS_FILE).write_text(json.dumps(row) + "\n")
    now = iter((50.0, 40.0, 45.0, 30.0))
    monkeypatch.setattr("viscot_core.runs.turns.time", SimpleNamespace(time=lambda: next(now)))
    Turns(tmp_path, Shard(3, 4, 3, "z")).add(key, Turn("1"))
    Turns(tmp_path).add(key, Turn("2"))
    again = Turns(tmp_path, Shard(1, 4, 1, "a"))
    again.add(key, Turn("3"))
    again.add(key, Turn("4"))
    assert [turn.text for turn in Turns(tmp_path).of(key)] == ["0", "1", "2", "3", "4"]
    forget_turns(tmp_path)
    assert not list(tmp_path.iterdir())


def test_turns_of_ranks_are_paid_once(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    with JudgeServer(two_turns(answer=error(503))) as server:
        for _ in tasks_of_srun(monkeypatch, 2):
            bench(server, root, out)
        assert len(list(out.glob("turns.slurm5*.jsonl"))) == 2 and not (out / TURNS_FILE).exists()
        server.script = two_turns(box="nothing", answer="a word")
        server.requests.clear()
        info, _ = bench(server, root, out)
        assert info.counts["done"] == len(server.requests) == 12
    assert not list(out.glob("turns*"))
