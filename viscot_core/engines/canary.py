"""Whether a server speaks to its model as the checkpoint says: a test prompt whose tokens are counted.

A server with another chat template, or one that takes the right one for another format, answers all the same,
and worse. How many tokens a prompt has is known where the server tells which folder it serves (vLLM's
``root``) and that folder is here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from viscot_core.addresses import http_client, without_password
from viscot_core.conversation import Message
from viscot_core.errors import CheckpointError, EngineError
from viscot_core.images.view import View
from viscot_core.openai_api.client import Client
from viscot_core.openai_api.faults import Fault
from viscot_core.openai_api.keys import openai_key
from viscot_core.openai_api.messages import Messages
from viscot_core.openai_api.options import ApiOptions

# Two images and a finished turn: what is lost after an image or an answer is lost twice here.
CANARY = (
    Message("user", "<image>\nWhat is this?"),
    Message("assistant", "A card."),
    Message("user", "<image>\nAnd this?"),
)
_SIZE = (224, 224)
"""A multiple of the squares of 28 and 32 pixels that models count in."""


def check_template(url: str, name: str, options: ApiOptions) -> None:
    """Ask the server for one token, where it tells a folder of this machine; elsewhere do nothing.

    Raises:
        EngineError: the test prompt has another number of tokens there than the checkpoint makes of it.
    """
    folder = _served_folder(url, name)
    expected = None if folder is None else _tokens(folder)
    if folder is None or expected is None:
        return
    views = [View(Image.new("RGB", _SIZE), "canary")] * 2
    body = {
        "model": name,
        "messages": Messages(None, 1).of(CANARY, views),
        "max_tokens": 1,
        "temperature": 0,
        # As `_tokens` renders it: left alone, a server may open a thought, which is more tokens or fewer.
        "chat_template_kwargs": {"enable_thinking": False},
    }
    alone = replace(options, attempts=1, max_requests=None, max_cost=None, cache=None)
    with Client(url, openai_key(url), alone) as client:
        try:
            counted = client.ask(body).tokens_in
        except (Fault, EngineError):
            return  # the first question says why
    if counted and counted != expected:
        raise EngineError(
            f"The server at {without_password(url)} makes {counted} tokens of a test prompt, and the "
            f"checkpoint {folder} makes {expected}: it uses another chat template; start it with "
            f"--chat-template {folder}/chat_template.jinja --chat-template-content-format openai."
        )


def _served_folder(url: str, name: str) -> Path | None:
    """The folder of the model ``name``, where the server tells it and it is on this machine."""
    key = openai_key(url)
    if key is not None:  # a hosted model: no folder of this machine
        return None
    try:
        with http_client(url, timeout=5.0) as http:
            told: Any = http.get(f"{url}/models").json()["data"]
        roots = [card.get("root") for card in told if card.get("id") == name]
    except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError):
        return None
    folder = Path(roots[0]) if roots and isinstance(roots[0], str) else None
    return folder if folder and folder.is_absolute() and (folder / "config.json").is_file() else None


def _tokens(folder: Path) -> int | None:
    """How many tokens the checkpoint makes of the test prompt; None where viscot cannot read it."""
    from viscot_core.models.checkpoint import open_checkpoint

    try:
        checkpoint = open_checkpoint(folder)
        processor = checkpoint.family.processor(checkpoint)
        return len(processor.render(CANARY, [_SIZE] * 2, generate=True).ids)
    except (CheckpointError, EngineError, ValueError):
        return None
