"""Comparisons with the paper and with another run, and every format of the result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_runs import prediction, sample_run, write_run

from viscot_core.errors import UsageError
from viscot_core.report.choices import By, Format
from viscot_core.report.compare import compare_to_paper, load_paper, paper_model
from viscot_core.report.names import DATASETS, canonical, domain, paper_order
from viscot_core.report.report_data import ReportOptions, build_report
from viscot_core.report.scored_run import ScoredRun, read_scored_run
from viscot_core.report.stats_types import StatsOptions
from viscot_core.report.tables import Table, draw
from viscot_core.runs.records import read_run
from viscot_core.score.offline import OfflineJudge
from viscot_core.score.scoring import score_run
from viscot_core.tasks.suites import PAPER, TASK_ALIASES


def scored(folder: Path, judge: str = "exact", model: str = "viscot-tiny") -> ScoredRun:
    score_run(folder, OfflineJudge(judge))
    run = read_scored_run(folder, judge)
    run.info.model = model
    return run


# -- published figures


def test_every_published_figure_is_the_papers(shared: Path) -> None:
    """Against the transcription, cell by cell, with nothing missing."""
    paper = json.loads((shared / "reference" / "published_figures.json").read_text())
    names = {d.title: d.key for d in DATASETS}
    rows = {(r.table, r.model, r.strategy): r.figures for r in load_paper().rows}
    tables = {3: "table3_benchmark", 7: "table7_detection"}
    for number, key in tables.items():
        for model, values in paper[key]["rows"].items():
            (found,) = [f for (t, m, _), f in rows.items() if (t, m) == (number, model)]
            assert found == dict(zip((names[d] for d in paper[key]["datasets"]), values, strict=True))
    for words, strategy in (
        ("w/o CoT", "direct"),
        ("GT BBox", "gt-box"),
        ("Random", "random-box"),
        ("Center", "center-box"),
    ):
        found = rows[4, "VisCoT-7B@224", strategy]
        assert list(found.values()) == paper["table4_box_strategies_7B224"]["rows"][words]
    for model, values in paper["table9_refcoco"]["rows"].items():
        found = rows[9, model.replace(" @", "@"), "refcoco"]
        assert list(found.values()) == [v for v in values if v is not None]
    columns = paper["table8_general"]["columns"]
    for model, values in paper["table8_general"]["rows"].items():
        found = rows[8, model, "direct"]
        assert found == {c: v for c, v in zip(columns, values, strict=True) if v is not None}
    fifth = {r.crop: list(r.figures.values()) for r in load_paper().rows if r.table == 5}
    for expanded, centered, *values in paper["table5_crop_policies_7B224"]["rows"]:
        crops = {("-", "-"): "tight", ("yes", "-"): "expanded", ("-", "yes"): "centered"}
        assert fifth[crops.get((expanded, centered), "paper")] == values[:5]
    second = {
        canonical(n.split("-200")[0]): int(k[:-1]) * 1000 for _, n, k, _ in paper["table2_dataset"]["rows"]
    }
    assert load_paper().training == second
    tenth = paper["table10_standard_metrics"]
    for at, name in enumerate(tenth["columns"]):
        strategy = "cot" if name.startswith("VisCoT") and "w/o" not in name else "direct"
        found = rows[10, name.replace(" w/o CoT", ""), strategy]
        assert found == {column: tenth[column][at] for column in ("DocVQA", "TextVQA", "ChartQA")}
    assert len(load_paper().rows) == 5 + 4 + 4 + 2 + 15 + 16 + 5


def test_it_says_whose_row_and_whose_judge(tmp_path: Path) -> None:
    run = scored(sample_run(tmp_path / "r", datasets=("docvqa", "cub")), model="somewhere/VisCoT-7b-224")
    assert paper_model(run) == "VisCoT-7B@224"
    report = build_report([run], ReportOptions(compare="paper"))
    (part,) = report.runs
    cot = {c.dataset: c for c in part.paper if (c.table, c.strategy) == (3, "cot")}
    assert set(cot) == {"mean of 2", "docvqa", "cub"}
    assert cot["docvqa"].theirs == 0.355
    assert cot["mean of 2"].theirs == pytest.approx((0.355 + 0.556) / 2)
    assert cot["docvqa"].difference == pytest.approx(cot["docvqa"].yours - 0.355)
    assert cot["docvqa"].excluded == (not cot["docvqa"].ci95.low <= 0.355 <= cot["docvqa"].ci95.high)
    boxes = {c.dataset: c for c in part.paper if c.metric == "acc50"}
    assert boxes["cub"].theirs == 67.0
    assert 50 < boxes["cub"].yours < 95
    assert any("gpt-3.5-turbo-1106" in note for note in part.paper_notes)


@pytest.mark.parametrize(("policy", "theirs"), [("paper", 0.461), ("tight", 0.399)])
def test_crops_against_table_5(tmp_path: Path, policy: str, theirs: float) -> None:
    text = ("docvqa", "textcap", "textvqa", "dude", "sroie")
    folder = sample_run(tmp_path / "r", datasets=(*text, "gqa"), items=10)
    info = read_run(folder)
    info.settings["crop_policy"] = policy
    info.save(folder)
    found = build_report([scored(folder)], ReportOptions(compare="paper")).runs[0].paper
    (text_row,) = [c for c in found if c.table == 5]  # Relation has three sets, and the run has one of them
    assert (text_row.dataset, text_row.theirs, text_row.n) == ("Text", theirs, 50)


def test_table_10_has_a_row_with_and_without_the_chain(tmp_path: Path) -> None:
    figures = {s: {"docvqa_val": {"anls": value}} for s, value in (("direct", 0.3), ("cot", 0.5))}
    rows = [prediction(strategy=s, dataset="docvqa_val", question_id=i) for s in figures for i in range(4)]
    folder = write_run(tmp_path / "r", rows)
    info = read_run(folder)
    info.kind, info.figures = "general", figures
    info.save(folder)
    found = build_report([read_scored_run(folder)], ReportOptions(compare="paper")).runs[0].paper
    assert {(c.strategy, c.yours, c.theirs) for c in found if c.table == 10} == {
        ("direct", 30, 29.4), ("cot", 50, 49.3),
    }  # fmt: skip


def test_repaired_boxes_are_said_to_read_higher_than_the_reference(tmp_path: Path) -> None:
    """A tenth of the boxes has no spaces: right here, wrong for the reference."""
    text = {True: "[0.1,0.2,0.3,0.4]", False: "[0.100, 0.200, 0.300, 0.400]"}
    rows = [
        prediction(
            dataset="cub", question_id=i, box_text=text[i < 2], box_status="repaired" if i < 2 else "ok"
        )
        for i in range(20)
    ]
    (part,) = build_report([scored(write_run(tmp_path / "r", rows))], ReportOptions(compare="paper")).runs
    (note,) = [n for n in part.paper_notes if "repaired" in n]
    assert "2 of 20" in note and "overall is 90.0, not 100.0" in note


def test_refcoco_against_table_9(tmp_path: Path) -> None:
    rows = [
        prediction(
            strategy="refcoco", dataset="refcoco+/testA", question_id=i, reference=None, answer=None, iou=0.9
        )
        for i in range(10)
    ]
    run = read_scored_run(write_run(tmp_path / "r", rows))
    found, notes = compare_to_paper(build_report([run], ReportOptions()).runs[0].stats, "VisCoT-7B@336")
    assert [(c.table, c.dataset, c.yours, c.theirs) for c in found] == [
        (9, "mean of 1", 100.0, 92.05),
        (9, "refcoco+/testA", 100.0, 92.05),
    ]
    assert not any("judge" in note for note in notes)


def test_a_data_set_the_paper_has_not_leaves_its_overall_out(tmp_path: Path) -> None:
    run = scored(sample_run(tmp_path / "r", datasets=("docvqa", "synth")))
    found = build_report([run], ReportOptions(compare="paper")).runs[0].paper
    assert {c.dataset for c in found} == {"docvqa"}


def test_an_unknown_model_names_the_nearest(tmp_path: Path) -> None:
    run = scored(sample_run(tmp_path / "r"))
    with pytest.raises(UsageError, match="VisCoT-7B@336"):
        build_report([run], ReportOptions(compare="paper:VisCoT-7B@33"))
    with pytest.raises(UsageError, match="papr' is unknown"):
        build_report([run], ReportOptions(compare="papr"))
    with pytest.raises(UsageError, match="--by"):
        build_report([run], ReportOptions(stats=StatsOptions(by=By.DOMAIN), compare="paper"))


# -- another run


def test_a_baseline_is_compared_question_by_question(tmp_path: Path) -> None:
    rows = [prediction(question_id=i) for i in range(20)]
    worse = [prediction(question_id=i, answer="no" if i < 10 else "42", iou=0.1) for i in range(20)]
    run, base = scored(write_run(tmp_path / "a", rows)), scored(write_run(tmp_path / "b", worse))
    differences = build_report([run], ReportOptions(baseline=base)).runs[0].baseline
    assert [(d.strategy, d.metric, d.test.mean) for d in differences] == [
        ("cot", "score", 0.5),
        ("cot", "acc50", 1.0),
    ]
    assert all(d.test.p < 0.01 for d in differences)


def test_runs_of_different_judges_do_not_stand_beside_each_other(tmp_path: Path) -> None:
    a, b = scored(sample_run(tmp_path / "a")), scored(sample_run(tmp_path / "b"), "anls")
    for asked in (ReportOptions(baseline=b), ReportOptions()):
        with pytest.raises(UsageError, match="--mix-judges"):
            build_report([a] if asked.baseline else [a, b], asked)
    assert build_report([a, b], ReportOptions(mix_judges=True)).runs


def test_two_runs_of_one_name(tmp_path: Path) -> None:
    a, b = scored(sample_run(tmp_path / "x" / "r")), scored(sample_run(tmp_path / "y" / "r"))
    with pytest.raises(UsageError, match="called r"):
        build_report([a, b], ReportOptions())


# -- formats


@pytest.mark.parametrize("form", [Format.TABLE, Format.MARKDOWN, Format.LATEX, Format.CSV])
def test_every_format_prints_every_table(tmp_path: Path, form: Format) -> None:
    run = scored(sample_run(tmp_path / "r", datasets=("docvqa", "cub")))
    base = scored(sample_run(tmp_path / "base", datasets=("docvqa", "cub"), seed=9))
    text = build_report([run], ReportOptions(compare="paper", baseline=base)).to_text(form)
    assert "docvqa" in text.lower()
    assert "VisCoT-7B@336" in text
    assert "minus base" in text
    data = build_report([run], ReportOptions(compare="paper", baseline=base)).to_json()
    assert json.loads(json.dumps(data))["paper"]["figures"][0]["ci95"]


def test_several_runs_stand_side_by_side_first(tmp_path: Path) -> None:
    runs = [scored(sample_run(tmp_path / name, seed=n)) for n, name in enumerate("ab")]
    first, *_ = build_report(runs, ReportOptions()).tables()
    assert first.title == "All runs"
    assert [row[:2] for row in first.rows] == [(r, s) for r in "ab" for s in ("cot", "direct", "gt-box")]
    assert build_report(runs[:1], ReportOptions()).tables()[0].title == "a: judge exact"


def test_every_mean_says_n_of_n(tmp_path: Path) -> None:
    rows = [prediction(strategy=s, dataset=d) for s in ("cot", "direct") for d in ("docvqa", "cub")]
    rows.append(prediction(strategy="cot", dataset="cub", question_id=2, status="failed", answer=None))
    run = scored(write_run(tmp_path / "r", rows))
    tables = {table.title: table for table in build_report([run], ReportOptions()).tables()}
    assert tables["Answers by dataset"].rows == [
        ("DocVQA", "1.000", "1.000", "1 of 1"),
        ("CUB", "1.000 (1 of 2)", "1.000 (1 of 1)", ""),
        ("overall", "1.000 (2 of 3)", "1.000 (2 of 2)", ""),
    ]


@pytest.mark.parametrize("form", [Format.TABLE, Format.MARKDOWN, Format.LATEX])
def test_nothing_in_common_with_the_paper_is_a_sentence_without_a_table(tmp_path: Path, form: Format) -> None:
    text = build_report([scored(sample_run(tmp_path / "r"))], ReportOptions(compare="paper")).to_text(form)
    assert "no data set and strategy in common" in text
    assert "theirs" not in text


def test_awkward_words_survive_markdown_and_latex() -> None:
    table = Table("50 % & more", ("a_b", "c"), [("x|y", "1"), ("#{}~^\\$<>", "2")])
    assert r"x\|y" in draw([table], Format.MARKDOWN)
    latex = draw([table], Format.LATEX)
    for escaped in (
        r"50 \% \& more",
        r"a\_b",
        r"\#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}\$$<$$>$",
    ):
        assert escaped in latex


# -- names


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("TextCaps", "textcap"),
        ("InfoVQA", "infographicsvqa"),
        ("v7w", "visual7w"),
        ("flickr_30k", "flickr30k"),
        ("Open-Images", "openimages"),
        ("CUB", "cub"),
        ("synth", "synth"),
        ("refcoco+/testA", "refcoco+/testA"),
    ],
)
def test_aliases(name: str, key: str) -> None:
    assert canonical(name) == key


def test_the_papers_data_sets_are_the_benchmarks() -> None:
    """Titles and domains stand with the reports, what can be run with the benchmark: no name in one only."""
    assert {dataset.key for dataset in DATASETS} == set(PAPER)
    assert all(canonical(alias) == key for alias, key in TASK_ALIASES.items())


def test_order_and_domains() -> None:
    assert paper_order({"cub", "synth", "docvqa", "v7w"}) == ["docvqa", "v7w", "cub", "synth"]
    assert [domain(n) for n in ("sroie", "infovqa", "v7w", "vsr", "cub", "synth")] == [
        "Text", "Chart", "General", "Relation", "Fine-grained", "Other",
    ]  # fmt: skip
    assert len(DATASETS) == 12
