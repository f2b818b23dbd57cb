"""Means, counts and slices on runs small enough to check by hand."""

from pathlib import Path

import pytest
from made_runs import prediction, sample_run, write_run

from viscot_core.errors import DataError, UsageError
from viscot_core.report.analysis import analyse
from viscot_core.report.choices import Average, By
from viscot_core.report.json_csv import to_json
from viscot_core.report.scored_run import read_scored_run
from viscot_core.report.stats_types import StatsOptions
from viscot_core.report.tables import stats_tables
from viscot_core.runs.records import read_run
from viscot_core.score.offline import OfflineJudge
from viscot_core.score.scoring import score_run
from viscot_core.score.verdicts import JudgeIdentity, Outcome, ScoreLog, State, Verdict


def scored(folder: Path, rows: list, planned: dict | None = None):  # type: ignore[no-untyped-def,type-arg]
    score_run(write_run(folder, rows, planned), OfflineJudge("exact"))
    return read_scored_run(folder)


def test_the_overall_mean_is_the_mean_of_data_sets_and_pooling_is_an_option(tmp_path: Path) -> None:
    rows = [prediction(dataset="docvqa", question_id=i, answer="42" if i < 1 else "no") for i in range(2)]
    rows += [prediction(dataset="cub", question_id=i) for i in range(8)]
    run = scored(tmp_path / "r", rows)
    assert analyse(run).answers["cot"].overall.mean == pytest.approx((0.5 + 1) / 2)
    pooled = analyse(run, StatsOptions(average=Average.ITEMS)).answers["cot"].overall
    assert pooled.mean == pytest.approx(0.9)


def test_an_unscored_data_set_is_named_and_never_a_zero(tmp_path: Path) -> None:
    rows = [prediction(dataset="docvqa", question_id=i) for i in range(3)]
    run = scored(tmp_path / "r", rows, {"cot": {"docvqa": 4, "cub": 5}})
    stats = analyse(run)
    overall = stats.answers["cot"].overall
    assert (overall.mean, overall.n, overall.of) == (1.0, 3, 9)
    cub = stats.answers["cot"].groups["cub"]
    assert (cub.mean, cub.n, cub.of, cub.ci95) == (None, 0, 5, None)
    assert any("cub" in note for note in stats.notes)


def test_a_failed_prediction_leaves_the_mean_alone(tmp_path: Path) -> None:
    rows = [prediction(), prediction(question_id=2, status="failed", error="x", answer=None, iou=None)]
    stats = analyse(scored(tmp_path / "r", rows))
    assert (stats.answers["cot"].overall.mean, stats.answers["cot"].overall.n) == (1.0, 1)
    assert (stats.boxes["cot"].overall.acc50, stats.boxes["cot"].overall.n) == (1.0, 1)
    assert stats.excluded == {"cot": {"failed": 1}}


def test_every_item_that_is_in_no_mean_has_its_reason(tmp_path: Path) -> None:
    rows = [prediction(question_id=i) for i in range(7)]
    rows.append(prediction(question_id=7, status="failed", error="x", answer=None))
    rows.append(prediction(question_id=8, reference=None))
    folder = write_run(tmp_path / "r", rows, {"cot": {"synth": 14}})
    info = read_run(folder)
    info.missing = {"synth": 3}
    info.save(folder)
    assert analyse(read_scored_run(folder)).excluded == {"cot": {"no image": 3, "not run": 2, "failed": 1}}
    states = [State.SCORED, State.SCORED, State.UNSCORED, State.PENDING, State.FAILED, State.SCORED]
    with ScoreLog(folder / "scores.made.jsonl", JudgeIdentity.now("made", "made", None, None)) as log:
        log.append(
            [
                Verdict("cot", "synth", i, Outcome(state, 1.0 if state is State.SCORED else None))
                for i, state in enumerate(states)
            ]
        )
    stats = analyse(read_scored_run(folder))
    assert stats.excluded["cot"] == {
        "no image": 3, "not run": 2, "failed": 1, "nothing to judge": 1, "not judged": 1, "pending": 1,
        "unscored": 1, "refused": 1,
    }  # fmt: skip
    overall = stats.answers["cot"].overall
    assert (overall.mean, overall.n) == (1.0, 3)
    assert overall.n + sum(stats.excluded["cot"].values()) == overall.of == 14
    text = "\n".join(f"{table.title} {table.rows}" for table in stats_tables(stats))
    assert "Items that are in no mean" in text
    assert "'3 (21.4 %)'" in text


def test_a_family_that_points_has_no_box_figures_rather_than_zeros(tmp_path: Path) -> None:
    rows = [prediction(question_id=i, iou=None) for i in range(3)]
    rows.append(prediction(question_id=3, iou=None, box_status="unparsable", answer="no point"))
    stats = analyse(scored(tmp_path / "r", rows))
    boxes = stats.boxes["cot"].overall
    assert (boxes.acc50, boxes.mean_iou, boxes.n, boxes.of) == (None, None, 0, 4)
    assert boxes.unparsable == 1
    assert stats.by_box["cot"].wrong.n == 0


