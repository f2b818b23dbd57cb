"""Answers as detections of the library ``supervision``."""

from __future__ import annotations

import sys

import pytest

from viscot_core.boxes.geometry import Box, BoxStatus
from viscot_core.errors import UsageError
from viscot_core.policies.base import Answer, Look

SIZE = (200, 100)
FIRST = Look(Box(0.1, 0.3, 0.3, 0.5), "one", SIZE, BoxStatus.OK)
LOST = Look(Box(0, 0, 1, 1), "two", SIZE, BoxStatus.UNPARSABLE, turn=2)
LAST = Look(Box(0.5, 0.5, 1.0, 0.9), "three", SIZE, BoxStatus.REPAIRED, turn=3)
ANSWER = Answer("42", SIZE, (FIRST, LOST, LAST), probabilities=(0.5, 0.25, 0.75, 1.0))


def test_every_box_that_was_read_is_a_detection() -> None:
    pytest.importorskip("supervision", reason="needs viscot[supervision]")
    found = ANSWER.to_detections()
    assert found.xyxy.tolist() == [[20, 10, 60, 50], [100, 50, 200, 100]]
    assert found.confidence is not None and found.confidence.tolist() == [0.5, 0.75]
    assert list(found["class_name"]) == ["look 1", "look 3"]
    first = found[found.confidence > 0.6]
    assert len(first) == 1 and first.box_area.tolist() == [5000]


def test_an_engine_that_tells_no_probability_gives_no_confidence() -> None:
    pytest.importorskip("supervision", reason="needs viscot[supervision]")
    assert (
        Answer("42", SIZE, (FIRST, LAST), probabilities=(0.5, None, None)).to_detections().confidence is None
    )
    none = Answer("42", SIZE).to_detections()
    assert len(none) == 0 and none.xyxy.shape == (0, 4)


def test_they_are_drawn() -> None:
    supervision = pytest.importorskip("supervision", reason="needs viscot[supervision]")
    from PIL import Image

    drawn = supervision.BoxAnnotator(thickness=1).annotate(Image.new("RGB", SIZE), ANSWER.to_detections())
    colors = {drawn.getpixel(at) for at in ((20, 30), (150, 50))}
    assert len(colors) == 2 and (0, 0, 0) not in colors


def test_without_the_library_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UsageError, match=r"pip install 'viscot\[supervision\]'"):
        ANSWER.to_detections()
