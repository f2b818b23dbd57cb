"""Held-out rows: split off by image, compared with training, asked as questions; the log, the best model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_job import evaluated, held_out_data

from viscot_core.data.annotations import split_crop
from viscot_core.data.mixture import Mixture
from viscot_core.errors import DataError, RecipeError
from viscot_core.train.evaluation import record
from viscot_core.train.evaluation.bench import Asked, bench_figures
from viscot_core.train.evaluation.held_out import _pairs, overlap
from viscot_core.train.evaluation.questions import questions_of
from viscot_core.train.evaluation.split import with_split
from viscot_core.train.preferences.pairs import PairMessage, PreferencePair, write_pairs
from viscot_core.train.recipe.load import load_recipe
from viscot_core.train.recipe.options import EvalChoice


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return held_out_data(tmp_path_factory.mktemp("held_out"), train=20, held_out=6)


def _images(file: Path) -> set[str]:
    return {split_crop(row.image[0])[0] for row in Mixture.open(file)}


def test_a_split_takes_whole_images_and_the_same_ones_again(data: Path, tmp_path: Path) -> None:
    recipe = evaluated(data, eval={"split": 0.3, "questions": 0})
    first, notes = with_split(recipe, data, tmp_path / "run")
    again, _ = with_split(recipe, data, tmp_path / "run")
    assert first == again
    stage = first.stages[0]
    assert stage.eval is not None and stage.eval.split is None and stage.eval.file is not None
    held, trained = _images(Path(stage.eval.file)), _images(Path(stage.files[0]))
    assert held and trained and not held & trained
    assert len(Mixture.open(stage.eval.file)) + len(Mixture.open(stage.files[0])) == 20
    assert "of 20 rows are held out" in notes[0]
    elsewhere, _ = with_split(recipe, data, tmp_path / "other")
    assert Path(str(elsewhere.stages[0].eval.file)).read_bytes() == Path(stage.eval.file).read_bytes()  # type: ignore[union-attr]


def test_a_split_that_holds_nothing_out_is_one_sentence(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds out 0 of 20 rows; give another share"):
        with_split(evaluated(data, eval={"split": 1e-9, "questions": 0}), data, tmp_path / "run")


def test_overlap_counts_rows_and_images_whatever_the_layout_says(data: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (data / "chain.jsonl").read_text().splitlines()[:2]]
    as_messages = {
        "id": "other",
        "images": rows[0]["image"],
        "messages": [
            {"role": "user" if t["from"] == "human" else "assistant", "content": t["value"]}
            for t in rows[0]["conversations"]
        ],
    }
    other_words = {**rows[1], "conversations": rows[1]["conversations"][:2]}
    (tmp_path / "held.jsonl").write_text("".join(json.dumps(r) + "\n" for r in (as_messages, other_words)))
    found = overlap(tmp_path / "held.jsonl", [data / "chain.jsonl"])
    assert (found.of, found.rows, found.images) == (2, 1, 2)
    assert overlap(data / "held_out.jsonl", [data / "chain.jsonl"]).rows == 0


def test_questions_are_those_that_the_rows_teach(data: Path) -> None:
    asked = questions_of(data / "held_out.jsonl", data)
    row = Mixture.open(data / "held_out.jsonl")[0]
    item, strategy = asked[0]
    assert (len(asked), strategy, item.reference) == (6, "cot", row.turns[3].text)
    assert item.box is not None and item.box == split_crop(row.image[1])[1]
    assert item.question in row.turns[0].text and "bounding box" not in item.question


def test_an_answer_that_cannot_be_compared_is_not_asked(data: Path, tmp_path: Path) -> None:
    row = json.loads((data / "held_out.jsonl").read_text().splitlines()[0])
    turns = [{"from": "human", "value": "<image>\nDescribe it."}, {"from": "gpt", "value": "a " * 20}]
    rows = [{**row, "image": row["image"][0], "conversations": turns}]
    rows.append({**rows[0], "conversations": [turns[0], {"from": "gpt", "value": "a card"}]})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    ((item, strategy),) = questions_of(tmp_path / "rows.jsonl", data)
    assert (item.question_id, strategy, item.reference) == (1, "direct", "a card")


def test_a_row_that_teaches_only_a_box_is_asked_for_it(data: Path, tmp_path: Path) -> None:
    row = json.loads((data / "held_out.jsonl").read_text().splitlines()[0])
    row |= {"image": row["image"][0], "conversations": row["conversations"][:2]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    ((item, strategy),) = questions_of(tmp_path / "rows.jsonl", data)
    assert (strategy, item.reference) == ("cot", None) and item.box is not None


def test_images_that_stood_in_rows_overlap_by_their_content(tmp_path: Path) -> None:
    for folder in ("training", "held-out"):
        row = {"images": [f"{folder}/images/{'a' * 64}.png"], "messages": [{"role": "user", "content": "x"}]}
        (tmp_path / f"{folder}.jsonl").write_text(json.dumps(row) + "\n")
    assert overlap(tmp_path / "held-out.jsonl", [tmp_path / "training.jsonl"]).rows == 1


def test_figures_leave_failures_out_and_count_them() -> None:
    asked = [Asked(n, f"{n}.png", 1.0, 0.7, failed=False, unread=False) for n in range(3)]
    asked += [
        Asked(3, "3.png", 0.0, 0.0, failed=False, unread=True),
        Asked(4, "4.png", None, None, True, False),
    ]
    figures = bench_figures(reversed(asked))
    assert figures["eval_answers"] == figures["eval_box"] == 0.75 and figures["eval_answers_of"] == 4
    assert (figures["eval_questions"], figures["eval_failed"], figures["eval_unread"]) == (5, 1, 1)
    assert figures["eval_answers_low"] < 0.75 < figures["eval_answers_high"]


def test_lines_of_lost_steps_go_and_the_best_model_survives_a_kill(tmp_path: Path) -> None:
    for step in (0, 2, 4):
        record.add(tmp_path, step, {"eval_loss": 1.0 - step / 10})
    model = tmp_path / "best.partial"
    model.mkdir()
    record.put(tmp_path, record.Best(4, "loss", 0.6), model)
    (tmp_path / "best").rename(tmp_path / "best.before")  # killed between two renames
    assert [line["step"] for line in record.continued(tmp_path, 2)] == [0, 2]
    assert record.best_of(tmp_path) == record.Best(4, "loss", 0.6)
    assert (tmp_path / record.LOG_FILE).read_text().count("\n") == 2


@pytest.mark.parametrize(
    ("figure", "values", "since"),
    [("loss", [3, 2, 2.5, 2], 2), ("answers", [0.1, 0.3, 0.2], 1), ("box", [0.1, None, 0.2], 0)],
)
def test_evaluations_without_gain_are_counted(figure: str, values: list[Any], since: int) -> None:
    lines = [{record.FIGURES[figure]: value} if value is not None else {} for value in values]
    assert record.without_gain(lines, figure) == since


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["eval.file=a.jsonl", "eval.split=0.1"], "eval.file names the held-out rows; give one"),
        (["eval.steps=3"], "eval: no rows - give eval.file"),
        (["eval.bench=cot"], "eval.best: loss - needs held-out rows"),
        (
            ["eval.file=a", "eval.best=box", "eval.questions=0"],
            "eval.best: box - needs eval.questions above 0",
        ),
        (["eval.split=1.5"], "less than 1"),
    ],
)
def test_contradictions_are_named(sets: list[str], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        load_recipe("7b-336", [f"stages.finetune.{one}" for one in sets])


def test_set_goes_with_the_options_of_the_command(data: Path, tmp_path: Path) -> None:
    from viscot_core.train.recipe.options import resolve

    sets = ["stages.finetune.eval.best=box", "stages.finetune.eval.questions=9"]
    held = EvalChoice(str(data / "held_out.jsonl"))
    recipe, _, _ = resolve("7b-336", [*sets, "seed=3"], "finetune", str(data), None, evaluation=held)
    spec = recipe.stages[-1].eval
    assert spec is not None and (spec.best, spec.questions, recipe.seed) == ("box", 9, 3)
    with pytest.raises(RecipeError, match="eval: no rows"):
        resolve("7b-336", sets, "finetune", str(data), None)


def test_the_options_are_settings_of_the_stage(tmp_path: Path) -> None:
    held = tmp_path / "held.jsonl"
    held.write_text("{}\n")
    assert EvalChoice(str(held), None, 50).overrides("finetune") == [
        "stages.finetune.eval.steps=50",
        f'stages.finetune.eval.file="{held}"',
    ]


def test_pairs_that_show_a_held_out_image_are_counted(data: Path, tmp_path: Path) -> None:
    shown = next(iter(Mixture.open(data / "held_out.jsonl"))).image[:1]
    prompt = PairMessage(role="user", content="<image>\nWhere?")
    good, bad = (PairMessage(role="assistant", content=text) for text in ("a", "b"))
    pair = PreferencePair(images=shown, prompt=(prompt,), chosen=(good,), rejected=(bad,))
    write_pairs(tmp_path / "prefs.jsonl", [pair])
    found = overlap(data / "held_out.jsonl", [tmp_path / "prefs.jsonl"], _pairs)
    assert (found.rows, found.images) == (0, 1)
