"""A real server on loopback over an engine made up for the tests."""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from PIL import Image

from viscot_core.boxes.registry import codec
from viscot_core.conversation import BOX_REQUEST, Message
from viscot_core.engines.base import Generation, Request, Traits
from viscot_core.families.table import text_template
from viscot_core.policies.wording import Wording

pytest.importorskip("fastapi", reason="needs viscot[serve]")
pytest.importorskip("uvicorn", reason="needs viscot[serve]")

BOX = "[0.500, 0.250, 0.750, 0.500]"
WORDING = Wording(codec("viscot"))


def asks_for_box(request: Request) -> bool:
    """Whether this is a first turn."""
    return any(BOX_REQUEST in message.text for message in request.messages)


@dataclass
class Looker:
    """Looks at one box and answers, word by word, with the size of what it was shown, after ``seconds``."""

    seconds: float = 0.0
    box: str = BOX
    name: str = "looker"
    error: str | None = None
    batches: list[int] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    identity: dict[str, str] = field(default_factory=lambda: {"engine": "looker"})

    traits = Traits(batch=8)

    def prompt(self, messages: Sequence[Message]) -> str:
        return text_template("vicuna_v1").prompt(messages)

    def reset(self) -> None:
        pass

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        self.batches.append(len(requests))
        self.prompts += [self.prompt(request.messages) for request in requests]
        time.sleep(self.seconds)
        return [self._stream(request, self._say(request)) for request in requests]

    def _stream(self, request: Request, generation: Generation) -> Generation:
        if request.on_text is not None:
            for word in re.finditer(r"\S+", generation.text):
                request.on_text(generation.text[: word.end()])
        return generation

    def _say(self, request: Request) -> Generation:
        if self.error is not None:
            return Generation("", 0, False, self.error)
        if asks_for_box(request):
            return Generation(self.box, 12, True, prompt_tokens=100)
        if not request.images:
            return Generation("nothing seen", 2, True, prompt_tokens=10)
        width, height = request.images[-1].image.size
        text = f"seen {width} x {height}"[: request.max_new_tokens * 4]
        return Generation(text, 4, request.max_new_tokens > 4, prompt_tokens=200)


class Gated(Looker):
    """Waits in its first batch until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go, self.inside = threading.Event(), threading.Event()

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        self.inside.set()
        assert self.go.wait(60)
        return super().generate(requests)


class Slow(Looker):
    """Says its box at once, and a word of its answer whenever ``step`` is released, while somebody waits."""

    def __init__(self) -> None:
        super().__init__()
        self.step = threading.Semaphore(0)
        self.left = threading.Event()
        self.texts: list[str] = []

    def _stream(self, request: Request, generation: Generation) -> Generation:
        if generation.text == self.box:
            return generation
        words = generation.text.split()
        until = time.monotonic() + 60  # a failed test releases no step
        for count in range(1, len(words) + 1):
            while not self.step.acquire(timeout=0.01):
                assert time.monotonic() < until, "no step was released for 60 s"
                if request.cancelled is not None and request.cancelled():
                    self.left.set()
                    return Generation(" ".join(words[: count - 1]), count - 1, False)
            self.texts.append(" ".join(words[:count]))
            if request.on_text is not None:
                request.on_text(self.texts[-1])
        return generation


@dataclass
class Running:
    """A server that listens, the engine behind it, and ways to ask it."""

    url: str
    engine: Any
    server: Any
    uvicorn: Any

    def post(self, body: Any, **more: Any) -> httpx.Response:
        """One chat completion without a client library; ``body`` as JSON, or as it is where it is bytes."""
        content = {"content": body} if isinstance(body, bytes) else {"json": body}
        headers = {"content-type": "application/json", **more.pop("headers", {})}
        return httpx.post(
            f"{self.url}/v1/chat/completions", **content, headers=headers, timeout=30, trust_env=False, **more
        )

    def get(self, path: str, **more: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=30, trust_env=False, **more)

    def leave(self, body: Any, when: Callable[[], bool]) -> None:
        """Ask, go without the answer as soon as ``when()``, and wait until the server has noticed."""
        content = json.dumps(body).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(content)}\r\n\r\n"
        host, port = self.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as client:
            client.sendall(head.encode() + content)
            wait_for(when)
        wait_for(lambda: 'status="499"' in self.get("/metrics").text)

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        lines = self.get("/metrics").text.splitlines()
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if line.partition("{")[0].partition(" ")[0] == name
        )

    def settled(self, seconds: float = 5.0) -> None:
        """Wait until nothing is in flight."""
        until = time.monotonic() + seconds
        while self.server.gate.inside or self.server.batcher.waiting:
            assert time.monotonic() < until, "requests are still in flight"
            time.sleep(0.01)


def wait_for(done: Callable[[], bool], seconds: float = 30.0) -> None:
    """Until something is so."""
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


@contextmanager
def running(
    engine: Any, *, fetcher: Any = None, wording: Wording = WORDING, **options: Any
) -> Iterator[Running]:
    """Serve ``engine`` in a thread on a free port; ``options`` are those of ``Limits``, ``ServeOptions``."""
    from viscot_core.serve.listen import listen, url_of, uvicorn_server
    from viscot_core.serve.server import Server
    from viscot_core.serve.settings import Limits, ServeOptions

    names = ("api_key", "allow_urls", "zoom", "strategy")
    own = {name: options.pop(name) for name in names if name in options}
    chosen = ServeOptions(limits=Limits(**options), **own)
    server = Server(engine, wording, chosen, fetcher)
    server_loop = uvicorn_server(server)
    with listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=server_loop.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        until = time.monotonic() + 20
        while not server_loop.started:
            assert time.monotonic() < until, "the server does not start"
            time.sleep(0.01)
        try:
            yield Running(url_of(listening), engine, server, server_loop)
        finally:
            server_loop.should_exit = True
            thread.join(20)
            assert not thread.is_alive(), "the server does not stop"


def data_url(image: Image.Image | None = None, kind: str = "PNG", **options: Any) -> str:
    """An image (by default 400 x 200) as a data URL."""
    image = image or Image.new("RGB", (400, 200), (20, 90, 160))
    file = io.BytesIO()
    image.save(file, kind, **options)
    return as_data_url(file.getvalue(), kind)


def as_data_url(data: bytes, kind: str = "PNG") -> str:
    """Bytes, called an image."""
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode()}"


def question(text: str = "What is it?", url: str | None = None, **more: Any) -> dict[str, Any]:
    """The body of a question about an image."""
    parts = [{"type": "image_url", "image_url": {"url": url or data_url()}}, {"type": "text", "text": text}]
    return {"model": "viscot", "messages": [{"role": "user", "content": parts}], **more}
