"""bench vqa: LLaVA's question files, LLaVA's prompts, and how its scripts read the answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_bench import FakeEngine, tasks_of_srun
from PIL import Image

from viscot_core.conversation import BOX_REQUEST
from viscot_core.engines.open import EngineOptions
from viscot_core.errors import DataError, UsageError
from viscot_core.runs.evaluate import evaluate
from viscot_core.runs.records import RunInfo, read_predictions, read_run
from viscot_core.runs.tally import Tally
from viscot_core.score.offline import MEASURES
from viscot_core.score.vqa import score_vqa, yes_no_figures
from viscot_core.tasks.vqa_file import STYLES, VqaFile, load_questions

Row = dict[str, object]


def write(folder: Path, rows: list[Row], name: str = "mine.jsonl") -> Path:
    """A question file and the images its rows name."""
    for row in rows:
        if (image := folder / "images" / str(row["image"])).suffix == ".png":
            image.parent.mkdir(exist_ok=True)
            Image.new("RGB", (80, 60), (10, 120, 90)).save(image)
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def row(number: int, text: str = "What is it?", **more: object) -> Row:
    return {"question_id": number, "image": f"{number}.png", "text": text, **more}


def bench(folder: Path, file: Path, **more: object) -> tuple[RunInfo, Tally]:
    """Run the file's questions into ``folder/run``."""
    return evaluate(VqaFile(file, folder / "images", **more), EngineOptions(), folder / "run")  # type: ignore[arg-type]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    made = FakeEngine()
    monkeypatch.setattr("viscot_core.runs.evaluate.open_engine", lambda *_, **__: made)
    monkeypatch.setattr("viscot_core.runs.evaluate.weights_hash", lambda _: made.identity["weights"])
    return made


def test_questions_end_in_their_style_once(tmp_path: Path) -> None:
    suffix = STYLES["letter"].suffix
    file = write(tmp_path, [row(1), row(2, "Which?\nA. a\nB. b" + suffix)])
    first, second = load_questions(file, tmp_path / "images", STYLES["letter"]).items
    assert first.question == "What is it?" + suffix
    assert second.question == "Which?\nA. a\nB. b" + suffix
    assert load_questions(file, tmp_path / "images", STYLES["free"]).items[0].question == "What is it?"


def test_ids_may_repeat_and_categories_are_data_sets(tmp_path: Path) -> None:
    rows = [row(1, category="random"), row(1, "And this?", category="random"), row(1, category="popular")]
    found = load_questions(write(tmp_path, rows, "pope.jsonl"), tmp_path / "images", STYLES["yes-no"])
    assert [item.name for item in found.items] == ["pope/random:1", "pope/random:1#2", "pope/popular:1"]
    assert found.planned() == {"pope/random": 2, "pope/popular": 1}
    same = load_questions(write(tmp_path, [row(1, category="default")]), tmp_path / "images", STYLES["short"])
    assert same.items[0].dataset == "mine"


def test_missing_images_are_named_or_counted(tmp_path: Path) -> None:
    file = write(tmp_path, [row(1), {**row(2), "image": "gone.jpg"}])
    with pytest.raises(DataError, match=r"1 of 2 questions.*--skip-missing"):
        load_questions(file, tmp_path / "images", STYLES["short"])
    found = load_questions(file, tmp_path / "images", STYLES["short"], skip_missing=True)
    assert (len(found.items), found.missing) == (1, {"mine": 1})


def test_a_bad_row_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, [row(1)])
    file.write_text(file.read_text() + '{"question_id": 2, "image": "1.png"}\n')
    with pytest.raises(DataError, match=r"mine\.jsonl:2.*'text' is missing; correct the row\.$"):
        load_questions(file, tmp_path / "images", STYLES["short"])
    file.write_text("")
    with pytest.raises(DataError, match="has no question;"):
        load_questions(file, tmp_path / "images", STYLES["short"])


@pytest.mark.parametrize(
    ("style", "answer", "words"),
    [
        ("letter", "the dog", "one letter, not 'the dog'"),
        ("letter", ["A", "B"], "one letter, not 'A, B'"),
        ("yes-no", "red", "yes or no, not 'red'"),
        ("yes-no", 3, "yes or no, not '3'"),
    ],
)
def test_an_answer_that_the_style_cannot_score_is_refused(
    tmp_path: Path, style: str, answer: object, words: str
) -> None:
    """Else every wrong reference would count as a wrong answer, or as a yes."""
    file = write(tmp_path, [row(1, answer=answer)])
    with pytest.raises(DataError, match=f"question 1: --style {style}.*{words}"):
        load_questions(file, tmp_path / "images", STYLES[style])


@pytest.mark.parametrize(
    ("style", "answer", "reference"),
    [
        ("letter", "b", "b"),
        ("letter", "B.", "B."),
        ("yes-no", "Yes", "Yes"),
        ("yes-no", " no. ", "no."),
        ("short", 3, "3"),
        ("short", ["red", "", "crimson"], "red\ncrimson"),
        ("short", "", None),
        ("free", None, None),
    ],
)
def test_answers_stand_in_the_run_folder(
    tmp_path: Path, style: str, answer: object, reference: str | None
) -> None:
    file = write(tmp_path, [row(1, answer=answer)])
    assert load_questions(file, tmp_path / "images", STYLES[style]).items[0].reference == reference


