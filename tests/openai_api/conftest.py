"""What all tests of the client share."""

from __future__ import annotations

import pytest

from viscot_core.openai_api import waiting


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries wait milliseconds."""
    monkeypatch.setattr(waiting, "FIRST_WAIT", 0.005)
