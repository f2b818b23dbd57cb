"""Drawn images find the convention a model writes, and none where it writes none."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
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
