"""The web page: a stage for the image, a line for the question, cards for the answers.

Gradio transports the events; the visible page is in ``page.css``, ``stage.js`` and ``answers.js``. The file
of a visitor's image or PDF stays in the server's memory until the page is closed, an hour at most; nothing
is written to disk.
"""

from __future__ import annotations

import base64
import html
import io
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from PIL import Image

from viscot_core.boxes.geometry import Box
from viscot_core.demo.backend import Card, DemoBackend, Way, box_of
from viscot_core.demo.images import ImageStore, Kept
from viscot_core.demo.limit import SizeLimit
from viscot_core.errors import ViscotError
from viscot_core.images.reading import open_image
from viscot_core.serve.errors import ApiError
from viscot_core.serve.images import count_pages, decode, image_of
from viscot_core.tour import examples

os.environ.setdefault(
    "GRADIO_ANALYTICS_ENABLED", "False"
)  # before the import, so that Gradio sends nothing anywhere
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gradio as gr

HERE = Path(__file__).resolve().parent
MAX_BYTES = 20_000_000
MAX_PIXELS = 40_000_000
MAX_BODY = 2 * MAX_BYTES
"""Largest event: an image in base64, and what Gradio adds to it."""
Turns = tuple[dict[str, Any], ...]
KEPT_SECONDS = 3600
KEPT_BYTES = 256_000_000
"""Files of all visitors' images together; for new ones the ones used longest ago are dropped."""
MAX_QUESTION = 2000
DECODERS = 2
"""Uploads that are decoded at the same time."""
SHOWN = (b"\xff\xd8", b"\x89PNG", b"RIFF", b"GIF8", b"BM")
"""How files begin that every browser shows; others are sent back to it as JPEG."""
TURNS = 30
"""Questions that a page shows; older ones are removed."""
CHOICES = {"Look closer": ("cot",), "At once": ("direct",), "Both": ("cot", "direct")}


@dataclass(frozen=True, slots=True)
class Visit:
    """What the server keeps for one open page."""

    image: Kept | None = None
    page: int | None = None
    """From 1, of a PDF or a TIFF of several pages."""
    pages: int | None = None
    box: Box | None = None


