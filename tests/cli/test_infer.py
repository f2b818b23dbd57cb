"""``viscot infer`` as people type it: images of every kind, many, mistakes."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Run = Callable[..., Any]
QUESTION = "What is written on the sign?"


def test_one_image(cli: Run, golden: Path, tiny: tuple[str, str], tmp_path: Path) -> None:
    image, drawn = golden / "images" / "landscape.jpg", tmp_path / "new" / "out.png"
    ran = cli("infer", image, QUESTION, *tiny, "--save", drawn)
    assert ran.code == 0, ran.err
    assert "answer  Total amount due: The sign says road 6, 6, 666." in ran.out
    assert "crop    0, 0, 230, 230  of 640 x 427" in ran.out
    assert "No --model" not in ran.err
    assert Image.open(drawn).width > 640
    assert [p.name for p in drawn.parent.iterdir()] == ["out.png"]


def test_json_has_both_frames(cli: Run, golden: Path, tiny: tuple[str, str]) -> None:
    ran = cli("infer", golden / "images" / "landscape.jpg", QUESTION, *tiny, "--json")
    (row,) = [json.loads(line) for line in ran.out.splitlines()]
    assert row["box"] == [0.037, 0.142, 0.142, 0.525] and row["box_status"] == "ok"
    assert row["box_pixels"] == pytest.approx([23.7, 0.0, 90.9, 230.0], abs=0.1)
    assert (row["status"], row["strategy"], row["model"]) == ("done", "cot", "tiny_llava")
    assert (row["width"], row["height"], row["crop"]) == (640, 427, [0, 0, 230, 230])
    assert row["seconds"] > 0
    assert 0 < row["box_probability"] <= 1 and 0 < row["answer_probability"] <= 1


def test_direct(cli: Run, golden: Path, tiny: tuple[str, str]) -> None:
    ran = cli(
        "infer", golden / "images" / "portrait.jpg", "Which color is the large shape?", *tiny, "--direct"
    )
    assert ran.out == "answer  The large shape is dark green.\n"


def test_a_folder_in_one_load(cli: Run, golden: Path, tiny: tuple[str, str], tmp_path: Path) -> None:
    """Every kind of image in one folder; batches give what single questions give."""
    ran = cli("infer", golden / "images", QUESTION, *tiny, "--json", "--batch-size", 4, "--save", tmp_path)
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert ran.code == 0 and len(rows) == 15
    assert [row["image"] for row in rows] == sorted(row["image"] for row in rows)
    assert all(row["status"] == "done" and row["answer"] for row in rows)
    exif = next(row for row in rows if row["image"].endswith("exif6.jpg"))
    assert (exif["width"], exif["height"]) == (300, 512)
    assert len(list(tmp_path.glob("*.png"))) == 15


def test_glob_and_jsonl(cli: Run, golden: Path, tiny: tuple[str, str], tmp_path: Path) -> None:
    ran = cli("infer", str(golden / "images" / "gray*"), QUESTION, *tiny, "--json")
    assert len(ran.out.splitlines()) == 3
    rows = [
        {"image": str(golden / "images" / "portrait.jpg"), "question": "Which color is the large shape?"},
        {"image": "here.png", "question": "How many circles are there?"},
        {"image": "gone.png", "question": "How many circles are there?"},
    ]
    Image.new("RGB", (80, 60)).save(tmp_path / "here.png")
    (tmp_path / "ask.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    ran = cli("infer", tmp_path / "ask.jsonl", *tiny, "--json")
    answers = [json.loads(line) for line in ran.out.splitlines()]
    assert ran.code == 3 and "1 of 3 questions have no answer" in ran.err
    assert [answer["status"] for answer in answers] == ["done", "done", "failed"]
    assert "no image at" in answers[2]["error"] and answers[2]["question"]


def test_every_answer_is_drawn_into_a_file_of_its_own(
    cli: Run, golden: Path, tiny: tuple[str, str], tmp_path: Path
) -> None:
    """Also where the images are called alike, or one is asked about twice."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (80, 60)).save(tmp_path / folder / "p.png")
    rows = [{"image": f"{name}/p.png", "question": f"{n}?"} for n, name in enumerate("aab")]
    (tmp_path / "ask.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ran = cli("infer", tmp_path / "ask.jsonl", *tiny, "--save", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["p-2.png", "p-3.png", "p.png"]


def test_no_drawing_replaces_an_image(cli: Run, tiny: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    Image.new("RGB", (80, 60)).save(tmp_path / "p.png")
    before = (tmp_path / "p.png").read_bytes()
    for what, save in ((".", "."), ("p.png", "p.png"), ("p.png", "link/p.png"), (".", "link")):
        ran = cli("infer", tmp_path / what, "What?", *tiny, "--save", tmp_path / save)
        assert ran.code == 2 and "p.png is an image that is asked about" in ran.err
    assert (tmp_path / "p.png").read_bytes() == before


def test_names_and_questions_in_any_characters(cli: Run, tiny: tuple[str, str], tmp_path: Path) -> None:
    """A name that is no UTF-8; a line separator that JSON allows inside a text."""
    Image.new("RGB", (80, 60)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / os.fsdecode(b"caf\xe9.png"))
    ran = cli("infer", tmp_path, "What?", *tiny, "--json")
    assert ran.code == 0 and json.loads(ran.out)["image"].endswith("caf?.png")
    Image.new("RGB", (80, 60)).save(tmp_path / "b.png")
    row = json.dumps({"image": "b.png", "question": "one\u2028two?"}, ensure_ascii=False)
    (tmp_path / "ask.jsonl").write_text(row + "\r\n", encoding="utf-8")
    ran = cli("infer", tmp_path / "ask.jsonl", *tiny, "--json")
    assert ran.code == 0 and json.loads(ran.out)["question"] == "one\u2028two?"


def test_a_question_that_is_no_text(cli: Run, golden: Path, tiny: tuple[str, str], tmp_path: Path) -> None:
    """A byte of the command line that is no UTF-8; half a surrogate pair in a row, which fails alone."""
    image = golden / "images" / "landscape.jpg"
    ran = cli("infer", image, os.fsdecode(b"caf\xe9?"), "--model", "not-loaded")
    assert ran.code == 2 and "damaged character" in ran.err
    rows = [{"image": str(image), "question": text} for text in ("a\ud83dz", QUESTION)]
    (tmp_path / "ask.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for options in ((), ("--json",), ("--out", tmp_path / "answers.jsonl")):
        ran = cli("infer", tmp_path / "ask.jsonl", *tiny, *options)
        assert ran.code == 3 and "line 1: The question has a damaged character" in ran.err
        assert "1 of 2 questions have no answer" in ran.err


def test_when_no_image_can_be_read(cli: Run, tiny: tuple[str, str], tmp_path: Path) -> None:
    """Nothing was done (1), not something (3); every failure has its line of --json."""
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("no image")
    ran = cli("infer", tmp_path, "What?", *tiny, "--json")
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert ran.code == 1 and "None of the 2 questions" in ran.err
    assert [(row["status"], row["strategy"]) for row in rows] == [("failed", "cot")] * 2
    ran = cli("infer", tmp_path / "a.png", "What?", *tiny, "--json")
    assert ran.code == 1 and json.loads(ran.out)["status"] == "failed"
    assert "cannot be read as an image" in ran.err and ran.err.count("\n") == 1


@pytest.mark.parametrize(
    "content", ["{", '{"question": "x"}', "[]", '{"image": "a.png", "question": " "}', ""]
)
def test_bad_rows(cli: Run, tmp_path: Path, content: str) -> None:
    (tmp_path / "ask.jsonl").write_text(content)
    ran = cli("infer", tmp_path / "ask.jsonl")
    assert ran.code == 1 and "ask.jsonl" in ran.err and "Traceback" not in ran.err


# -- images that are none, or unusual --------------------------------------------------------------


def _bomb() -> bytes:
    """A PNG of 200,000 x 200,000 pixels in a few hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", size)
        + chunk(b"IDAT", zlib.compress(b"\0" * 999))
        + chunk(b"IEND", b"")
    )


def _png(mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (80, 90, 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(stream, "PNG")
    return stream.getvalue()


BAD = {
    "empty.png": (b"", "is empty"),
    "text.jpg": (b"not an image", "cannot be read as an image"),
    "cut.png": (_png()[:9000], "cannot be read as an image"),
    "bomb.png": (_bomb(), "too large|more than"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images(cli: Run, tmp_path: Path, name: str) -> None:
    """Told in one sentence before a model is loaded (there is no such model)."""
    import re

    content, words = BAD[name]
    (tmp_path / name).write_bytes(content)
    ran = cli("infer", tmp_path / name, "What?", "--model", "not-loaded")
    assert ran.code == 1 and re.search(words, ran.err), ran.err
    assert name in ran.err and "Traceback" not in ran.err and ran.err.count("\n") == 1


def test_odd_images_are_read(cli: Run, tiny: tuple[str, str], tmp_path: Path) -> None:
    """16-bit, palette, animated: one frame, as RGB."""
    deep = np.linspace(0, 65535, 80 * 90, dtype=np.uint16).reshape(80, 90)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    (tmp_path / "palette.png").write_bytes(_png("P"))
    frames = [Image.new("RGB", (60, 40), color) for color in ("red", "green", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    ran = cli("infer", tmp_path, "How many circles are there?", *tiny, "--json")
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert ran.code == 0 and [row["status"] for row in rows] == ["done"] * 3


def test_mistakes(cli: Run, golden: Path, tiny: tuple[str, str], tmp_path: Path) -> None:
    image = golden / "images" / "landscape.jpg"
    for argv, code, words in [
        ((tmp_path / "gone.jpg", "What?"), 1, "no image at"),
        ((image, ""), 2, "question is empty"),
        ((image,), 2, "question is missing"),
        ((tmp_path, "What?"), 2, "no image in"),
        ((str(tmp_path / "*.jpg"), "What?"), 2, "No file matches"),
        ((image, "What?", "--model", "VisCoT-7b-33"), 1, "Did you mean 'VisCoT-7b-336'"),
        ((image, "What is <image>?"), 2, "<image>"),
        ((image, "What?", *tiny, "--dtype", "int4"), 2, "--dtype"),
        ((image, "What?", *tiny, "--save", tmp_path / "x.docx"), 2, "change the ending"),
        ((image, "What?", *tiny, "--batch-size", 0), 2, "batch-size"),
        ((golden / "images", "What?", *tiny, "--save", tmp_path / "one.png"), 2, "give a folder"),
        ((tmp_path / "gone.jsonl",), 1, "gone.jsonl cannot be read (No such file"),
        (("", "What?"), 2, "image is missing"),
        (("~nobody-at-all/a.png", "What?"), 1, "no image at"),
        ((image, "What?", *tiny, "--save", image / "out.png"), 2, "Nothing can be written into"),
        ((image, "What?", *tiny, "--temperature", "inf"), 2, "--temperature"),
        ((image, "What?", *tiny, "--temperature", "1", "--seed", str(2**70)), 2, "beyond 64 bits"),
    ]:
        ran = cli("infer", *argv)
        assert ran.code == code and words in ran.err, (argv, ran)
        assert "Traceback" not in ran.err
    assert not any(tmp_path.iterdir())


# -- the bundled model -------------------------------------------------------------------------------


@pytest.fixture
def bundled() -> Path:
    from viscot_core.models.zoo import BUNDLED_FOLDER

    if not (BUNDLED_FOLDER / "model.safetensors").exists():
        pytest.skip("the bundled weights are not in this checkout yet")
    return BUNDLED_FOLDER


def test_without_model_one_line_says_what_it_knows(cli: Run, bundled: Path, golden: Path) -> None:
    ran = cli("infer", golden / "images" / "square.png", "What number is on the red card?")
    assert ran.code == 0 and ran.out.startswith("answer")
    assert "only knows viscot's synthetic images" in ran.err and "--model VisCoT-7b-336" in ran.err
    assert len(ran.err.splitlines()) == 1


def test_infer_with_out_box_and_folders(
    cli: Run, golden: Path, tiny: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("in/a.jpg", "in/deep/b.jpg"):
        (tmp_path / name).write_bytes((golden / "images" / "landscape.jpg").read_bytes())
    (tmp_path / "in" / "notes.txt").touch()
    out = tmp_path / "answers.jsonl"
    ran = cli("infer", tmp_path / "in", QUESTION, *tiny, "--out", out, "--box", "23,0,90,230")
    assert ran.code == 0 and "1 .txt" in ran.err and "1 folder (--recursive" in ran.err
    ran = cli("infer", tmp_path / "in", QUESTION, *tiny, "--out", out, "--box", "23,0,90,230", "--recursive")
    assert ran.code == 0 and "has 1 of 2 answers already" in ran.err and ran.out.count("answer  ") == 1
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(Path(row["image"]).name, row["given_box"]) for row in rows] == [
        ("a.jpg", [23, 0, 90, 230]),
        ("b.jpg", [23, 0, 90, 230]),
    ]
    assert "the model said" not in ran.out, "the box was given"
    with monkeypatch.context() as patch:  # nothing is left: no model is opened
        patch.setattr("viscot_cli.model_options.open_model", lambda *_, **__: pytest.fail("opened"))
        again = cli("infer", tmp_path / "in", QUESTION, *tiny, "--out", out, "--box", "23,0,90,230")
        for wrong in (
            ("--box-format", "nonsense"),
            ("--protocol", "nonsense"),
            ("--top-p", "2"),
            ("--extra-body", "{}x"),
        ):
            ran = cli("infer", tmp_path / "in", QUESTION, *tiny, "--out", out, "--box", "23,0,90,230", *wrong)
            assert ran.code == 2 and "nothing is left" not in ran.err, ran.err
    assert (again.code, again.out) == (0, "") and "has 1 of 1 answers already: nothing is left" in again.err
    rows_in = tmp_path / "q.jsonl"
    asked = [{"image": row["image"], "question": QUESTION} for row in rows]
    rows_in.write_text(
        "".join(json.dumps(row) + "\n" for row in [*asked, {**asked[0], "question": "<image>"}])
    )
    ran = cli("infer", rows_in, *tiny, "--out", out, "--box", "23,0,90,230")
    assert ran.code == 3 and "1 of 3 questions" in ran.err, "the other answers are in the file"
    for options, words in (
        (("--box", "0.1,0.2,0.5,0.7"), "in shares of the image"),
        (("--box", "1,2,3"), "--box is x0,y0"),
        (("--box", "1,2,3,4", "--direct"), "--direct"),
    ):
        ran = cli("infer", tmp_path / "in", QUESTION, *tiny, *options)
        assert ran.code == 2 and words in ran.err
