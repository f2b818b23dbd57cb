"""The plain way: transformers' own loop, told at every step which tokens come next and who is over."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from viscot_core.engines.transformers.choosing import Choice, Draws, choose, tell, tell_first
from viscot_core.engines.transformers.decode_state import DecodeState


class PlainSteps:
    """The steps of one batch: ``choose`` is its logits processor, ``tell`` its stopping criterion."""

    def __init__(
        self, states: Sequence[DecodeState], suppressed: Sequence[int], device: torch.device
    ) -> None:
        self._states = states
        self._suppressed = torch.tensor(list(suppressed), dtype=torch.long, device=device)
        self._choice = Choice.of(states)
        self._draws = Draws.of(states, device) if self._choice.samples else None
        self._said = 0
        self._logprobs: torch.Tensor | None = None

    def choose(self, _: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores ``[rows, vocabulary]`` under which only the chosen id of each row can be said."""
        if self._said == 0:
            tell_first(self._states, scores)
        number = None if self._draws is None else self._draws.numbers[:, self._said, None]
        ids, self._logprobs = choose(scores, self._suppressed, self._choice, self._draws, number)
        self._said += 1
        return torch.full_like(scores, float("-inf")).scatter_(1, ids[:, None], 0.0)

    def tell(self, ids: torch.Tensor, _: object) -> torch.Tensor:
        """Which rows are over ``[rows]``: transformers pads them from then on, so each row ends alone."""
        tell(self._states, ids[:, -1:], None if self._logprobs is None else self._logprobs[:, None])
        return torch.tensor([not state.open for state in self._states], device=ids.device)
