"""What visitors leave behind in the server's memory, over the page's own HTTP."""

from __future__ import annotations

import base64
import gc
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from demo_help import page_of
from PIL import Image
from serve_help import Looker, data_url, wait_for

pytest.importorskip("gradio", reason="needs viscot[demo]")
pytestmark = pytest.mark.slow


class Visitor:
    """Sends the page's events, without a browser."""

    def __init__(self, url: str, blocks: Any, session: str) -> None:
        self._url, self._session = f"{url}/gradio_api", session
        self._numbers = {entry.fn.__name__: number for number, entry in blocks.fns.items()}
        self._http = httpx.Client(timeout=60, trust_env=False)

    def send(self, name: str, data: list[Any], event: Any = None) -> httpx.Response:
        body = {"data": data, "fn_index": self._numbers[name], "session_hash": self._session}
        body = {**body, "event_data": event, "trigger_id": None}
        return self._http.post(f"{self._url}/queue/join", json=body)

    def do(self, name: str, data: list[Any], event: Any = None) -> Any:
        """The event's output, when it is done."""
        assert self.send(name, data, event).status_code == 200
        said = {"session_hash": self._session}
        with self._http.stream("GET", f"{self._url}/queue/data", params=said) as lines:
            last = next(line for line in lines.iter_lines() if '"process_completed"' in line)
        return json.loads(last.removeprefix("data:"))["output"]["data"]

    def leave(self) -> None:
        """Open the page's heartbeat, and close it."""
        with self._http.stream("GET", f"{self._url}/heartbeat/{self._session}") as beats:
            next(beats.iter_lines())


def decoded(size: tuple[int, int]) -> int:
    """How many images of this size are in memory as pixels."""
    gc.collect()
    return sum(isinstance(each, Image.Image) and each.size == size for each in gc.get_objects())


@pytest.fixture(scope="module")
def here() -> Iterator[tuple[str, Any, Any]]:
    with page_of(Looker()) as (url, blocks):
        page = next(entry.fn.__self__ for entry in blocks.fns.values() if hasattr(entry.fn, "__self__"))
        yield url, blocks, page


def test_images_of_many_pixels_are_kept_as_files(here: tuple[str, Any, Any]) -> None:
    """These few kB are 27 MB of pixels each, held only while a question is answered."""
    url, blocks, page = here
    large = data_url(Image.new("RGB", (3001, 3001)))
    visitors = [Visitor(url, blocks, f"many-{number}") for number in range(4)]
    for visitor in visitors:
        visitor.do("upload", [], {"image": large})
        *_, button = visitor.do("ask", [None, None, "What?", "Look closer", ["looker"]])
        assert button["value"] == "Ask"
    held = page.images.held
    wait_for(lambda: decoded((3001, 3001)) == 0, 10)
    assert 0 < held < 400_000
    for visitor in visitors:
        visitor.leave()
    wait_for(lambda: bool(page.images.held == 0), 20)


def test_a_tiff_is_shown_as_jpeg_and_lists_without_end_are_refused(here: tuple[str, Any, Any]) -> None:
    url, blocks, _ = here
    visitor = Visitor(url, blocks, "tiff")
    _, _, stage, _ = visitor.do("upload", [], {"image": data_url(Image.new("RGB", (60, 40)), "TIFF")})
    assert stage["image"].startswith("data:image/jpeg") and "60 × 40" in stage["message"]
    start = time.monotonic()
    assert visitor.send("upload", [], [[]] * 3_000_000).status_code == 400
    assert time.monotonic() - start < 10


def test_a_question_keeps_the_image_that_it_is_about(here: tuple[str, Any, Any]) -> None:
    """It was put away an hour after it was chosen, although the visitor still asked about it."""
    url, blocks, page = here
    visitor = Visitor(url, blocks, "stays")
    visitor.do("upload", [], {"image": data_url()})
    state = blocks.state_holder["stays"]
    entries = list(blocks.fns.values())
    asks, renews = ([each for each in entries if each.fn == fn] for fn in (page.ask, page.renew))
    assert [each.targets for each in asks] == [each.targets for each in renews] != []
    (visit,) = renews[0].outputs
    before = state._state_ttl[visit._id]
    kept = state[visit._id]
    visitor.do("renew", [None])
    after = state._state_ttl[visit._id]
    assert after[0] == before[0] == 3600 and after[1] > before[1]
    assert state[visit._id] == kept and page.images.get(kept.image) is not None


def test_a_question_of_a_megabyte_is_refused(here: tuple[str, Any, Any]) -> None:
    url, blocks, _ = here
    visitor = Visitor(url, blocks, "long")
    visitor.do("upload", [], {"image": data_url()})
    _, stage, *_ = visitor.do("ask", [None, None, "why " * 250_000, "Look closer", ["looker"]])
    assert "at most 2000 characters" in stage["message"]


def test_a_pdf_that_cannot_be_shown_is_refused_in_a_sentence(here: tuple[str, Any, Any]) -> None:
    pytest.importorskip("pypdfium2", reason="needs viscot[pdf]")
    url, blocks, page = here
    visitor = Visitor(url, blocks, "pdf")

    def upload(data: bytes) -> Any:
        sent = "data:application/pdf;base64," + base64.b64encode(data).decode()
        return visitor.do("upload", [], {"image": sent})

    held = page.images.held
    start = b"%%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj 2 0 obj<</Type/Pages/Count 1"
    start += b"/Kids[3 0 R]>>endobj 3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 %d %d]>>endobj"
    start += b" trailer<</Root 1 0 R>>"
    for data in (b"%PDF-1.7 nothing", b"%PDF-"):
        _, _, stage, _ = upload(data)
        assert stage["failed"] and stage["message"].endswith("print it to a new PDF.")
        assert page.images.held == held
    _, _, stage, _ = upload(start % (10**6, 10**6))
    assert "Page 1 of 1, 5000 × 5000 pixels" in stage["message"]
    for wanted in (0, 2, "1", None, 10**30):
        _, stage = visitor.do("turn", [None], {"page": wanted, "number": 7})
        assert stage == {"page": 1, "message": "Choose a page from 1 to 1.", "number": 7}
    *_, button = visitor.do("ask", [None, None, "What?", "Look closer", ["looker"]])
    assert button["value"] == "Ask"
