"""The conditions of the benchmark: where the box comes from, and what the model sees when it answers."""

from __future__ import annotations

from viscot_core.policies.base import Policy
from viscot_core.policies.direct import Direct
from viscot_core.policies.two_turn import TwoTurn
from viscot_core.tasks.base import Settings, Strategy, max_new_tokens, wording_of
from viscot_core.tasks.shared_strategies import GIVEN, ZOOM, crop_policy, training_free


def _two_turn(settings: Settings) -> Policy:
    return TwoTurn(wording_of(settings), crop_policy(settings), box_tokens=max_new_tokens(settings))


def _no_image(settings: Settings) -> Policy:
    return TwoTurn(wording_of(settings), shows_crop=False, box_tokens=max_new_tokens(settings))


def _direct(settings: Settings) -> Policy:
    return Direct(wording_of(settings))


STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy("cot", "the model names the region, sees its crop, answers", _two_turn, asks_for_box=True),
        Strategy("direct", "question and image, answer at once", _direct),
        *GIVEN,
        Strategy(
            "no-image", "the model names the region, its crop is not shown", _no_image, asks_for_box=True
        ),
        ZOOM,
        *training_free(wording_of),
    )
}
"""Paper Table 6, and the loop."""
