"""The fields of a request that limit its reply, which differ from model to model."""

from __future__ import annotations

import re
from typing import Any

from viscot_core.conversation import THOUGHTS


def reasons(model: str) -> bool:
    """Whether ``model`` is one of OpenAI's reasoning models, by its name: ``o3``, ``openai/gpt-5-mini``.

    A deployment may have words before ``gpt-5``; before ``o3`` it may not, as models of others do.
    """
    return re.search(r"(?:^|/)o\d(?![a-z\d])|(?<![a-z\d])gpt-5(?!\d)", model.lower()) is not None


def reply_fields(model: str, tokens: int, temperature: float = 0, *, thinks: bool = False) -> dict[str, Any]:
    """The fields of a request that limit the reply to ``tokens``, and its thought where it ``thinks``.

    OpenAI's reasoning models refuse a temperature.
    """
    if reasons(model):
        return {"max_completion_tokens": THOUGHTS * tokens}
    return {"max_tokens": tokens * (THOUGHTS if thinks else 1), "temperature": temperature}


def sampling_fields(top_p: float, seed: int) -> dict[str, Any]:
    """The fields of a request whose reply is drawn; the seed also tells its kept reply from others."""
    return {"seed": seed} | ({"top_p": top_p} if top_p < 1 else {})


def probability_fields(model: str, first: int) -> dict[str, Any]:
    """The fields that ask for tokens' probabilities, with ``first`` likeliest ones for each place."""
    if reasons(model):
        return {}  # OpenAI's reasoning models refuse them
    return {"logprobs": True} | ({"top_logprobs": first} if first else {})


def longest_reply(body: dict[str, Any]) -> int:
    """The tokens ``reply_fields`` allowed."""
    return int(body.get("max_tokens") or body.get("max_completion_tokens") or 0)
