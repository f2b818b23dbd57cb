"""What the worker names of vLLM's sampling."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class RequestOutputKind(Enum):
    DELTA = 1


@dataclass
class SamplingParams:
    max_tokens: int
    temperature: float
    top_k: int
    ignore_eos: bool
    stop_token_ids: list[int]
    logit_bias: dict[int, float] | None
    detokenize: bool
    output_kind: RequestOutputKind
    top_p: float = 1.0
    seed: int | None = None
    logprobs: int | None = None
    more: dict[str, Any] = field(default_factory=dict)
