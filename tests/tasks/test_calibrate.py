"""Drawn images find the convention a model writes, and none where it writes none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from judge_server import JudgeServer, completion
from made_bench import FakeEngine
from made_seer import Seer

from viscot_core.boxes.registry import CODECS, codec
from viscot_core.engines.base import Generation, Request
from viscot_core.errors import EngineError
from viscot_core.tasks.calibrate import calibrate


@pytest.mark.parametrize(
    "name", ["viscot", "qwen2.5-vl", "qwen3-vl", "gemini", "internvl", "kosmos-2", "claude"]
)
def test_the_convention_is_found(name: str) -> None:
    fits = calibrate(Seer(codec(name)), list(CODECS.values()))
    assert fits[0].fits and fits[0].mean_iou > 0.75
    best = {fit.codec.name for fit in fits if fit.mean_iou > fits[0].mean_iou - 0.01}
    assert name in best
    assert "gemini" not in best or name == "gemini"
    assert "molmo" not in {fit.codec.name for fit in fits}


def test_what_a_server_could_not_answer_counts_for_nothing() -> None:
    class Busy(Seer):
        def generate(self, requests: Sequence[Request]) -> list[Generation]:
            busy = Generation("", 0, False, "HTTP 429", transient=True)
            return [said if n % 2 else busy for n, said in enumerate(super().generate(requests))]

    (fit,) = calibrate(Busy(codec("internvl")), [codec("internvl")])
    assert fit.fits and (fit.read, fit.replies) == (4, 4)
    silent = FakeEngine(lambda _: Generation("", 0, False, "HTTP 429", transient=True))
    with pytest.raises(EngineError, match=r"none of 8 questions \(HTTP 429\)"):
        calibrate(silent, [codec("internvl")])


def test_a_model_without_boxes_fits_nothing() -> None:
    fits = calibrate(FakeEngine(lambda _: "I see a rectangle."), list(CODECS.values()))
    assert not any(fit.fits or fit.read for fit in fits)


@pytest.mark.parametrize(
    ("name", "words", "own"),
    [
        ("made-up", "the model may use none of them, or not know such images", False),
        ("Qwen2.5-VL-7B-Instruct", "its own format qwen2.5-vl", True),
    ],
)
def test_that_no_format_fits_is_said(cli: Callable[..., Any], name: str, words: str, own: bool) -> None:
    """The bundled model writes its own format and finds no such rectangles: 0.295 looked wrong."""
    with JudgeServer(lambda *_: completion("[0.1, 0.1, 0.2, 0.2]")) as server:
        model = f"{server.url}#{name}"
        ran = cli("bench", "calibrate", "--model", model, "--formats", "viscot,unit", "--count", "4")
    assert ran.code == 3 and "prove nothing" in ran.err and words in ran.err, ran.err
    assert ("no --box-format is needed" in ran.err) is own
