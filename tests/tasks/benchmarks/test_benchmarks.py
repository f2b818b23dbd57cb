"""Readers of every file format on made files, the order of options, repeats, and what is refused."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from viscot_core.boxes.geometry import Box, Frame, iou
from viscot_core.boxes.registry import CODECS
from viscot_core.data.benchmarks.synth import KINDS, write_benchmark
from viscot_core.errors import DataError, UsageError
from viscot_core.policies.wording import LETTER
from viscot_core.tasks.answers.reading import LETTERS
from viscot_core.tasks.base import Item
from viscot_core.tasks.benchmarks.known_benchmarks import BENCHMARKS
from viscot_core.tasks.benchmarks.task import STRATEGIES, Benchmarks, evidence_iou
from viscot_core.tasks.loading import Selection


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a small file of every format."""
    out = tmp_path_factory.mktemp("data")
    for kind in KINDS:
        write_benchmark(out, kind, count=12)
    return out


def load(root: Path, name: str, **options: object) -> list[Item]:
    return list(Benchmarks(root, (name,), **options).load().items)  # type: ignore[arg-type]


def right_letter(item: Item) -> str:
    assert item.reference is not None
    return item.reference[0]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_format_gives_questions_with_their_images(root: Path, name: str) -> None:
    items = load(root, name)
    assert len(items) == (48 if name.startswith("hrbench") else 12)
    assert len({item.question_id for item in items}) == len(items)
    for item in items:
        assert item.path.is_file() and item.size[0] > 100 and not Path(item.image).is_absolute()
        if BENCHMARKS[name].form == "choice" or "options" in item.facts:
            options = item.facts["options"]
            letter, _, words = str(item.reference).partition(". ")
            assert options[LETTERS.index(letter)] == words
            assert sorted(item.facts["order"]) == list(range(len(options)))
            assert all(
                f"\n{a}. {option}" in item.question for a, option in zip(LETTERS, options, strict=False)
            )
        else:
            assert str(item.reference).rstrip(".").isdigit()
        assert "<image>" not in item.question


def test_the_right_option_of_vstar_is_the_first_in_file_order_and_anywhere_when_shuffled(root: Path) -> None:
    assert {right_letter(item) for item in load(root, "vstar", order="file")} == {"A"}
    shuffled = load(root, "vstar", repeats=8)
    counts = Counter(right_letter(item) for item in shuffled if len(item.facts["options"]) == 4)
    assert set(counts) == set("ABCD")
    assert [i.question for i in load(root, "vstar")] == [i.question for i in shuffled[:12]]
    other = load(root, "vstar", select=Selection(seed=1))
    assert [i.question for i in other] != [i.question for i in shuffled[:12]]


def test_hrbench_keeps_its_own_rotations(root: Path) -> None:
    items = load(root, "hrbench4k")
    assert [right_letter(item) for item in items[:8]] == list("ABCDABCD")
    assert {item.facts["cycle"] for item in items} == {"0", "1", "2", "3"}
    assert {item.facts["category"] for item in items} == {"single", "cross"}
    assert len({item.path for item in items}) == 12  # one file an image, however often it stands in the table


def test_the_option_not_in_the_image_stays_the_last(root: Path) -> None:
    items = load(root, "mme-realworld-lite", repeats=4)
    assert {item.facts["order"][-1] for item in items} == {4}
    assert len({item.facts["order"] for item in items}) > 4
    assert not any("(" in option for item in items for option in item.facts["options"])


def test_evidence_of_treebench_and_vstar(root: Path) -> None:
    for name in ("treebench", "vstar"):
        for item in load(root, name):
            assert item.box is not None and item.box.frame is Frame.ORIGINAL
            assert item.facts["evidence"] == (item.box.to_square(item.size).coords,)
            assert 0 <= item.box.x0 < item.box.x1 <= item.size[0]


def test_the_true_region_of_several_boxes_encloses_them(root: Path) -> None:
    for name in ("vstar", "treebench"):
        for item in load(root, name, strategies=("gt-box",)):
            assert item.region is not None
            boxes = [Box(*coords) for coords in item.facts["evidence"]]
            for side, outermost in (("x0", min), ("y0", min), ("x1", max), ("y1", max)):
                assert getattr(item.region, side) == pytest.approx(outermost(getattr(b, side) for b in boxes))
            region = STRATEGIES["gt-box"].region
            assert region is not None and region(item, {})[0] == item.region
    with pytest.raises(UsageError, match=r"no annotated region .*leave gt-box out"):
        load(root, "hrbench4k", strategies=("gt-box", "direct"))
    assert load(root, "hrbench4k", strategies=("random-box", "center-box"))


