"""What is shown of an answer: plain data. Drawings and detections are in the tests of ask and boxes."""

from __future__ import annotations

from viscot_core.policies.base import Answer


def test_plain_data_names_thoughts_and_limits_only_where_there_are_any() -> None:
    plain = Answer("a", (10, 10)).to_dict()
    assert "truncated" not in plain and "thoughts" not in plain
    cut = Answer("a", (10, 10), truncated=True, thoughts=("", "hm")).to_dict()
    assert cut == {**plain, "truncated": True, "thoughts": ["", "hm"]}
