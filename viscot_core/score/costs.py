"""What judge calls cost: a table of prices, and an estimate before anything is asked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from viscot_core.errors import UsageError
from viscot_core.openai_api.budget import MESSAGE_OVERHEAD, Price

CHARACTERS_PER_TOKEN = 4
"""For estimates; English runs at about 4."""
TYPICAL_REPLY = 8
"""Tokens of a reply such as ``score: 0.8``."""


@dataclass(frozen=True)
class Estimate:
    """What scoring would take, before anything is asked."""

    pairs: int
    cached: int
    tokens_in: int
    tokens_out: int
    cost: float | None
    """US dollars; None where the price table does not know the model."""

    @property
    def calls(self) -> int:
        return self.pairs - self.cached


def load_price(model: str, own: Path | None = None) -> Price | None:
    """The price of exactly this model: the user's table first, then the built-in one; None in neither.

    Raises:
        UsageError: the user's table is missing or malformed.
    """
    mine = {} if own is None else _read_table(own)
    return mine.get(model) or built_in_prices().get(model)


def built_in_prices() -> dict[str, Price]:
    """The table that comes with viscot."""
    return _parse(
        files("viscot_core.score").joinpath("prices.yaml").read_text(encoding="utf-8"), "prices.yaml"
    )


def _read_table(path: Path) -> dict[str, Price]:
    try:
        return _parse(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise UsageError(
            f"The price table {path} cannot be read: {error.strerror}; check --prices."
        ) from error


def _parse(text: str, name: str) -> dict[str, Price]:
    try:
        models: dict[str, Any] = yaml.safe_load(text)["models"]
        prices = {str(m): _price(entry) for m, entry in models.items()}
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{name} is no price table; write 'models: {{NAME: {{input: 0.15, output: 0.60}}}}' "
            "(dollars per million)."
        ) from error
    if not all(0 <= p.input < math.inf and 0 <= p.output < math.inf for p in prices.values()):
        raise UsageError(f"{name} holds a price below 0 or none; prices are dollars per million tokens.")
    return prices


def _price(entry: Any) -> Price:
    source, date = (str(entry.get(name, "")) for name in ("source", "date"))
    return Price(float(entry["input"]), float(entry["output"]), source, date)


def estimated_tokens(text: str) -> int:
    """About how many tokens a call with these words reads."""
    return -(-len(text) // CHARACTERS_PER_TOKEN) + MESSAGE_OVERHEAD
