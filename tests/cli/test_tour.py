"""``viscot tour``: the bundled images, their drawings and the small benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_lines import parse_viscot
from PIL import Image

from viscot_core import tour
from viscot_core.errors import DataError
from viscot_core.models.zoo import BUNDLED_FOLDER


def test_the_examples_are_readable_images_with_a_question_and_an_answer() -> None:
    found = tour.examples()
    assert len(found) == 3
    sizes = [Image.open(example.image).size for example in found]
    assert any(width > 1.2 * height for width, height in sizes)
    assert any(height > 1.2 * width for width, height in sizes)
    assert all(example.question and example.answer.isdigit() for example in found)


def test_damaged_examples_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").write_text('{"image": "a.png"}\n')
    with pytest.raises(DataError, match="question"):
        tour.examples(tmp_path)


def test_a_tour_with_any_model_prints_answers_drawings_and_a_table(cli, shared: Path, tmp_path: Path) -> None:
    ran = cli("tour", "--model", shared / "golden" / "tiny_llava", "--questions", 2, "--save", tmp_path)
    assert ran.code == 0, ran.err
    assert ran.out.count("\n  answers ") == 3
    assert {path.name for path in tmp_path.glob("*.png")} == {"cards.png", "wide.png", "tall.png"}
    assert "box acc" in ran.out
    assert all(f"\n{strategy} " in ran.out for strategy in tour.STRATEGIES)
    assert "2 of 2" in ran.out
    told = [line.strip() for line in ran.out.splitlines() if line.startswith("  viscot ")]
    assert told == list(tour.MORE) and "make" not in ran.out


@pytest.mark.parametrize("line", tour.MORE)
def test_what_the_tour_tells_to_run_next_parses(line: str) -> None:
    parse_viscot(line.split())


@pytest.mark.skipif(not (BUNDLED_FOLDER / "config.json").exists(), reason="no bundled model in this checkout")
def test_the_bundled_model_answers_the_examples_right(cli, tmp_path: Path) -> None:
    ran = cli("tour", "--questions", 4, "--save", tmp_path)
    assert ran.code == 0, ran.err
    assert ran.out.count("(right)") == 3
    assert "--model VisCoT-7b-336" in ran.err
