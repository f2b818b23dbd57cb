"""The same replies under viscot's own rule and under the public harnesses' rules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_runs import prediction, write_run

from viscot_core.errors import UsageError
from viscot_core.runs.records import Prediction
from viscot_core.score.protocols import PROTOCOLS, ProtocolJudge, warning_of
from viscot_core.score.scoring import score_run
from viscot_core.score.verdicts import Outcome, Pair, State, pair_of, read_scores

TRAPS = json.loads((Path(__file__).parents[1] / "tasks/answers/traps.json").read_text(encoding="utf-8"))
OPTIONS = ("red", "dark red", "blue", "green")


def score(protocol: str, answer: str, *, right: str = "C", benchmark: str = "vstar") -> Outcome:
    reference = f"{right}. {OPTIONS['ABCD'.index(right)]}"
    found: list[Outcome] = []
    pair = Pair("What colour?", reference, answer, OPTIONS, benchmark)
    ProtocolJudge(protocol).judge([pair], lambda _, outcome: found.append(outcome))
    return found[0]


@pytest.mark.parametrize(
    ("protocol", "value"),
    [("shuffled", 1.0), ("lmms-eval", 0.0), ("vlmevalkit", 1.0), ("first-is-right", 0.0)],
)
def test_one_reply_under_each_rule(protocol: str, value: float) -> None:
    """lmms-eval reads a B in "Based"; a script without shuffling wants an A."""
    assert score(protocol, "Based on the image, the answer is C").score == value


def test_every_trap_sentence_is_scored_as_its_table_says() -> None:
    for row in TRAPS:
        if row["right"] is None:
            continue
        right = f"{row['right']}. {row['options']['ABCDEF'.index(row['right'])]}"
        pair = Pair("?", right, row["reply"], tuple(row["options"]), "vstar")
        assert PROTOCOLS["shuffled"](pair).score == 1.0, row["reply"]
        assert PROTOCOLS["lmms-eval"](pair).score == float(row["lmms-eval vstar"] == row["right"])
        assert PROTOCOLS["vlmevalkit"](pair).score == float(row["vlmevalkit"] == row["right"])
        deepeyes = PROTOCOLS["deepeyes"](pair)
        assert (deepeyes.state is State.UNSCORED) == (row["deepeyes"] == "judge")


def test_what_cannot_be_read_is_wrong_with_its_reason_and_never_drawn() -> None:
    outcome = score("shuffled", "I cannot tell.")
    assert (outcome.state, outcome.score) == (State.SCORED, 0.0)
    assert outcome.reason == "the final answer names no option"


def test_a_harness_without_the_benchmark_scores_nothing() -> None:
    outcome = score("lmms-eval", "C", benchmark="treebench")
    assert outcome.state is State.UNSCORED and "no rule for treebench" in str(outcome.reason)


def test_open_answers_and_letters_without_options() -> None:
    def own(reference: str, answer: str) -> float | None:
        return PROTOCOLS["shuffled"](Pair("?", reference, answer, (), "zoombench")).score

    assert own("Exit.", "The sign says.\n<answer>exit</answer>") == 1.0
    assert own("B", "The answer is (B) red.") == 1.0
    assert own("(B)", "The answer is (B).") == own("B.", "B") == 1.0
    assert own("B", "A red car, so the answer is C") == 0.0
    assert own("17", "<think>17") == 0.0


def test_runs_of_other_tasks_are_refused_and_their_pairs_are_as_before() -> None:
    pair = pair_of(
        Prediction(
            strategy="cot", dataset="gqa", question_id=1, status="done", image="a", width=1, height=1,
            question="q", reference="r", answer="a",
        )
    )  # fmt: skip
    assert pair == Pair("q", "r", "a") and pair.digest() == "3a206d182e2a1ad3"
    with pytest.raises(UsageError, match="bench run"):
        ProtocolJudge("shuffled").judge([pair], lambda _, outcome: None)
    with pytest.raises(UsageError, match="--protocol"):
        ProtocolJudge("vlmeval")


@pytest.mark.parametrize(("order", "warned"), [("shuffled", True), ("file", False), (None, False)])
def test_the_first_is_right_only_in_file_order(order: str | None, warned: bool) -> None:
    assert bool(warning_of("first-is-right", order)) == warned
    assert warning_of("lmms-eval", order) is None


def test_a_verdict_is_shared_within_a_benchmark_only(tmp_path: Path) -> None:
    """The same question in two benchmarks, the second answered later: each rule reads it for itself."""
    row = {
        "question": "What colour?",
        "reference": "C. blue",
        "answer": "Based on the image, the answer is C",
        "options": list(OPTIONS),
        "strategy": "direct",
    }
    both = [
        prediction(dataset=name, question_id=number, benchmark=name, **row)
        for number, name in enumerate(("vstar", "hrbench4k"))
    ]
    run = write_run(tmp_path / "run", both[:1])
    score_run(run, ProtocolJudge("lmms-eval"))
    write_run(tmp_path / "more", both)
    (run / "predictions.jsonl").write_text((tmp_path / "more" / "predictions.jsonl").read_text())
    score_run(run, ProtocolJudge("lmms-eval"))
    verdicts = read_scores(run / "scores.lmms-eval.jsonl").verdicts
    assert {key[1]: verdict.outcome.score for key, verdict in verdicts.items()} == {
        "vstar": 0.0,
        "hrbench4k": 1.0,
    }
