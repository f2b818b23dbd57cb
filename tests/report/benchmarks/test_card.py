"""Run cards, what is refused, figures beside a score, and two runs compared."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from math import comb
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import binomtest

from tests.support.made_runs import prediction
from viscot_core.errors import UsageError
from viscot_core.report.analysis import analyse
from viscot_core.report.benchmarks.card import FIELDS, card_of, check_alike
from viscot_core.report.benchmarks.figures import benchmark_figures, figures_tables, question_of
from viscot_core.report.benchmarks.paired import compare_pair, mcnemar
from viscot_core.report.choices import By, Format
from viscot_core.report.json_csv import to_json
from viscot_core.report.report_data import ReportOptions, build_report
from viscot_core.report.scored_run import ScoredRun, read_scored_run
from viscot_core.report.stats_types import StatsOptions
from viscot_core.runs.answering import record
from viscot_core.runs.records import RunInfo
from viscot_core.score.protocols import ProtocolJudge
from viscot_core.score.scoring import score_run
from viscot_core.tasks.benchmarks.task import Benchmarks

SETTINGS: dict[str, Any] = {
    "order": "shuffled",
    "seed": 0,
    "max_new_tokens": 128,
    "engine": {"engine": "local", "model": "m", "sampling": "greedy"},
}


def made(
    folder: Path,
    right: int,
    *,
    items: int = 40,
    repeats: int = 1,
    strategy: str = "direct",
    **settings: object,
) -> ScoredRun:
    """A run on V* whose first ``right`` questions are answered rightly; the right letters go round."""
    rows = []
    for repeat in range(1, repeats + 1):
        for number in range(items):
            place = (number + repeat) % 4
            options = ["w1", "w2", "w3"]
            options.insert(place, "yes")
            order = [1, 2, 3]
            order.insert(place, 0)
            letter = "ABCD"[place] if number < right else "ABCD"[(place + 1) % 4]
            rows.append(
                prediction(
                    strategy=strategy,
                    dataset="vstar",
                    question_id=f"{number}" if repeat == 1 else f"{number}@{repeat}",
                    question=f"{number}? {options}",
                    reference=f"{'ABCD'[place]}. yes",
                    answer=letter if number != 1 else "I cannot say.",
                    image=f"{number}.jpg",
                    benchmark="vstar",
                    options=tuple(options),
                    order=tuple(order),
                    repeat=repeat if repeats > 1 else None,
                    category="attribute" if number % 2 else "position",
                )
            )
    folder.mkdir(parents=True)
    planned = {strategy: {"vstar": len(rows)}}
    info = RunInfo(
        kind="benchmarks",
        model="m",
        planned=planned,
        settings=SETTINGS | settings,
        hashes={"vstar": "0123456789"},
    )
    info.save(folder)
    (folder / "predictions.jsonl").write_bytes(b"".join(row.to_line() for row in rows))
    score_run(folder, ProtocolJudge("shuffled"))
    return read_scored_run(folder)


def test_the_card_has_every_field_and_an_old_run_has_one_too(tmp_path: Path) -> None:
    card = card_of(made(tmp_path / "a", 20))
    assert tuple(card.fields) == FIELDS
    assert card.fields["protocol"] == "shuffled" and card.fields["temperature"] == "0"
    assert card.fields["judge"] == "shuffled" and card.fields["questions"] == "vstar 01234567"
    old = ScoredRun("old", tmp_path, RunInfo(), None, (), {})
    assert set(card_of(old).fields) == set(FIELDS)


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("protocol", {"order": "file"}),
        ("seed", {"seed": 1}),
        ("tokens", {"max_new_tokens": 64}),
        ("temperature", {"engine": {"engine": "local", "model": "m", "sampling": "t=0.7,p=1.0,s=0"}}),
        ("engine", {"engine": {"engine": "vllm", "model": "m", "sampling": "greedy"}}),
        (
            "image-sent",
            {"engine": {"engine": "local", "sampling": "greedy", "image_tokens": "4-1280 of 28 x 28"}},
        ),
    ],
)
def test_unlike_cards_are_refused_by_name(tmp_path: Path, field: str, settings: dict[str, Any]) -> None:
    first, second = made(tmp_path / "a", 20), made(tmp_path / "b", 25, **settings)
    with pytest.raises(UsageError, match=rf"not measured alike: {field} \(.*--allow {field}"):
        compare_pair(first, second)
    assert compare_pair(first, second, allow=[field])
    with pytest.raises(UsageError, match="--allow"):
        check_alike(first, second, ["sead"])


@pytest.mark.parametrize(
    ("dialect", "strategies", "crop"),
    [
        ("viscot", ("zoom",), "paper"),
        ("qwen3-vl", ("zoom",), "box"),
        ("qwen3-vl", ("cot", "zoom"), "tight,box"),
        ("qwen3-vl", ("cot",), "tight"),
        ("of another version", ("zoom",), "-"),
    ],
)
def test_the_card_tells_how_the_zoom_loop_crops(
    tmp_path: Path, dialect: str, strategies: tuple[str, ...], crop: str
) -> None:
    settings = {"crop_policy": "tight", "zoom": {"dialect": dialect, "looks": 6}}
    planned = {(name, "vstar"): 1 for name in strategies}
    run = ScoredRun("run", tmp_path, RunInfo(settings=settings), None, (), planned)
    assert card_of(run).fields["crop"] == crop


def test_the_card_tells_the_layer_whose_attention_was_read(tmp_path: Path) -> None:
    card = card_of(made(tmp_path / "a", 4, items=8, strategy="attention", attention_layer=14))
    assert card.fields["policy"] == "attention (attention layer 14)"
    default = made(tmp_path / "b", 4, items=8, strategy="attention")
    with pytest.raises(UsageError, match="--allow policy"):
        check_alike(default, made(tmp_path / "c", 4, items=8, strategy="attention", attention_layer=14))


def test_another_reading_and_more_repeats_are_other_cards(tmp_path: Path) -> None:
    first, second = made(tmp_path / "a", 20), made(tmp_path / "b", 20, repeats=2)
    score_run(tmp_path / "a", ProtocolJudge("lmms-eval"))
    other = read_scored_run(tmp_path / "a", "lmms-eval")
    assert set(card_of(first).differences(card_of(other))) == {"judge"}
    assert set(card_of(first).differences(card_of(second))) == {"repeats"}


def test_figures_beside_a_score(tmp_path: Path) -> None:
    (one,) = benchmark_figures(made(tmp_path / "a", 20, repeats=4))
    assert (one.k, one.n, one.unread) == (4, 160, 4)
    assert one.mean == 19 / 40 and one.pass_at_k == one.all_right == 19 / 40
    assert one.chance == one.constant == 0.25 and one.constant_in_file == 1.0


def test_pass_at_k_says_of_how_many_questions(tmp_path: Path, cli: Callable[..., Any]) -> None:
    """An interrupted run: all four repeats of two questions, of the others the first one."""
    run = made(tmp_path / "a", 20, repeats=4)
    part = [one for one in run.items if one.prediction.repeat == 1 or question_of(one.prediction) in "02"]
    cut = replace(run, items=tuple(part))
    (one,) = benchmark_figures(cut)
    assert (one.n, one.of, one.k, one.pass_at_k) == (46, 160, 4, 1.0)
    assert (one.whole, one.questions) == (2, 40)
    (table,) = figures_tables(cut)
    assert dict(zip(table.header, table.rows[0], strict=True))["whole"] == "2 of 40"
    assert "over these alone" in table.notes[-1]
    stats = json.loads(cli("stats", str(tmp_path / "a"), "--format", "json").out)["benchmarks"][0]
    assert (stats["whole"], stats["questions"]) == (40, 40)
    (single,) = benchmark_figures(made(tmp_path / "b", 20))
    assert (single.pass_at_k, single.whole, single.questions) == (None, None, 40)
    assert "over these alone" not in "".join(figures_tables(read_scored_run(tmp_path / "b"))[0].notes)


def test_paired_differences_and_mcnemar(tmp_path: Path) -> None:
    first, second = made(tmp_path / "a", 30), made(tmp_path / "b", 20)
    (row,) = compare_pair(first, second)
    assert (row.only_first, row.only_second, row.test.n) == (10, 0, 40)
    assert row.test.mean == pytest.approx(0.25) and row.test.interval is not None
    assert row.test.interval.low > 0 and row.mcnemar == pytest.approx(2 / 2**10)


def test_two_policies_of_one_run_each_are_compared_once_they_are_allowed_to_differ(tmp_path: Path) -> None:
    first, second = made(tmp_path / "a", 30, strategy="tiles"), made(tmp_path / "b", 20)
    with pytest.raises(UsageError, match="--allow policy"):
        compare_pair(first, second)
    (row,) = compare_pair(first, second, allow=["policy"])
    assert row.strategy == "tiles - direct" and (row.only_first, row.only_second) == (10, 0)


@pytest.mark.parametrize(("b", "c", "p"), [(0, 0, 1.0), (5, 5, 1.0), (1, 9, 0.021484375), (0, 6, 0.03125)])
def test_mcnemar_is_the_exact_binomial_test(b: int, c: int, p: float) -> None:
    """R: binom.test(b, b + c)."""
    assert mcnemar(b, c) == mcnemar(c, b) == pytest.approx(p)


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_the_sum_of_all_its_terms(b: int, c: int) -> None:
    n, fewer = b + c, min(b, c)
    terms = sum(comb(n, i) for i in range(fewer + 1))
    assert mcnemar(b, c) == pytest.approx(min(1.0, 2 * (terms / 2**n)), rel=1e-12)


def test_mcnemar_of_many_pairs_takes_no_time() -> None:
    """All terms of 20,000 pairs took a minute."""
    start = time.process_time()
    p = mcnemar(9_900, 10_100)
    assert time.process_time() - start < 2
    assert p == pytest.approx(binomtest(9_900, 20_000).pvalue, rel=1e-9)


def test_the_commands(tmp_path: Path, cli: Callable[..., Any]) -> None:
    made(tmp_path / "a", 30)
    made(tmp_path / "b", 20, order="file")
    refused = cli("compare", str(tmp_path / "a"), str(tmp_path / "b"))
    assert refused.code == 2 and "--allow protocol" in refused.err
    ran = cli("compare", str(tmp_path / "a"), str(tmp_path / "b"), "--allow", "protocol", "--format", "json")
    assert ran.code == 0 and json.loads(ran.out)["differences"][0]["only_first"] == 10
    assert "McNemar" in cli("compare", str(tmp_path / "a"), str(tmp_path / "b"), "--allow", "protocol").out
    stats = json.loads(cli("stats", str(tmp_path / "a"), "--format", "json").out)
    assert stats["benchmarks"][0]["constant_in_file"] == 1.0 and stats["card"]["protocol"] == "shuffled"
    assert "in file order" in cli("stats", str(tmp_path / "a")).out


def test_by_category_of_a_benchmark(tmp_path: Path) -> None:
    run = made(tmp_path / "a", 20)
    stats = analyse(run, StatsOptions(by=By.CATEGORY))
    cells = stats.answers["direct"].groups
    assert stats.groups == ["vstar: attribute", "vstar: position"]
    assert {name: (cell.n, cell.mean) for name, cell in cells.items()} == {
        "vstar: attribute": (20, 9 / 20),  # the answer to question 1 cannot be read
        "vstar: position": (20, 10 / 20),
    }
    assert set(to_json(stats)["answers"]["direct"]["categories"]) == set(cells)
    assert "vstar: position" in build_report([run], ReportOptions(StatsOptions(by=By.CATEGORY))).to_text(
        Format.TABLE
    )


def published_vstar(root: Path) -> None:
    """V*Bench in its published numbers: 107 questions with four options, 84 with two; the first is right."""
    for number in range(191):
        kind, options = ("direct_attributes", 4) if number < 107 else ("relative_position", 2)
        path = root / f"bench/vstar/{kind}/{number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        row = {"question": f"{number}?", "options": [f"word {place}" for place in range(options)]}
        path.write_text(json.dumps(row))
        Image.new("RGB", (8, 8)).save(path.with_suffix(".jpg"))


def test_the_mean_evidence_iou_says_of_how_many(tmp_path: Path) -> None:
    run = made(tmp_path / "a", 20)
    items = [
        replace(item, prediction=item.prediction.model_copy(update={"evidence_iou": 0.5}))
        for item in run.items[:3]
    ]
    (found,) = benchmark_figures(replace(run, items=[*items, *run.items[3:]]))
    assert (found.evidence_iou, found.evidence_n, found.n) == (0.5, 3, 40)
    (table,) = figures_tables(replace(run, items=[*items, *run.items[3:]]))
    assert table.header[-2:] == ("evidence IoU", "its n") and table.rows[0][-2:] == ("0.500", "3")


@pytest.mark.parametrize(("order", "constant"), [("file", 1.0), ("shuffled", 0.372)])
def test_what_chance_and_a_constant_answer_score_on_vstar(
    tmp_path: Path, order: str, constant: float
) -> None:
    published_vstar(tmp_path)
    items = Benchmarks(tmp_path, ("vstar",), order=order).load().items
    rows = [record(item, "direct", status="done", answer="A") for item in items]
    (tmp_path / "run").mkdir()
    RunInfo(kind="benchmarks", planned={"direct": {"vstar": 191}}).save(tmp_path / "run")
    (tmp_path / "run/predictions.jsonl").write_bytes(b"".join(row.to_line() for row in rows))
    score_run(tmp_path / "run", ProtocolJudge("shuffled"))
    (figures,) = benchmark_figures(read_scored_run(tmp_path / "run"))
    assert figures.chance == pytest.approx(0.360, abs=5e-4)
    assert figures.constant_in_file == 1.0
    assert figures.constant == pytest.approx(constant, abs=5e-4)
