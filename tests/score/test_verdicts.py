"""The scores file: append-only, resumable, and never another run's or another judge's."""

import json
from pathlib import Path

import pytest
from made_runs import prediction, sample_run, write_run

from viscot_core.errors import DataError, UsageError
from viscot_core.lines import try_lock
from viscot_core.runs.records import read_predictions
from viscot_core.score.offline import OfflineJudge
from viscot_core.score.scoring import score_run
from viscot_core.score.verdicts import JudgeIdentity, Outcome, Pair, ScoreLog, State, read_scores, scores_path


def lines(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "scores.exact.jsonl").read_text().splitlines()]


def test_a_run_is_scored_and_the_file_names_its_judge(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [prediction(), prediction(question_id=2, answer="43")])
    report = score_run(run, OfflineJudge("exact"))
    assert report.complete
    assert (report.items, report.new, report.states[State.SCORED]) == (2, 2, 2)
    header, first, second = lines(run)
    assert set(header["judge"]) == {"name", "model", "prompt_sha256", "temperature", "created"}  # type: ignore[arg-type]
    assert first["score"] == 1.0
    assert second["score"] == 0.0
    assert {"strategy", "dataset", "question_id", "state", "score", "reason"} <= set(first)


def test_scoring_again_asks_nothing(tmp_path: Path) -> None:
    run = sample_run(tmp_path / "run", items=5)
    score_run(run, OfflineJudge("exact"))
    before = (run / "scores.exact.jsonl").read_bytes()
    assert score_run(run, OfflineJudge("exact")).new == 0
    assert (run / "scores.exact.jsonl").read_bytes() == before


@pytest.mark.parametrize("cut", [1, 20, 70])
def test_a_broken_last_line_is_set_aside_and_redone(tmp_path: Path, cut: int) -> None:
    run = sample_run(tmp_path / "run", items=5)
    score_run(run, OfflineJudge("exact"))
    path = run / "scores.exact.jsonl"
    whole = read_scores(path).verdicts
    path.write_bytes(path.read_bytes()[:-cut])
    assert len(read_scores(path).verdicts) == len(whole) - 1
    report = score_run(run, OfflineJudge("exact"))
    assert report.new == 1
    assert read_scores(path).verdicts == whole
    assert path.with_name("scores.exact.jsonl.broken").exists()


def test_a_header_cut_short_starts_the_file_again(tmp_path: Path) -> None:
    run = sample_run(tmp_path / "run", items=3)
    (run / "scores.exact.jsonl").write_text('{"judge": {"na')
    assert score_run(run, OfflineJudge("exact")).new == 9


def test_a_kill_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    class Killed(OfflineJudge):
        def judge(self, pairs, done):  # type: ignore[no-untyped-def]
            super().judge(list(pairs)[:4], done)
            raise KeyboardInterrupt

    run = sample_run(tmp_path / "run", items=5)
    with pytest.raises(KeyboardInterrupt):
        score_run(run, Killed("exact"))
    kept = len(read_scores(run / "scores.exact.jsonl").verdicts)
    assert kept >= 4
    assert score_run(run, OfflineJudge("exact")).new == 15 - kept


def test_the_scores_of_another_run_are_refused(tmp_path: Path) -> None:
    first = sample_run(tmp_path / "a", items=5, seed=1)
    second = sample_run(tmp_path / "b", items=5, seed=2)
    score_run(first, OfflineJudge("exact"))
    (second / "scores.exact.jsonl").write_bytes((first / "scores.exact.jsonl").read_bytes())
    with pytest.raises(DataError, match="does not belong to this run"):
        score_run(second, OfflineJudge("exact"))


def test_another_judge_does_not_write_into_the_same_file(tmp_path: Path) -> None:
    run = sample_run(tmp_path / "run", items=2)
    score_run(run, OfflineJudge("exact"), name="mine")
    with pytest.raises(UsageError, match="another judge"):
        score_run(run, OfflineJudge("anls"), name="mine")


