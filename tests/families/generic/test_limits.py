"""How large a model sees an image: the limits, in every command that asks it, and what records say of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from family_checks import Made
from PIL import Image

from viscot_core.engines.open import EngineOptions, open_engine

pytest.importorskip("torchvision", reason="most processors have a video part; make test installs it")

TOKEN = 28 * 28


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made("qwen2.5-vl", tmp_path_factory.mktemp("limits"), viscot=None)  # type: ignore[arg-type]


def infer(made: Made, *words: str) -> dict[str, Any]:
    ran = made.viscot(
        "infer", made.image((517, 333)), "What?", "--json", "--max-new-tokens", "4", *made.asked, *words
    )
    assert ran.code == 0, ran.err
    record: dict[str, Any] = json.loads(ran.out)
    return record


def test_a_record_says_in_which_size_the_model_saw_the_image(qwen: Made, cli: Any) -> None:
    qwen.viscot = cli
    assert infer(qwen)["seen"] == [4 * 28, 3 * 28]  # 16 tokens at most
    for option in ("--max-pixels", "--image-max-pixels"):
        assert infer(qwen, option, str(6 * TOKEN))["seen"] == [3 * 28, 2 * 28]
    assert infer(qwen, "--image-min-pixels", str(15 * TOKEN), "--direct")["seen"] == [5 * 28, 3 * 28]


def test_limits_may_lie_beyond_the_models_own(qwen: Made, cli: Any) -> None:
    """Its processor is told to resize to others, whatever the box format is."""
    qwen.viscot = cli
    large = ["--max-pixels", str(60 * TOKEN)]
    assert (
        infer(qwen, *large)["seen"] == infer(qwen, *large, "--box-format", "unit")["seen"] == [9 * 28, 6 * 28]
    )
    assert infer(qwen, "--min-pixels", "1", "--max-pixels", str(2 * TOKEN))["seen"] == [28, 28]


def test_a_least_above_the_most_is_said(qwen: Made, cli: Any) -> None:
    words = ["infer", qwen.image(), "What?", *qwen.asked]
    ran = cli(*words, "--min-pixels", "40000")
    least = "No image has at least 40768 pixels (--min-pixels) and at most 12544 (without --max-pixels)"
    assert ran.code == 2 and least in ran.err
    ran = cli(*words, "--max-pixels", "3000")
    assert ran.code == 2 and "3136 pixels (without --min-pixels) and at most 2352 (--max-pixels)" in ran.err


def test_a_run_says_it_of_each_image_and_between_which_limits(qwen: Made, cli: Any) -> None:
    qwen.viscot = cli
    out = qwen.work / "run"
    words = ["--max-pixels", str(6 * TOKEN), "--max-new-tokens", "4", "--max-truncated", "1"]
    qwen.run("bench", "refcoco", "--data", qwen.data(), "--out", out, *words, *qwen.asked)
    engine = json.loads((out / "run.json").read_text())["settings"]["engine"]
    assert engine["image_tokens"] == "4-6 of 28 x 28"
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert all(28 * 28 * 4 <= row["seen"][0] * row["seen"][1] <= 28 * 28 * 6 for row in rows)


def test_a_row_of_its_own_is_not_taken_for_the_models(qwen: Made, cli: Any) -> None:
    """A question file may have a key of any name."""
    rows = qwen.work / "rows.jsonl"
    rows.write_text(json.dumps({"image": str(qwen.image()), "question": "What?", "seen": 1, "thoughts": 2}))
    ran = cli("infer", rows, "--json", "--direct", "--max-new-tokens", "2", "--device", "cpu")
    record = json.loads(ran.out)
    assert ran.code == 0 and "seen" not in record and "thoughts" not in record
    assert (record["input_seen"], record["input_thoughts"]) == (1, 2)


@pytest.mark.parametrize(
    "command",
    [
        *("infer", "chat", "serve", "cot", "refcoco", "vqa", "calibrate"),
        pytest.param("demo", marks=pytest.mark.slow),  # gradio takes seconds to import
    ],
)
def test_every_command_that_asks_a_model_takes_the_limits(qwen: Made, cli: Any, command: str) -> None:
    questions = qwen.work / "questions.jsonl"
    questions.write_text(json.dumps({"question_id": 1, "image": "160x120.png", "text": "What?"}) + "\n")
    out = ["--out", qwen.work / "never"]
    words: dict[str, list[Any]] = {
        "infer": ["infer", qwen.image(), "What?"],
        "chat": ["chat", qwen.image()],
        "demo": ["demo", "--port", "7913"],
        "serve": ["serve", "--port", "0", "--max-pixels", "40"],
        "cot": ["bench", "cot", "--data", qwen.data(), *out],
        "refcoco": ["bench", "refcoco", "--data", qwen.data(), *out],
        "vqa": ["bench", "vqa", "--questions", questions, "--images", qwen.work, *out],
        "calibrate": ["bench", "calibrate", "--formats", "qwen2.5-vl"],
    }
    ran = cli(*words[command], *qwen.asked, "--image-max-pixels", "700")
    assert ran.code == 2 and "No image has at least" in ran.err, ran.err
    assert not (qwen.work / "never").exists()


def test_calibration_shows_images_in_the_size_that_the_model_sees(qwen: Made, cli: Any) -> None:
    words = ["bench", "calibrate", "--formats", "qwen2.5-vl,unit", "--count", "4"]
    ran = cli(*words, "--model", qwen.folder, "--device", "cpu", "--max-pixels", str(6 * TOKEN))
    assert ran.code == 3 and "No box format reaches" in ran.err
    assert "qwen2.5-vl@4-6" in ran.out and ran.out.count("0 of 4") + ran.out.count("1 of 4") >= 1
    assert cli(*words, "--box-format", "unit", "--model", qwen.folder).code == 2
    assert cli(*words).code == 2


def test_glm_counts_an_image_as_two_frames(tmp_path: Path) -> None:
    made = Made("glm-4v", tmp_path, viscot=None)  # type: ignore[arg-type]
    options = {"model": str(made.folder), "dtype": "fp32", "device": "cpu"}
    wide: Any = open_engine(EngineOptions(**options))  # type: ignore[arg-type]
    assert wide.identity["image_tokens"] == "2-8 of 28 x 28"
    small: Any = open_engine(EngineOptions(**options, max_pixels=4 * TOKEN))  # type: ignore[arg-type]
    assert small.identity["image_tokens"] == "2-4 of 28 x 28"
    for engine, most in ((wide, 8), (small, 4)):
        pixels = engine.processor.hf.image_processor(
            images=[Image.new("RGB", (500, 400))], return_tensors="pt"
        )
        _, down, across = (int(side) for side in pixels["image_grid_thw"][0])
        assert most // 2 <= down * across / 4 <= most