def test_direct_is_llavas_prompt_and_cot_the_papers(tmp_path: Path, engine: FakeEngine) -> None:
    file = write(tmp_path, [row(1, answer="it")])
    info, tally = bench(tmp_path, file, strategies=("direct", "cot"))
    assert (info.kind, tally.finished) == ("vqa", 2)
    asked = "USER: <image>\nWhat is it?\nAnswer the question using a single word or phrase. ASSISTANT:"
    assert engine.prompts[0].endswith(asked)  # one space, as LLaVA's scripts have it
    assert f"what is it?. {BOX_REQUEST}" in engine.prompts[1]  # no form of answer is asked of a box
    assert engine.prompts[2].endswith("phrase.  ASSISTANT:")
    direct, cot = read_predictions(tmp_path / "run")
    assert direct.box is None
    assert cot.crop is not None
    assert cot.iou is cot.box_gt is None  # no region is annotated: nothing to be right about


def test_a_run_goes_on_where_it_stopped(tmp_path: Path, engine: FakeEngine) -> None:
    file = write(tmp_path, [row(1), row(2)])
    bench(tmp_path, file)
    asked = len(engine.prompts)
    _, tally = bench(tmp_path, file)
    assert (len(engine.prompts), tally.finished) == (asked, 0)
    with pytest.raises(UsageError, match="style"):
        bench(tmp_path, file, style="free")


def test_tasks_of_srun_share_the_questions(
    tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, [row(number) for number in range(6)])
    done = [bench(tmp_path, file)[1].finished for _ in tasks_of_srun(monkeypatch, 2)]
    assert done == [3, 3] and len(read_predictions(tmp_path / "run")) == 6


def test_an_unreadable_image_fails_alone(tmp_path: Path, engine: FakeEngine) -> None:
    file = write(tmp_path, [row(1), {**row(2), "image": "bad.jpg"}])
    (tmp_path / "images" / "bad.jpg").write_text("no image")
    _, tally = bench(tmp_path, file)
    assert (tally.finished, tally.failed) == (1, 1)


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path, [row(1)])
    with pytest.raises(UsageError, match="Did you mean 'yes-no'"):
        bench(tmp_path, file, style="yesno")
    with pytest.raises(UsageError, match="--strategy"):
        bench(tmp_path, file, strategies=("gt-box",))


@pytest.mark.parametrize(
    ("measure", "reference", "answer", "score"),
    [
        ("letter", "B", "B", 1),
        ("letter", "B", "B. the dog", 1),
        ("letter", "B", "The answer is B.", 1),
        ("letter", "B", "A", 0),
        ("letter", "B", "Because of the rain", 0),
        ("letter", "B", "The answer is B, since it rains", 1),
        ("letter", "B", "The answer is Because", 0),  # LLaVA's pattern takes any letter with one behind it
        ("letter", "b.", "B", 1),
        ("yes-no", "yes", "Yes, there is.", 1),
        ("yes-no", "no", "No.", 1),
        ("yes-no", "no", "There is not, as far as I see", 1),
        ("yes-no", "no", "I know of one", 0),
        ("yes-no", "yes", "It is there. No doubt", 1),
        ("vqa", "red", "Red.", 1),
        ("vqa", "two", "2", 1),
        ("vqa", "coca cola", "Coca-Cola", 1),
        ("vqa", "dont walk", "don't walk", 1),
        ("vqa", "the dog's", "dog s", 0),
        ("vqa", "1,000", "1000", 1),
        ("vqa", "1.5", "15", 0),
        ("vqa", "5 p.m.", "5 pm", 1),
        ("vqa", "\n".join(["red"] * 10), "red", 1),
        ("vqa", "\n".join(["red"] * 2 + ["blue"] * 8), "red", 0.6),  # (2 x 1/3 + 8 x 2/3) / 10
        ("vqa", "\n".join(["red"] + ["blue"] * 9), "red", 0.3),
        ("vqa", "\n".join(["blue"] * 10), "red", 0),
    ],
)
def test_answers_are_read_as_the_fields_scripts_do(
    measure: str, reference: str, answer: str, score: float
) -> None:
    assert MEASURES[measure](reference, answer) == pytest.approx(score)


def test_popes_figures() -> None:
    pairs = [("yes", "Yes"), ("yes", "No"), ("no", "Yes"), ("no", "No"), ("yes", "yes")]
    figures = yes_no_figures(pairs)
    assert figures == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "yes": 3 / 5})
    assert yes_no_figures([("no", "no")])["f1"] == 0


def test_figures_are_kept_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine(lambda prompt: "Yes")
    monkeypatch.setattr("viscot_core.runs.evaluate.open_engine", lambda *_, **__: engine)
    monkeypatch.setattr("viscot_core.runs.evaluate.weights_hash", lambda _: engine.identity["weights"])
    file = write(tmp_path, [row(1, answer="yes"), row(2, answer="no"), row(3)])
    bench(tmp_path, file, style="yes-no")
    score_vqa(tmp_path / "run", "yes-no")
    figures = read_run(tmp_path / "run").figures["direct"]["mine"]
    assert figures == pytest.approx({"yes-no": 0.5, "precision": 0.5, "recall": 1, "f1": 2 / 3, "yes": 1})
    bench(tmp_path, file, style="yes-no")  # going on keeps them
    assert read_run(tmp_path / "run").figures["direct"]["mine"] == figures


def test_the_command(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(
        "viscot_core.runs.evaluate.open_engine", lambda *_, **__: FakeEngine(lambda prompt: "red")
    )
    file = write(tmp_path, [row(1, answer=["red", "red", "blue", "red"])])
    ran = cli("bench", "vqa", "--questions", file, "--images", tmp_path / "images", "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    assert "vqa" in ran.out
    assert cli("stats", tmp_path / "run").code == 0
    shown = cli("bench", "show", tmp_path / "run", "--id", "mine:1")
    assert "phrase. ASSISTANT:" in shown.out, shown.err
