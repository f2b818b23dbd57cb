"""Several boxes in one reply are several looks; viscot's own format names one, as in the paper."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from scripted_engine import ScriptedEngine

from viscot_core.ask import VisualCoT
from viscot_core.boxes.formats import Codec
from viscot_core.boxes.geometry import Box, BoxStatus, Frame, crop_window
from viscot_core.boxes.registry import CODECS, codec
from viscot_core.images.view import View
from viscot_core.infer.asking import InferResult
from viscot_core.infer.items import InferItem
from viscot_core.infer.saving import save_drawing
from viscot_core.policies.base import Question
from viscot_core.policies.two_turn import MOST_LOOKS, TwoTurn
from viscot_core.policies.wording import PROTOCOLS, Wording, protocol_of
from viscot_core.rollout import run

SIZE = (1000, 800)
BOXES = [Box(100.0 * n + 20, 40, 100.0 * n + 90, 120, Frame.ORIGINAL).to_square(SIZE) for n in range(6)]


def reply(family: Codec, count: int) -> str:
    return "\n".join(family.encode(box, SIZE, f"card {number}") for number, box in enumerate(BOXES[:count]))


@pytest.mark.parametrize(
    "name", ["qwen2.5-vl", "qwen3-vl", "internvl", "gemini", "glm-4v", "claude", "molmo"]
)
def test_every_box_that_can_be_read_is_found_in_order(name: str) -> None:
    family = codec(name)
    parsed = family.parse(reply(family, 3), SIZE)
    one_by_one = [family.parse(family.encode(box, SIZE), SIZE).box for box in BOXES[:3]]
    assert [parsed.box, *parsed.others] == one_by_one
    assert (parsed.status, parsed.count) == (BoxStatus.REPAIRED, 3)


def test_a_box_outside_of_the_image_is_counted_and_not_looked_at() -> None:
    rows = ("20, 50, 90, 150", "2000, 50, 2090, 150", "220, 50, 290, 150")
    said = "[" + ", ".join(f'{{"bbox_2d": [{row}]}}' for row in rows) + "]"
    parsed = codec("qwen3-vl").parse(said, SIZE)
    assert parsed.count == 3 and len(parsed.others) == 1
    # The first counts: where it cannot be read, none is taken instead of it.
    first = codec("qwen3-vl").parse('[{"bbox_2d": [2000, 0, 2090, 9]}, {"bbox_2d": [20, 50, 90, 150]}]', SIZE)
    assert first.status is BoxStatus.UNPARSABLE and not first.others


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("count", "shown"), [(1, 1), (3, 3), (6, MOST_LOOKS)])
def test_each_box_is_cropped(protocol: str, count: int, shown: int) -> None:
    family = codec("qwen3-vl")
    engine = ScriptedEngine(reply(family, count), "three cards")
    question = Question("How many cards?", (View(Image.new("RGB", SIZE), "image"),))
    (answer,) = run(TwoTurn(Wording(family, protocol_of(protocol))), engine, [question])
    second = engine.requests[1]
    windows = [crop_window(look.box, SIZE) for look in answer.looks]
    assert [look.crop for look in answer.looks] == windows and len(windows) == shown
    assert [view.key for view in second.images] == [
        "image",
        *(f"image###{list(window)}" for window in windows),
    ]
    assert second.messages[-1].text.count("<image>") == shown
    assert second.messages[1].text == reply(family, count)
    assert answer.look == answer.looks[0] and answer.crop == windows[0]
    assert {look.boxes for look in answer.looks} == {count}
    told = answer.to_dict()
    assert ("looks" in told) == (count > 1)
    if count > 1:
        assert [tuple(look["crop"]) for look in told["looks"]] == windows
        assert told["looks"][0]["box"] == told["box"]


def test_viscot_s_own_words_name_one_box() -> None:
    """Letter by letter as before: prompts, crop and status of a reply with two boxes."""
    said = "[0.100, 0.100, 0.200, 0.200] [0.500, 0.500, 0.600, 0.600]"
    engine = ScriptedEngine(said, "a word")
    question = Question("What?", (View(Image.new("RGB", SIZE), "image"),))
    (answer,) = run(TwoTurn(Wording(CODECS["viscot"])), engine, [question])
    assert len(answer.looks) == 1 and len(engine.requests[1].images) == 2
    assert "looks" not in answer.to_dict()


def test_the_drawing_numbers_them(tmp_path: Path) -> None:
    family = codec("qwen3-vl")
    drawn = []
    for count in (1, 2):
        cot = VisualCoT(ScriptedEngine(reply(family, count), "cards"), wording=Wording(family))
        answer = cot.ask(Image.new("RGB", SIZE, "gray"), "How many cards?")
        item = InferItem(tmp_path / "a.png", "How many cards?")
        save_drawing(InferResult(item, "cot", answer), tmp_path / f"{count}.png")
        drawn.append(Image.open(tmp_path / f"{count}.png"))
    assert drawn[1].height > 1.7 * drawn[0].height, "one below the other"


# -- the family's own request -------------------------------------------------------------------------

REGION = "the region of the image that helps to answer the question"


@pytest.mark.parametrize(
    ("name", "asked", "referred"),
    [
        (
            "qwen2.5-vl",
            f"Locate {REGION}, output its bbox coordinates using JSON format.",
            "Locate the Red card, output its bbox coordinates using JSON format.",
        ),
        (
            "qwen3-vl",
            f"Locate {REGION}. Report bbox coordinates in JSON format.",
            "Locate the Red card. Report bbox coordinates in JSON format.",
        ),
        (
            "internvl",
            "Please provide the bounding box coordinate of the region this sentence describes: "
            f"<ref>{REGION}</ref>",
            "Please provide the bounding box coordinate of the region this sentence describes: "
            "<ref>the Red card</ref>",
        ),
    ],
)
def test_families_are_asked_in_their_own_words(name: str, asked: str, referred: str) -> None:
    native, paper = Wording(codec(name), "native"), Wording(codec(name))
    assert native.detection("What is it?")[0].text == f"<image>\nWhat is it? {asked}"
    assert native.refcoco("the Red card")[0].text == f"<image>\n{referred}"
    assert paper.detection("What is it?")[0].text.endswith(codec(name).form)
    assert native.digest(str) != paper.digest(str)


@pytest.mark.parametrize("name", ["viscot", "gemini", "unit"])
def test_other_families_keep_the_papers_request(name: str) -> None:
    text = Wording(codec(name), "native").detection("What is it?")[0].text
    assert "bounding box coordinate of the region that can help you" in text
