"""The ``serve`` fixture: real servers on loopback, stopped when the test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from serve_help import Looker, Running, running


@pytest.fixture
def serve() -> Iterator[Callable[..., Running]]:
    """``serve(engine, queue=2, ...)`` starts a server that the test's end stops."""
    with ExitStack() as stack:
        yield lambda engine=None, **options: stack.enter_context(running(engine or Looker(), **options))
