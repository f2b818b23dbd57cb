"""Strategies of all tasks that have answers: the zoom loop, and ways to see more that need no training."""

from __future__ import annotations

from functools import partial

from viscot_core.policies.base import Policy
from viscot_core.policies.more_images import More, MoreImages
from viscot_core.policies.tree import Tree
from viscot_core.policies.two_turn import TwoTurn
from viscot_core.policies.zoom_settings import settings_of
from viscot_core.tasks.base import Settings, Strategy, max_new_tokens, wording_of


def _zoom(settings: Settings) -> Policy:
    return settings_of(settings.get("zoom") or {}).policy(max_new_tokens(settings))


def _more(what: More, settings: Settings) -> Policy:
    return MoreImages(wording_of(settings), what)


def _tree(settings: Settings) -> Policy:
    return Tree(TwoTurn(wording_of(settings)))


ZOOM = Strategy("zoom", "the model calls a zoom tool as often as it takes", _zoom, loops=True)

TRAINING_FREE = (
    Strategy("tiles", "the image and its four tiles, answer at once", partial(_more, "tiles")),
    Strategy("duplicate", "the image twice: the control of more tokens", partial(_more, "duplicate")),
    Strategy("blank", "the image and a grey one: the other control", partial(_more, "blank")),
    Strategy("tree", "best-first search over parts of the image, then a look", _tree, searches=True),
)
"""Baselines to compare a trained look with."""