@pytest.mark.parametrize(
    ("by", "names"),
    [
        (By.DATASET, ["DocVQA", "GQA", "CUB", "overall", "in all strategies (1)"]),
        (By.DOMAIN, ["Text", "Relation", "Fine-grained", "overall", "in all strategies (1)"]),
    ],
)
def test_a_group_that_only_some_strategies_have_stands_in_the_table(
    tmp_path: Path, by: By, names: list[str]
) -> None:
    """A run folder may grow by one strategy's data set."""
    asked = {"cot": ("cub", "gqa"), "direct": ("docvqa", "gqa")}
    rows = [prediction(strategy=s, dataset=d) for s, datasets in asked.items() for d in datasets]
    tables = stats_tables(analyse(scored(tmp_path / "r", rows), StatsOptions(by=by)))
    (table,) = [t for t in tables if t.title == f"Answers by {by.value}"]
    assert [row[0] for row in table.rows] == names
    assert [row[1:] for row in table.rows][:2] == [("", "1.000", "1 of 1"), ("1.000", "1.000", "1 of 1")]


def test_boxes_count_strictly_above_the_threshold_and_unparsable_as_wrong(tmp_path: Path) -> None:
    rows = [
        prediction(question_id=1, iou=0.5),
        prediction(question_id=2, iou=0.501, box_status="repaired"),
        prediction(question_id=3, iou=0.0, box_status="unparsable", box_text="none"),
        prediction(question_id=4, iou=0.2),
    ]
    boxes = analyse(scored(tmp_path / "r", rows)).boxes["cot"].overall
    assert boxes.acc50 == 0.25
    assert boxes.at_least_half == 0.5
    assert boxes.accuracy[0.3] == 0.5
    assert boxes.mean_iou == pytest.approx((0.5 + 0.501 + 0 + 0.2) / 4)
    assert (boxes.repaired, boxes.unparsable, boxes.n) == (1, 1, 4)


def test_only_strategies_that_predict_a_box_have_box_figures(tmp_path: Path) -> None:
    rows = [prediction(strategy=s) for s in ("cot", "gt-box", "center-box")]
    assert list(analyse(scored(tmp_path / "r", rows)).boxes) == ["cot"]


def test_refcoco_needs_no_judge(tmp_path: Path) -> None:
    splits = ("refcoco+/testA", "refcoco/val")
    rows = [prediction(strategy="refcoco", dataset=d, reference=None, answer=None) for d in splits]
    stats = analyse(read_scored_run(write_run(tmp_path / "r", rows)))
    assert stats.answers == {}
    assert list(stats.boxes["refcoco"].groups) == ["refcoco/val", "refcoco+/testA"]
    assert stats.notes == []


def test_by_domain_and_by_box_area(tmp_path: Path) -> None:
    rows = [
        prediction(dataset="docvqa", question_id=1, box_gt=(0, 0.2, 0.05, 0.25)),
        prediction(dataset="v7w", question_id=2, box_gt=(0, 0.125, 1, 0.875), answer="wrong"),
        prediction(dataset="synth", question_id=3),
    ]
    run = scored(tmp_path / "r", rows)
    domains = analyse(run, StatsOptions(by=By.DOMAIN)).answers["cot"].groups
    assert {d: c.mean for d, c in domains.items()} == {"Text": 1, "General": 0, "Other": 1}
    areas = analyse(run, StatsOptions(by=By.BOX_AREA)).answers["cot"].groups
    assert {a: c.n for a, c in areas.items()} == {"< 1 %": 1, "1-5 %": 0, "5-20 %": 1, ">= 20 %": 1}
    assert areas[">= 20 %"].mean == 0


def test_paired_differences_use_shared_questions_only(tmp_path: Path) -> None:
    rows = [prediction(question_id=i) for i in range(4)]
    rows += [prediction(strategy="direct", question_id=i, answer="no") for i in range(2, 6)]
    (difference,) = analyse(scored(tmp_path / "r", rows)).differences
    assert (difference.first, difference.second) == ("cot", "direct")
    assert (difference.test.mean, difference.test.n) == (1.0, 2)


def test_a_set_that_one_strategy_lacks_is_in_no_paired_figure(tmp_path: Path) -> None:
    """``direct`` has one set only: its overall is no comparison, the pairs and the common row are."""
    rows = [prediction(dataset="cub", question_id=i) for i in range(6)]
    rows += [prediction(dataset="gqa", question_id=i, answer="42" if i < 3 else "no") for i in range(6)]
    rows += [prediction(strategy="direct", dataset="gqa", question_id=i) for i in range(6)]
    stats = analyse(scored(tmp_path / "r", rows))
    assert stats.answers["cot"].overall.mean == 0.75 and stats.answers["direct"].overall.mean == 1
    (difference,) = stats.differences
    assert (difference.datasets, difference.test.mean, difference.test.n) == (["gqa"], -0.5, 6)
    assert to_json(stats)["differences"][0]["datasets"] == ["gqa"]
    tables = {t.title: t for t in stats_tables(stats)}
    assert tables["Answers by dataset"].rows[-1] == ("in all strategies (1)", "0.500", "1.000", "6 of 6")
    assert tables["Paired differences of answer scores"].rows[0][-1] == "GQA"