class Page:
    """The handlers of what a visitor does; each returns new values for the parts of the page it changes."""

    def __init__(self, backend: DemoBackend) -> None:
        self._backend = backend
        self._examples = examples()
        self._decoders = threading.BoundedSemaphore(DECODERS)
        self.images = ImageStore(KEPT_BYTES)

    def thumbs(self) -> list[dict[str, str]]:
        """Small versions of the examples, for the strip under the stage."""
        out = []
        for example in self._examples:
            image = open_image(example.image)
            image.thumbnail((168, 128))
            out.append({"thumb": _data_url(image), "question": example.question})
        return out

    def upload(
        self, event: gr.EventData, request: gr.Request
    ) -> tuple[Visit, Turns, dict[str, Any], list[Any]]:
        """A file was chosen and sent as a data URL; the questions about the last one are removed.

        The stage counts what it sends for, and hears by the ``number`` which one the server has.
        """
        try:
            data = image_of(str(event.image))
            if len(data) > MAX_BYTES:
                raise ApiError(413, f"The file is larger than {MAX_BYTES // 10**6} MB.", "too_large")
            with self._decoders:
                pages = count_pages(data, max_pixels=MAX_PIXELS)
                page = None if pages is None else 1
                image = decode(data, max_pixels=MAX_PIXELS, as_seen=True, page=page)
                again = {} if data.startswith(SHOWN) else {"image": _data_url(image)}
        except ApiError as error:
            return Visit(), (), {"failed": True, "message": error.message, "number": _number(event)}, []
        visit = self._visit(data, image, request, page, pages)
        return visit, (), {**again, **_told(visit, image), "number": _number(event)}, []

    def _visit(
        self,
        data: bytes,
        image: Image.Image,
        request: gr.Request,
        page: int | None = None,
        pages: int | None = None,
    ) -> Visit:
        return Visit(self.images.put(str(request.session_hash), data, image.size), page, pages)

    def turn(self, visit: Visit, event: gr.EventData) -> tuple[Visit, dict[str, Any]]:
        """Another page of the file was chosen; the answers about the others stay."""
        visit, told = self._turned(visit, event.page)
        return visit, {**told, "number": _number(event)}

    def _turned(self, visit: Visit, page: object) -> tuple[Visit, dict[str, Any]]:
        data = None if visit.image is None else self.images.get(visit.image)
        if visit.image is None or data is None:
            return visit, {"message": GONE}
        if visit.pages is None or not isinstance(page, int) or not 1 <= page <= visit.pages:
            return visit, {"page": visit.page, "message": f"Choose a page from 1 to {visit.pages or 1}."}
        try:
            with self._decoders:
                image = decode(data, max_pixels=MAX_PIXELS, as_seen=True, page=page)
        except ApiError as error:
            return visit, {"page": visit.page, "message": error.message}
        visit = Visit(replace(visit.image, size=image.size), page, visit.pages)
        return visit, {"image": _data_url(image), **_told(visit, image)}

    async def renew(self, visit: Visit) -> Visit:
        """A question was asked: what the page has lives on, although nothing of it changes.

        In the event loop, where nothing comes between reading and writing: `turn` may end at the same time.
        """
        return visit

    def expire(self, visit: Visit) -> None:
        """A page was open and not used for too long."""
        if visit.image is not None:
            self.images.forget(visit.image)

    def leave(self, request: gr.Request) -> None:
        """The page was closed."""
        self.images.drop(str(request.session_hash))

    def example(
        self, event: gr.EventData, request: gr.Request
    ) -> tuple[Visit, Turns, dict[str, Any], list[Any], str]:
        """An example was chosen: its image and its question."""
        index, sent = event.example, {"number": _number(event)}
        if not isinstance(index, int) or not 0 <= index < len(self._examples):
            return Visit(), (), {"failed": True, "message": "There is no such example.", **sent}, [], ""
        chosen = self._examples[index]
        image = open_image(chosen.image)
        visit = self._visit(chosen.image.read_bytes(), image, request)
        told = {"image": _data_url(image), "message": "Press Ask.", **sent}
        return visit, (), told, [], chosen.question

    def select(self, visit: Visit, event: gr.EventData) -> Visit:
        """A box was drawn, or removed."""
        if visit.image is None or not isinstance(event.box, list):
            return replace(visit, box=None)
        return replace(visit, box=box_of(event.box, visit.image.size))

    def ask(
        self, visit: Visit, turns: Turns, question: str, choice: str, models: Sequence[str]
    ) -> Iterator[tuple[Any, ...]]:
        """Values of turns, stage, answers and the Ask button, while a question is answered."""
        data = None if visit.image is None else self.images.get(visit.image)
        if data is None or not models or len(question) > MAX_QUESTION:
            words = "First choose an image, or an example." if visit.image is None else GONE
            if data is not None:
                words = f"A question has at most {MAX_QUESTION} characters." if models else "Choose a model."
            yield gr.skip(), {"message": words}, gr.skip(), gr.skip()
            return
        open_it = partial(decode, data, max_pixels=MAX_PIXELS, as_seen=True, page=visit.page)
        box, ways = visit.box, CHOICES.get(choice, ("cot",))
        if box is not None:
            ways = tuple("box" if way == "cot" else way for way in ways)
        stage: dict[str, Any] = {"forget": True}
        try:
            for cards in self._backend.ask(open_it, question, _ways(ways), box, models):
                if (region := card_region(cards)) is not None:
                    stage = {"region": region, "about": visit.page}
                shown = (*turns, self._turn(turns, question, cards, visit, models))[-TURNS:]
                yield shown, stage, list(shown), gr.Button("Asking", interactive=False)
        except (ViscotError, ApiError) as error:
            yield turns, {"message": str(error)}, list(turns), ASK
            return
        yield gr.skip(), gr.skip(), gr.skip(), ASK

    def _turn(
        self, turns: Turns, question: str, cards: Sequence[Card], visit: Visit, models: Sequence[str]
    ) -> dict[str, Any]:
        """A question with its cards, as the page shows it."""
        asked = [model for label, model in self._backend.models.items() if label in models]
        return {
            "number": turns[-1]["number"] + 1 if turns else 0,
            "question": question.strip(),
            "cards": [card.plain() for card in cards],
            "hint": " ".join(dict.fromkeys(model.hint for model in asked if model.hint)),
            "page": visit.page,
            "pages": visit.pages,
        }


HEAD = """<div class="vs-head"><h1>viscot</h1><p>Ask about an image. The model names the region that
matters, looks at it closely, then answers. <b>{model}</b></p></div>"""
GONE = "The image was put away, since others came; choose it again."
ASK: Any = gr.Button("Ask", interactive=True, variant="primary")


def _ways(names: Sequence[str]) -> tuple[Way, ...]:
    return tuple(way for way in get_args(Way) if way in names)


