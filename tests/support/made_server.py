"""A benchmark against a loopback server: a small data root, and scripts that answer both turns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from judge_server import Action, JudgeServer, completion

from viscot_core.engines.open import EngineOptions
from viscot_core.openai_api.options import ApiOptions
from viscot_core.runs.evaluate import evaluate
from viscot_core.runs.records import RunInfo
from viscot_core.runs.tally import Tally
from viscot_core.tasks.visual_cot.task import VisualCot

BOX = "[0.250, 0.250, 0.500, 0.500]"


def is_answer(body: dict[str, Any]) -> bool:
    """Whether a request asks for the answer: it shows the crop as a second image."""
    return sum(str(message["content"]).count("image_url': {") for message in body["messages"]) == 2


def two_turns(box: str | Action = BOX, answer: str | Action = "a word") -> Callable[..., Action]:
    """A script that says ``box`` to the first turn and ``answer`` to the second."""
    said = [each if isinstance(each, Action) else completion(each) for each in (box, answer)]
    return lambda _, body: said[is_answer(body)]


def bench(
    server: JudgeServer | str,
    root: Path,
    out: Path,
    strategies: tuple[str, ...] = ("cot",),
    *,
    box_format: str = "viscot",
    **api: Any,
) -> tuple[RunInfo, Tally]:
    """``viscot bench cot`` against the server, as one call."""
    url = server if isinstance(server, str) else server.url
    options = ApiOptions(**{"attempts": 2, "concurrency": 4, "timeout": 20.0, **api})
    engine = EngineOptions(f"{url}#made-up", box_format=box_format, api=options)
    return evaluate(VisualCot(root, strategies), engine, out)
