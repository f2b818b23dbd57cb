"""The strategy ``zoom`` of all tasks that have answers: the model looks as often as it takes."""

from __future__ import annotations

from viscot_core.policies.base import Policy
from viscot_core.policies.zoom_settings import settings_of
from viscot_core.tasks.base import Settings, Strategy, max_new_tokens


def _zoom(settings: Settings) -> Policy:
    return settings_of(settings.get("zoom") or {}).policy(max_new_tokens(settings))


ZOOM = Strategy("zoom", "the model calls a zoom tool as often as it takes", _zoom, loops=True)
