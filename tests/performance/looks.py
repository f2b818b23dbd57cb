"""What each look of the zoom loop costs, with the talk so far kept and read anew: CPU seconds, one thread.

    python tests/performance/looks.py [--looks 6] [--talks 1] [--new 18] [--model DIR] [--ways kept,anew]

A random model of 17 M parameters reads 336 px (576 tokens an image); it says ``--new`` tokens a turn, in
whose place the policy is given a call of the dialect ``viscot``, and after the last look an answer. Ways:

- ``kept``: as the engine works; a look computes its crop and the words since the last one;
- ``first image``: only what stands up to the end of the first image is kept;
- ``anew``: nothing is kept but features of images (transformers' own loop).

Texts of all ways are compared, token for token. The first number of a way is the turn before any look. One
JSON object is printed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from bench_data import make_model
from PIL import Image

from viscot_core.engines.base import Generation, Request
from viscot_core.engines.transformers.engine import LocalEngine
from viscot_core.images.view import View
from viscot_core.models.load import LoadedModel, load_model
from viscot_core.policies.base import Question
from viscot_core.policies.zoom_settings import ZoomSettings
from viscot_core.rollout import run

WAYS = ("kept", "first image", "anew")
CALL = "[0.100, 0.100, 0.900, 0.900]"


class Calling(LocalEngine):
    """Says a call after every turn but the last; keeps what the model said, and seconds, a turn."""

    def __init__(self, loaded: LoadedModel, looks: int, way: str) -> None:
        super().__init__(loaded, batch_size=0, reuse=way != "anew")
        self._looks, self._forgets = looks, way == "first image"
        self.seconds: list[float] = []
        self.said: list[list[tuple[int, ...] | None]] = []

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """What the model says, timed; its text is a call or the answer."""
        asked = [replace(each, follow_ups=0) for each in requests] if self._forgets else requests
        start = time.process_time()
        generations = super().generate(asked)
        self.seconds.append(time.process_time() - start)
        self.said.append([each.ids for each in generations])
        assert all(each.error is None for each in generations), generations
        text = CALL if len(self.said) <= self._looks else "three"
        return [replace(each, text=text) for each in generations]


def measure(
    loaded: LoadedModel, looks: int, talks: int, new: int, ways: Sequence[str] = WAYS
) -> dict[str, Any]:
    """CPU seconds a turn of each way, all talks together, and whether all said the same."""
    policy = replace(ZoomSettings(looks=looks).policy(), turn_tokens=new)
    questions = [
        Question(
            "What is written on the sign?", (View(_image(number), f"image {number}"),), max_new_tokens=new
        )
        for number in range(talks)
    ]
    engines = {}
    for way in ways:
        engines[way] = engine = Calling(loaded, looks, way)
        answers = run(policy, engine, questions)
        assert [len(answer.looks) for answer in answers] == [looks] * talks
    seconds = {way: [round(each, 3) for each in engine.seconds] for way, engine in engines.items()}
    whole = {way: sum(engine.seconds) for way, engine in engines.items()}
    return {
        "looks": looks,
        "talks": talks,
        "cpu_s_by_turn": seconds,
        "cpu_s": {way: round(each, 2) for way, each in whole.items()},
        "ratio": {way: round(each / whole[ways[0]], 2) for way, each in whole.items()},
        "same_tokens": all(engine.said == engines[ways[0]].said for engine in engines.values()),
    }


def _image(number: int) -> Image.Image:
    return Image.linear_gradient("L").resize((1600 + 16 * number, 1200)).convert("RGB")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--looks", type=int, default=6)
    parser.add_argument("--talks", type=int, default=1)
    parser.add_argument("--new", type=int, default=18)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--ways", default=",".join(WAYS), help="the first is what others are compared with")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or make_model(Path(folder) / "random-17m", positions=8192)
        print(
            json.dumps(
                measure(
                    load_model(model, device="cpu"), args.looks, args.talks, args.new, args.ways.split(",")
                )
            )
        )


if __name__ == "__main__":
    main()