def test_equal_words_are_judged_once_also_after_a_restart(tmp_path: Path) -> None:
    asked: list[Pair] = []

    class Counting(OfflineJudge):
        def judge(self, pairs, done):  # type: ignore[no-untyped-def]
            asked.extend(pairs)
            super().judge(pairs, done)

    rows = [prediction(strategy=s, question_id=i) for s in ("cot", "direct") for i in range(3)]
    run = write_run(tmp_path / "run", rows)
    assert score_run(run, Counting("exact")).new == 6
    assert len(asked) == 1
    write_run(run, [*rows, prediction(strategy="no-image", question_id=0)])
    assert score_run(run, Counting("exact")).new == 1
    assert len(asked) == 1


def test_failed_predictions_are_counted_not_scored(tmp_path: Path) -> None:
    rows = [prediction(), prediction(question_id=2, status="failed", error="no image", answer=None)]
    report = score_run(write_run(tmp_path / "run", rows), OfflineJudge("exact"))
    assert (report.items, report.unanswered, report.complete) == (1, 1, False)


def test_pending_and_failed_are_asked_again_and_unscored_only_when_told(tmp_path: Path) -> None:
    run = sample_run(tmp_path / "run", items=len(State), strategies=("cot",))
    judge = OfflineJudge("exact")
    by_state = dict(zip(State, read_predictions(run), strict=True))
    with ScoreLog(scores_path(run, "exact"), judge.identity) as log:
        pass
    from viscot_core.score.verdicts import Verdict, pair_of

    with ScoreLog(scores_path(run, "exact"), judge.identity) as log:
        for state, p in by_state.items():
            pair = pair_of(p)
            assert pair
            score = 1.0 if state is State.SCORED else None
            log.append([Verdict(p.strategy, p.dataset, p.question_id, Outcome(state, score), pair.digest())])
    assert score_run(run, judge).new == 2
    assert score_run(run, judge, retry_unscored=True).new == 2, "what was unscored or cut off"


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "nonsense",
        '{"strategy": "cot", "dataset": "d", "question_id": 1, "state": "scored", "score": null, '
        '"reason": null}',
        '{"strategy": "cot", "dataset": "d", "question_id": 1, "state": "pending", "score": 0.0, '
        '"reason": null}',
        '{"strategy": "cot", "dataset": "d", "question_id": 1, "state": "scored", "score": NaN, '
        '"reason": null}',
        '{"strategy": "cot", "dataset": "d", "question_id": 1, "state": "scored", "score": 2, '
        '"reason": null}',
    ],
)
def test_a_damaged_line_in_the_middle_names_file_and_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "scores.exact.jsonl"
    with ScoreLog(path, JudgeIdentity.now("exact", "exact", None, None)):
        pass
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match=r"scores\.exact\.jsonl:2"):
        read_scores(path)


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    judge = JudgeIdentity.now("exact", "exact", None, None)
    path = tmp_path / "scores.exact.jsonl"
    with ScoreLog(path, judge), pytest.raises(UsageError, match="Another process"):
        ScoreLog(path, judge)
    with ScoreLog(path, judge) as log:
        assert log.scores.verdicts == {}


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        ScoreLog(tmp_path / "nothing" / "scores.exact.jsonl", JudgeIdentity.now("exact", "exact", None, None))


def test_a_second_writer_takes_nothing_from_the_first(tmp_path: Path) -> None:
    """Not even where the first has locked its new file and not written to it yet."""
    path = tmp_path / "scores.exact.jsonl"
    with path.open("a") as first:
        assert try_lock(first)
        with pytest.raises(UsageError, match="Another process is writing"):
            ScoreLog(path, JudgeIdentity.now("exact", "exact", "", None))
        assert path.exists()


def test_a_file_that_got_nothing_goes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ScoreLog, "_begin", full)
    with pytest.raises(OSError, match="No space left"):
        ScoreLog(tmp_path / "scores.exact.jsonl", JudgeIdentity.now("exact", "exact", "", None))
    assert not any(tmp_path.iterdir())
