"""Requests for an engine behind a server."""

from __future__ import annotations

from collections.abc import Callable

from judge_server import JudgeServer
from PIL import Image

from viscot_core.conversation import direct_turns
from viscot_core.engines.base import Request
from viscot_core.engines.openai import OpenAIEngine
from viscot_core.images.view import View

Start = Callable[..., tuple[OpenAIEngine, JudgeServer]]
IMAGE = View(Image.effect_noise((90, 60), 40).convert("RGB"), "noise")


def request(question: str = "What?", *, limit: int = 20) -> Request:
    return Request(direct_turns(question), (IMAGE,), limit)
