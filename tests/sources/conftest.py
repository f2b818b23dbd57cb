"""A misbehaving web server and catalogues made for tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from web import Web, serving


@pytest.fixture
def web() -> Iterator[Web]:
    """A loopback server that speaks Range and ETag and misbehaves on request."""
    with serving() as found:
        yield found