def test_one_item_has_no_interval_and_questions_of_one_image_are_one_draw(tmp_path: Path) -> None:
    one = analyse(scored(tmp_path / "one", [prediction()]))
    assert one.answers["cot"].overall.ci95 is None and one.boxes["cot"].overall.ci95 is None
    rows = [prediction(question_id=i, image="same.jpg") for i in range(12)]
    assert analyse(scored(tmp_path / "same", rows)).answers["cot"].overall.ci95 is None
    apart = analyse(scored(tmp_path / "apart", [prediction(question_id=i) for i in range(12)]))
    assert apart.answers["cot"].overall.ci95 == pytest.approx((0.757, 1), abs=1e-3)


def test_answers_after_right_and_wrong_boxes(tmp_path: Path) -> None:
    rows = [prediction(question_id=1), prediction(question_id=2, iou=0.1, answer="no")]
    split = analyse(scored(tmp_path / "r", rows)).by_box["cot"]
    assert (split.right.mean, split.wrong.mean) == (1.0, 0.0)


def test_the_json_keeps_its_contract(tmp_path: Path) -> None:
    run = sample_run(tmp_path / "r", datasets=("docvqa", "cub"))
    score_run(run, OfflineJudge("exact"))
    data = to_json(analyse(read_scored_run(run)))
    assert list(data["answers"]) == ["cot", "direct", "gt-box"]
    for part in data["answers"].values():
        assert set(part) == {"datasets", "overall"}
        for cell in (*part["datasets"].values(), part["overall"]):
            assert set(cell) == {"mean", "n", "of", "ci95"}
            assert cell["ci95"][0] <= cell["mean"] <= cell["ci95"][1]
    for part in data["boxes"].values():
        for cell in (*part["datasets"].values(), part["overall"]):
            assert set(cell) == {"acc50", "mean_iou", "n", "of", "unparsable"}


def test_adding_a_strategy_changes_no_other_digit(tmp_path: Path) -> None:
    small = sample_run(tmp_path / "a")
    rows = [prediction(strategy="no-image", question_id=i) for i in range(5)]
    from viscot_core.runs.records import read_predictions

    large = write_run(tmp_path / "b", [*read_predictions(small), *rows])
    for run in (small, large):
        score_run(run, OfflineJudge("exact"))
    a, b = (to_json(analyse(read_scored_run(run)))["answers"] for run in (small, large))
    assert all(a[s] == b[s] for s in a)


def test_two_judges_must_be_named(tmp_path: Path) -> None:
    run = sample_run(tmp_path / "r")
    for name in ("exact", "anls"):
        score_run(run, OfflineJudge(name))
    with pytest.raises(UsageError, match="--judge"):
        read_scored_run(run)
    judge = read_scored_run(run, "anls").judge
    assert judge and judge.name == "anls"
    with pytest.raises(UsageError, match="no scores of the judge 'vqa'"):
        read_scored_run(run, "vqa")


@pytest.mark.parametrize("name", ["run 1 (b)", "a/b:c", ".dots.", "exact"])
def test_a_judge_is_found_by_the_name_it_was_given(tmp_path: Path, name: str) -> None:
    """The command line's way: the file name is made of the name in one place."""
    run = sample_run(tmp_path / "r")
    score_run(run, OfflineJudge("exact"), name=name)
    score_run(run, OfflineJudge("anls"))
    judge = read_scored_run(run, name).judge
    assert judge and judge.name == "exact"


def test_an_unscored_run_says_how_to_score_it(tmp_path: Path) -> None:
    stats = analyse(read_scored_run(sample_run(tmp_path / "r")))
    assert stats.answers["cot"].overall.n == 0
    assert "viscot score" in stats.notes[0]


def test_the_scores_of_another_run_are_refused(tmp_path: Path) -> None:
    a, b = sample_run(tmp_path / "a", seed=1), sample_run(tmp_path / "b", seed=2)
    score_run(a, OfflineJudge("exact"))
    (b / "scores.exact.jsonl").write_bytes((a / "scores.exact.jsonl").read_bytes())
    with pytest.raises(DataError, match="does not belong"):
        read_scored_run(b)


def test_a_run_that_only_names_boxes_has_no_answers_to_score(tmp_path: Path) -> None:
    """Whatever its task is called: its records say so."""
    boxes = [prediction(question_id=n, reference=None, answer=None) for n in range(3)]
    run = read_scored_run(write_run(tmp_path / "boxes", boxes))
    assert not run.has_answers
    stats = analyse(run)
    assert stats.answers == {} and stats.boxes["cot"].overall.n == 3
    failed = [*boxes, prediction(question_id=9, status="failed", answer=None)]
    assert read_scored_run(write_run(tmp_path / "failed", failed)).has_answers
