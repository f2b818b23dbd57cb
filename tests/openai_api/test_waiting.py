"""Waits between attempts, and Retry-After in every form a server writes it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from viscot_core.openai_api.waiting import FIRST_WAIT, LONGEST_WAIT, between, retry_after, spread


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7.0), (" 0.5 ", 0.5), ("0", 0.0), ("-3", 0.0), ("Sun, 01 Jan 2023 00:00:00 GMT", 0.0)],
)
def test_numbers_and_passed_dates(value: str, seconds: float) -> None:
    assert retry_after(value) == seconds


@pytest.mark.parametrize("value", [None, "", "soon", "nan", "inf", "1e999", "7 s", "99 Foo 2023"])
def test_what_cannot_be_read_asks_for_nothing(value: str | None) -> None:
    assert retry_after(value) is None


@pytest.mark.parametrize("zone", [UTC, None])
def test_a_date_to_come_is_waited_for(zone: object) -> None:
    when = datetime.now(UTC) + timedelta(seconds=90)
    text = format_datetime(when, usegmt=True) if zone else format_datetime(when.replace(tzinfo=None))
    wait = retry_after(text)
    assert wait is not None
    assert 0 < wait <= 90


@given(st.text(max_size=40))
def test_no_header_breaks_a_call(value: str) -> None:
    wait = retry_after(value)
    assert wait is None or wait >= 0


@given(st.integers(1, 40))
def test_the_bound_of_a_wait_doubles_up_to_the_longest(attempt: int) -> None:
    assert 0 <= between(attempt) <= min(LONGEST_WAIT, FIRST_WAIT * 2 ** (attempt - 1))


@given(st.floats(0, 120))
def test_nobody_comes_back_before_a_wait_is_over(wait: float) -> None:
    assert wait <= spread(wait) <= 1.1 * wait + 1e-9
