"""Kept replies: the same request has the same name in every version, and old entries are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from viscot_core.openai_api.replies import Reply, ReplyCache, request_key

URL = "http://127.0.0.1:1/v1"
KEY = "ab" + "0" * 62


def entry(folder: Path, content: object) -> ReplyCache:
    path = folder / KEY[:2] / f"{KEY}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return ReplyCache(folder)


def test_the_name_of_a_request_is_that_of_earlier_versions() -> None:
    """Computed with version 0.1.0 for an engine's request."""
    image = (
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAMAAAACCAIAAAASFvFNAAAAEklEQVR4AWPkEpFjAAMmCAUkAQRgAECYpNtKAA"
        "AAAElFTkSuQmCC"
    )
    parts = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": "What is it? "}]
    body: dict[str, Any] = {"model": "made-up", "messages": [{"role": "user", "content": parts}]}
    body |= {"max_tokens": 20, "temperature": 0}
    assert request_key(URL, body) == "c74e6f261a92decdb9ea71bed6e478360a0d93a6e77266be375b0c668e01483f"
    assert request_key(URL, dict(reversed(body.items()))) == request_key(URL, body)
    assert request_key(URL + "/x", body) != request_key(URL, body)


@pytest.mark.parametrize(
    ("old", "reply"),
    [
        ({"reply": "a word", "tokens": 6, "finished": True}, Reply("a word", "stop", 0, 6)),
        ({"reply": "a wo", "tokens": 2, "finished": False}, Reply("a wo", "length", 0, 2)),
        ({"reply": "score: 1", "model": "made-up-1"}, Reply("score: 1", "stop", model="made-up-1")),
    ],
)
def test_entries_of_version_0_1_are_read(old: dict[str, Any], reply: Reply, tmp_path: Path) -> None:
    assert entry(tmp_path, old).get(KEY) == reply


@pytest.mark.parametrize("finish", ["stop", "length", None])
def test_what_is_kept_comes_back_and_old_versions_find_their_fields(
    finish: str | None, tmp_path: Path
) -> None:
    reply = Reply("中 \ud83d", finish, 120, 6, "made-up-1")
    cache = ReplyCache(tmp_path)
    cache.put(KEY, reply)
    found = cache.get(KEY)
    assert found is not None
    assert (found.text, found.tokens_in, found.tokens_out, found.model) == ("中 \ud83d", 120, 6, "made-up-1")
    assert (found.finish == "stop") == (finish == "stop")
    kept = json.loads((tmp_path / "ab" / f"{KEY}.json").read_bytes())
    assert {"reply", "tokens", "finished", "model"} <= set(kept)
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    "junk", [b"", b"{", b"[]", b"null", b'{"reply": 3}', b'{"reply": "x", "tokens": "many"}', b"\xff"]
)
def test_a_damaged_entry_counts_as_none_and_is_written_again(junk: bytes, tmp_path: Path) -> None:
    cache = entry(tmp_path, junk)
    assert cache.get(KEY) is None and cache.damaged == 1
    cache.put(KEY, Reply("fine", "stop"))
    assert cache.get(KEY) == Reply("fine", "stop") and cache.damaged == 1


def test_what_is_not_there_is_not_damaged(tmp_path: Path) -> None:
    cache = ReplyCache(tmp_path / "none")
    assert cache.get(KEY) is None and cache.damaged == 0
