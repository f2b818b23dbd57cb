"""A misbehaving web server, for one test each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from web_server import Web, serving


@pytest.fixture
def web() -> Iterator[Web]:
    """A loopback server that speaks Range and ETag and misbehaves on request."""
    with serving() as found:
        yield found