def card_region(cards: Sequence[Card]) -> dict[str, Any] | None:
    """The region of the first card that has one, as the stage takes it."""
    return next((card.plain()["region"] for card in cards if card.region), None)


def _number(event: gr.EventData) -> object:
    """Which of the stage's sendings this is; None of what others send."""
    return getattr(event, "number", None)


def _told(visit: Visit, image: Image.Image) -> dict[str, Any]:
    """What the stage says of the image that it shows."""
    where = "" if visit.page is None else f"Page {visit.page} of {visit.pages}, "
    message = f"{where}{image.width} × {image.height} pixels. Ask something about it."
    return {"page": visit.page, "pages": visit.pages, "message": message}


def _data_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=92)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def build(backend: DemoBackend) -> gr.Blocks:
    """The page, not yet served."""
    page = Page(backend)
    names = list(backend.models)
    with gr.Blocks(title="viscot", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(HEAD.format(model=html.escape(names[0] if len(names) == 1 else "")))
        blocks.unload(page.leave)
        turns = gr.State((), time_to_live=KEPT_SECONDS)
        visit = gr.State(Visit(), time_to_live=KEPT_SECONDS, delete_callback=page.expire)
        with gr.Row(equal_height=False):
            with gr.Column(scale=6, min_width=320):
                stage = gr.HTML(
                    value={},
                    html_template='<div class="vs-stage"></div>',
                    js_on_load=(HERE / "stage.js").read_text(encoding="utf-8"),
                    examples=page.thumbs(),
                    max_bytes=MAX_BYTES,
                    elem_id="stage",
                )
            with gr.Column(scale=5, min_width=320):
                with gr.Row():
                    question = gr.Textbox(
                        placeholder="Your question",
                        lines=1,
                        max_lines=1,
                        show_label=False,
                        container=False,
                        max_length=MAX_QUESTION,
                        scale=4,
                        min_width=180,
                        elem_id="question",
                    )
                    button = gr.Button("Ask", variant="primary", scale=1, min_width=90, elem_id="ask")
                choice = gr.Radio(
                    list(CHOICES),
                    value=next(iter(CHOICES)),
                    show_label=False,
                    container=False,
                    elem_id="mode",
                )
                models = gr.CheckboxGroup(
                    names,
                    value=names[:1],
                    visible=len(names) > 1,
                    show_label=False,
                    container=False,
                    elem_id="models",
                )
                answers = gr.HTML(
                    value=[],
                    html_template='<div class="vs-answers" aria-live="polite"></div>',
                    js_on_load=(HERE / "answers.js").read_text(encoding="utf-8"),
                    elem_id="answers",
                )
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        stage.upload(page.upload, None, [visit, turns, stage, answers], **quiet)
        stage.input(page.turn, visit, [visit, stage], **quiet)
        stage.click(page.example, None, [visit, turns, stage, answers, question], **quiet)
        stage.select(page.select, visit, visit, **quiet)
        asking = {
            "fn": page.ask,
            "inputs": [visit, turns, question, choice, models],
            "outputs": [turns, stage, answers, button],
        }
        # One question per page at a time; the visitor queue limits how many pages ask at once.
        button.click(**asking, trigger_mode="once", concurrency_limit=None, **quiet)
        question.submit(**asking, trigger_mode="once", concurrency_limit=None, **quiet)
        for asks in (button.click, question.submit):
            asks(page.renew, visit, visit, queue=False, **quiet)
    return blocks


def launch(blocks: gr.Blocks, host: str, port: int, *, block: bool = True) -> None:
    """Serve the page, with ``block`` until Ctrl-C; raises OSError if the port is in use."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    _no_proxy_for(host)
    blocks.queue(default_concurrency_limit=None, max_size=256)
    blocks.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=not block,
        max_threads=96,
        ssr_mode=False,
        state_session_capacity=256,
        enable_monitoring=False,
        max_file_size=1,  # Gradio's own upload writes to disk; the page does not use it
        app_kwargs={"middleware": [(SizeLimit, [], {"max_bytes": MAX_BODY})]},
        footer_links=[],
        css_paths=[HERE / "page.css"],
        theme=gr.themes.Base(font=fonts, font_mono=["ui-monospace", "monospace"]),
        _frontend=False,  # no second question to the own page, which a busy machine answers too late
    )


def _no_proxy_for(host: str) -> None:
    """Gradio asks its own page before it serves it: a proxy cannot answer for this machine."""
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if given.strip() == "*":  # no proxy for anything; beside other names it would lose that meaning
        return
    names = dict.fromkeys([*given.split(","), "127.0.0.1", "localhost", host])
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(filter(None, names))