def test_repeats_are_questions_of_their_own_and_can_be_added(root: Path) -> None:
    once, thrice = load(root, "treebench"), load(root, "treebench", repeats=3)
    assert [item.question_id for item in once] == [item.question_id for item in thrice[:12]]
    assert {str(item.question_id).partition("@")[2] for item in thrice} == {"", "2", "3"}
    settings = [Benchmarks(root, ("treebench",), repeats=n).settings(None) for n in (1, 3)]
    assert settings[0] == settings[1]
    assert len({item.question for item in thrice if str(item.question_id).split("@")[0] == "5"}) > 1


def test_a_limit_draws_the_same_questions_of_every_repeat(root: Path) -> None:
    items = load(root, "vstar", repeats=2, select=Selection(limit=4))
    names = [str(item.question_id).partition("@")[0] for item in items]
    assert len(items) == 8 and names[:4] == names[4:]


def test_what_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="vstarr"):
        Benchmarks(root, ("vstarr",))
    with pytest.raises(UsageError, match="data synth --kind hrbench"):
        Benchmarks(tmp_path, ("hrbench8k",)).load()
    with pytest.raises(UsageError, match="--repeats 0"):
        Benchmarks(root, ("vstar",), repeats=0)
    folder = tmp_path / "bench" / "treebench"
    folder.mkdir(parents=True)
    with pytest.raises(DataError, match="no table of questions"):
        Benchmarks(tmp_path, ("treebench",)).load()
    row = {"index": 0, "question": "?", "A": "x", "B": "y", "answer": "C", "image": "a.png"}
    (folder / "t.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match="none of its 2 options"):
        Benchmarks(tmp_path, ("treebench",)).load()
    (folder / "t.jsonl").write_text(json.dumps({**row, "answer": "B", "image": "../../../x.png"}) + "\n")
    with pytest.raises(DataError, match="outside"):
        Benchmarks(tmp_path, ("treebench",)).load()
    (folder / "t.jsonl").write_text(json.dumps({**row, "answer": "B", "image": "!!" * 300}) + "\n")
    with pytest.raises(DataError, match="not base64"):
        Benchmarks(tmp_path, ("treebench",)).load()


def test_perfect_boxes_score_one_in_every_family_and_random_ones_about_chance(root: Path) -> None:
    """2,000 boxes written and read back by every codec: one harness scores perfect pixel boxes 0.000."""
    rng = random.Random(0)
    for name, codec in CODECS.items():
        if codec.points:
            continue
        scores, chance = [], []
        for _ in range(2000):
            size = (rng.randrange(1000, 2000), rng.randrange(1000, 2000))
            target, other = (_box(rng, size).to_square(size) for _ in range(2))
            read = codec.parse(codec.encode(target, size), size).box
            scores.append(evidence_iou([target], [read]))
            chance.append(iou(other, target))
        # Two decimals, or 32 bins a side (kosmos-2), move an edge by up to one step.
        assert min(scores) > 0.5 and sum(scores) / len(scores) > 0.9, (name, min(scores))
        assert sum(chance) / len(chance) < 0.2
    two = [Box(0, 0, 0.1, 0.1), Box(0.5, 0.5, 0.6, 0.6)]
    assert evidence_iou(two, two[:1]) == 0.5 and evidence_iou(two, [two[1], two[0]]) == 1.0


def test_a_parquet_table_with_bytes_and_a_number_as_answer(root: Path, tmp_path: Path) -> None:
    """As Hugging Face writes an ``Image`` column; the answer counts from 0."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "bench" / "treebench" / "data"
    folder.mkdir(parents=True)
    data = load(root, "treebench")[0].path.read_bytes()
    row = {"image": {"bytes": data, "path": None}, "question": "What?", "choices": ["x", "y"], "answer": 1}
    parquet.write_table(arrow.Table.from_pylist([row, row]), folder / "test-00000-of-00001.parquet")
    first, second = load(tmp_path, "treebench", order="file")
    assert first.reference == "B. y" and first.path == second.path and first.path.read_bytes() == data
    assert (first.question_id, second.question_id) == ("0", "1")


def _box(rng: random.Random, size: tuple[int, int]) -> Box:
    width, height = (rng.randrange(side // 4, side // 2) for side in size)
    x, y = rng.randrange(size[0] - width), rng.randrange(size[1] - height)
    return Box(x, y, x + width, y + height, Frame.ORIGINAL)


def test_images_named_from_the_folder_above_are_found(tmp_path: Path) -> None:
    write_benchmark(tmp_path, "visualprobe", count=2)
    file = tmp_path / "bench/visualprobe/val.json"
    file.write_text(file.read_text().replace("data/", "VisualProbe_Hard/data/"))
    assert all(item.path.is_file() for item in load(tmp_path, "visualprobe"))


def written(root: Path, name: str, **row: object) -> list[Item]:
    """The questions of a TSV with one row, whose image is that of a made table."""
    write_benchmark(root, "treebench", count=1)
    (item,) = load(root, "treebench")
    folder = root / f"bench/{name}"
    for path in folder.glob("*.tsv"):
        path.unlink()
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "images/one.jpg").write_bytes(item.path.read_bytes())
    cells = {"index": 1, "image": "images/one.jpg", "question": "What?", "answer": "B", **row}
    with (folder / "table.tsv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(cells), delimiter="\t")
        writer.writeheader()
        writer.writerow(cells)
    return load(root, name, order="file" if name == "mme-realworld-lite" else "shuffled", repeats=8)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("The choices are listed below:\n(A)DB11.\n(B) V12 B. S.\n(C) None", ("DB11.", "V12 B. S.", "None")),
        ("A. John B. Smith\nB. Ann\nC. Eve", ("John B. Smith", "Ann", "Eve")),
        (
            "A. He stands. B. He lies.\nC. He runs.\nD. He sits.",
            ("He stands.", "He lies.", "He runs.", "He sits."),
        ),
        ("A. Ann\nB. Eve C. Low", ("Ann", "Eve C. Low")),
        ("yes\nno", ("yes", "no")),
        ('["Red Cross", "U.S. Navy"]', ("Red Cross", "U.S. Navy")),
        ('["(A) Red Cross", "(B) U.S. Navy"]', ("Red Cross", "U.S. Navy")),
    ],
)
def test_options_in_one_text(tmp_path: Path, text: str, options: tuple[str, ...]) -> None:
    """MME-RealWorld has a line before them; a row of TreeBench has lost the line break before B."""
    item = written(tmp_path, "mme-realworld-lite", **{"multi-choice options": text, "A": "shifted"})[0]
    assert item.facts["options"] == options and item.reference == f"B. {options[1]}"


def test_options_that_the_image_shows_keep_their_places(tmp_path: Path) -> None:
    row = {"multi-choice options": "A. 1\nB. 2\nC. 3\nD. 4"}
    question = "Recognize the question and options in the image and answer it."
    assert {right_letter(i) for i in written(tmp_path / "a", "treebench", question=question, **row)} == {"B"}
    assert len({right_letter(i) for i in written(tmp_path / "b", "treebench", **row)}) > 1


def test_options_inside_a_question_are_shuffled_too(root: Path, tmp_path: Path) -> None:
    """ZoomBench: most of its questions hold their options; the others are open."""
    items = load(root, "zoombench", repeats=4)
    closed = [item for item in items if "options" in item.facts]
    assert len(closed) == len(items) / 2 and {right_letter(item) for item in closed} == set("ABC")
    assert all(item.question.count("\nA. ") == 1 for item in closed)
    assert all(item.question.endswith(LETTER) == ("options" in item.facts) for item in items)
    question = "How many? Select.\n(A) 0\n(B) 2\nOnly the letter."
    row = {"question": None, "query": question, "id": 7}
    item = written(tmp_path / "a", "zoombench", **row)[0]
    assert item.facts["options"] in (("0", "2"), ("2", "0"))
    assert item.question.startswith("How many? Select.\nOnly the letter.\nA. ")
    with pytest.raises(DataError, match="it has no question"):
        written(tmp_path / "b", "zoombench", question=None)
