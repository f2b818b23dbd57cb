"""Calls that may not end."""

from __future__ import annotations

import threading
import time

import pytest

from viscot_core.deadline import call_within


def test_a_result_and_an_error_pass() -> None:
    assert call_within(5, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        call_within(5, lambda: 1 // 0)


def test_a_loop_without_end_is_stopped() -> None:
    def forever() -> None:
        while True:
            pass

    before = threading.active_count()
    with pytest.raises(TimeoutError, match=r"stopped after 0\.05 s"):
        call_within(0.05, forever)
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before, "the loop does not go on in the background"
