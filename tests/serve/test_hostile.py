"""Requests that mean harm, or only mistakes: each is refused in a sentence and leaves nothing behind."""

from __future__ import annotations

import base64
import gc
import io
import json
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from PIL import Image
from serve_help import Looker, Running, as_data_url, data_url, question

from viscot_core.serve.errors import ApiError
from viscot_core.serve.images import count_pages

Serve = Callable[..., Running]
START = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
TEXT_ONLY = {"messages": [{"role": "user", "content": "Who?"}]}


def png_that_claims(width: int, height: int) -> bytes:
    """A few hundred bytes that would decode to ``width`` x ``height`` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" * 4096))
        + chunk(b"IEND", b"")
    )


def with_text_bomb() -> bytes:
    """A small PNG whose comment unpacks to 64 MB."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    data = b"Comment\0\0" + zlib.compress(b"\0" * (64 << 20), 9)
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    whole = file.getvalue()
    return whole[:33] + chunk + whole[33:]


def asked(url: Any) -> dict[str, Any]:
    """A question whose image is ``url``, whatever that is."""
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What?"}]
    return {"messages": [{"role": "user", "content": parts}]}


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n"

HOSTILE: dict[str, tuple[Any, int, str]] = {
    "bomb: 60,000 x 60,000": (
        asked(as_data_url(png_that_claims(60000, 60000))),
        413,
        "too_large",
    ),
    "bomb: just over the limit": (asked(as_data_url(png_that_claims(1001, 1000))), 413, "too_large"),
    "bomb: compressed comment": (asked(as_data_url(with_text_bomb())), 400, "bad_picture"),
    "image cut off": (asked(as_data_url(png_that_claims(900, 900))), 400, "bad_picture"),
    "no image: EPS, a program": (asked(as_data_url(EPS)), 400, "bad_picture"),
    "no image: HTML": (asked(as_data_url(b"<html>")), 400, "bad_picture"),
    "no image: nothing": (asked("data:image/png;base64,"), 400, "bad_picture"),
    "damaged base64": (asked("data:image/png;base64,@@@"), 400, "bad_url"),
    "data URL without base64": (asked("data:image/svg+xml,<svg/>"), 400, "bad_url"),
    "URL: a file": (asked("file:///etc/passwd"), 400, "url_not_allowed"),
    "URL: this machine": (asked("http://127.0.0.1:22/"), 400, "url_not_allowed"),
    "URL: cloud metadata": (asked("http://169.254.169.254/latest/meta-data/"), 400, "url_not_allowed"),
    "URL: a number": (asked(7), 400, "bad_request"),
    "body: not JSON": (b"{", 400, "bad_request"),
    "body: a list": ([], 400, "bad_request"),
    "body: empty": (b"", 400, "bad_request"),
    "body: not UTF-8": (b'{"messages": "\xff\xfe"}', 400, "bad_request"),
    "body: 100,000 brackets": (b"[" * 100_000, 400, "bad_request"),
    "body: 900,000 lists in an ignored field": (
        b'{"messages": [], "x": [' + b"[]," * 900_000 + b"[]]}",
        400,
        "bad_request",
    ),
    "body: 60,000 bad parts": (
        b'{"messages": [{"role": "user", "content": [' + b"{}," * 60_000 + b"{}]}]}",
        400,
        "bad_request",
    ),
    "body: a number of 900,000 digits": (b'{"messages": [], "x": %s}' % (b"7" * 900_000), 400, "bad_request"),
    "body: too large": (b" " * 3_000_001, 413, "too_large"),
    "messages: none": ({"messages": []}, 400, "bad_request"),
    "messages: 300": ({"messages": TEXT_ONLY["messages"] * 300}, 400, "bad_request"),
    "messages: unknown role": ({"messages": [{"role": "root", "content": "x"}]}, 400, "bad_request"),
    "messages: content is a number": ({"messages": [{"role": "user", "content": 7}]}, 400, "bad_request"),
    "messages: no image": (TEXT_ONLY, 400, "bad_request"),
    "messages: nine images": (
        {
            "viscot": {"strategy": "raw"},
            "messages": [{"role": "user", "content": asked(data_url())["messages"][0]["content"][:1] * 9}],
        },
        400,
        "bad_request",
    ),
    "messages: the model speaks last": (
        {"messages": [*question()["messages"], {"role": "assistant", "content": "no"}]},
        400,
        "bad_request",
    ),
    "question: empty": (question("  "), 400, "bad_request"),
    "question: an <image> mark": (question("Look <image> here"), 400, "bad_request"),
    "question: a megabyte": (question("why " * 250_000), 400, "bad_request"),
    "option: stream is a word": (question(stream="yes"), 400, "bad_request"),
    "option: max_tokens a million": (question(max_tokens=10**6), 400, "bad_request"),
    "option: max_tokens negative": (question(max_tokens=-1), 400, "bad_request"),
    "option: tools": (question(tools=[{"type": "function"}]), 400, "unsupported"),
    "option: n is 1,000": (question(n=1000), 400, "unsupported"),
    "option: five stop texts": (question(stop=list("abcde")), 400, "bad_request"),
    "option: an empty stop text": (question(stop=["a", ""]), 400, "bad_request"),
    "option: stop is a number": (question(stop=7), 400, "bad_request"),
    "option: box outside": (question(viscot={"box": [0, 0, 2, 1]}), 400, "bad_request"),
    "option: box is infinite": (question(viscot={"box": [0, 0, 1, "inf"]}), 400, "bad_request"),
    "option: unknown strategy": (question(viscot={"strategy": "rm -rf"}), 400, "bad_request"),
    "option: another model": ({**question(), "model": "../../etc"}, 404, "model_not_found"),
}


@pytest.fixture(scope="module")
def here() -> Iterator[Running]:
    from serve_help import running

    with running(
        Looker(), body_bytes=3_000_000, pixels=1_000_000, body_seconds=0.6, head_seconds=0.6
    ) as server:
        yield server


@pytest.mark.parametrize("name", HOSTILE)
def test_is_refused_in_one_sentence_and_the_next_question_is_answered(here: Running, name: str) -> None:
    body, status, code = HOSTILE[name]
    reply = here.post(body)
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert error["code"] == code, error
    assert set(error) == {"message", "type", "param", "code"} and error["message"].endswith(".")
    assert "/work" not in reply.text and "Traceback" not in reply.text and len(reply.text) < 600
    assert here.post(question()).status_code == 200
    here.settled()


def test_only_json_is_read(here: Running) -> None:
    """A page of another site can make a browser post text/plain; it cannot make it post JSON unasked."""
    reply = here.post(json.dumps(question()).encode(), headers={"content-type": "text/plain"})
    assert reply.status_code == 415
    assert (
        "access-control-allow-origin" not in here.post(question(), headers={"origin": "http://evil"}).headers
    )


def test_unknown_paths_and_methods_are_refused_in_the_same_shape(here: Running) -> None:
    assert here.get("/v1/chat/completions").json()["error"]["code"] == "not_found"
    assert here.get("/../../etc/passwd").status_code == 404
    assert here.get("/docs").status_code == 404


def test_a_wrong_key_is_refused_before_the_body_is_read(serve: Serve) -> None:
    here = serve(api_key="s3cret")
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic s3cret"},
        {"authorization": "s3cret"},
    ):
        reply = here.post(b"x", headers=headers)
        assert reply.status_code == 401 and reply.headers["www-authenticate"] == "Bearer"
        assert "s3cret" not in reply.text
    right = {"authorization": "Bearer s3cret"}
    assert here.post(question(), headers=right).status_code == 200
    assert (
        here.get("/v1/models").status_code == 401 and here.get("/v1/models", headers=right).status_code == 200
    )
    assert here.get("/metrics").status_code == 401
    assert here.get("/health").status_code == 200


def connect(here: Running) -> socket.socket:
    host, port = here.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def read_all(client: socket.socket) -> bytes:
    out = b""
    while block := client.recv(65536):
        out += block
    return out


def test_a_head_that_never_ends_is_closed(here: Running) -> None:
    start = time.monotonic()
    with connect(here) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        assert read_all(client) == b""
    with connect(here) as silent:
        assert read_all(silent) == b""
    assert time.monotonic() - start < 5


def test_a_body_that_never_ends_is_refused(here: Running) -> None:
    head = START + b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    with connect(here) as client:
        client.sendall(head + b"{")
        assert b"408" in client.recv(65536)
    here.settled()


def test_a_body_larger_than_it_says_is_refused(here: Running) -> None:
    def blocks() -> Iterator[bytes]:
        for _ in range(80):
            yield b" " * 50_000

    try:
        reply = httpx.post(
            f"{here.url}/v1/chat/completions",
            content=blocks(),
            headers={"content-type": "application/json"},
            trust_env=False,
        )
        assert reply.status_code == 413
    except httpx.NetworkError:
        pass  # the server closed while we were still sending; the reply may be lost with it
    here.settled()


def test_a_smuggled_second_length_is_refused(here: Running) -> None:
    with connect(here) as client:
        client.sendall(START + b"Content-Length: 4\r\nContent-Length: 40\r\n\r\nabcd")
        assert b"400" in client.recv(65536)


def test_clients_that_leave_give_their_place_back(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    here = serve(Looker(seconds=0.3), queue=4, batch=1)
    body = json.dumps(question()).encode()
    head = START + f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for _ in range(4):
        with connect(here) as client:
            client.sendall(head + body)
            time.sleep(0.05)
    here.settled()
    assert here.post(question()).status_code == 200
    assert 'status="499"' in here.get("/metrics").text
    gc.collect()
    assert "never retrieved" not in caplog.text, "a client that leaves is no error of the server"


def test_a_client_that_reads_nothing_holds_nothing_up(serve: Serve) -> None:
    here = serve(queue=1)
    body = json.dumps(question(stream=True)).encode()
    head = START + f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with connect(here) as client:
        client.sendall(head + body)
        while 'status="200"' not in here.get("/metrics").text:
            time.sleep(0.01)
        here.settled()
        assert here.post(question()).status_code == 200, "its place is free before it has read a word"
        waiting = b""
        while b"data: [DONE]" not in waiting:
            waiting += client.recv(65536)


def test_a_full_queue_says_when_to_come_back_and_loses_nobody_inside(serve: Serve) -> None:
    here = serve(Looker(seconds=0.4), queue=2)
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: here.post(question()), range(8)))
    statuses = sorted(reply.status_code for reply in replies)
    assert statuses.count(200) >= 2 and statuses.count(429) >= 1 and set(statuses) == {200, 429}
    busy = next(reply for reply in replies if reply.status_code == 429)
    assert 1 <= int(busy.headers["retry-after"]) <= 60 and busy.json()["error"]["type"] == "rate_limit_error"
    here.settled()


def test_an_answer_that_takes_too_long_is_given_up(serve: Serve) -> None:
    here = serve(Looker(seconds=0.5), seconds=0.2)
    reply = here.post(question())
    assert reply.status_code == 504 and reply.json()["error"]["code"] == "timeout"
    here.settled()


def test_an_engine_that_cannot_answer_is_told(serve: Serve) -> None:
    reply = serve(Looker(error="the prompt's 9000 tokens do not fit")).post(question())
    assert reply.status_code == 400 and "9000 tokens" in reply.json()["error"]["message"]


def test_shutting_down_finishes_what_is_in_flight(serve: Serve) -> None:
    here = serve(Looker(seconds=0.5))
    with ThreadPoolExecutor(3) as pool:
        asks = [pool.submit(here.post, question()) for _ in range(3)]
        while here.server.gate.inside < 3:
            time.sleep(0.01)
        here.uvicorn.should_exit = True
        assert [ask.result().status_code for ask in asks] == [200, 200, 200]
    with pytest.raises(httpx.ConnectError):
        here.get("/health")


def test_images_are_turned_upright_but_not_raw_ones(serve: Serve) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = data_url(Image.new("RGB", (400, 200)), "JPEG", exif=exif)
    here = serve()
    field = here.post(question(url=turned)).json()["viscot"]
    assert (field["width"], field["height"]) == (200, 400)
    raw = here.post(question(url=turned, viscot={"strategy": "raw"})).json()
    assert raw["choices"][0]["message"]["content"] == "seen 400 x 200"


def test_base64_with_line_breaks_is_refused_rather_than_guessed(here: Running) -> None:
    file = io.BytesIO()
    Image.new("RGB", (60, 60)).save(file, "PNG")
    wrapped = base64.encodebytes(file.getvalue()).decode()
    assert here.post(asked("data:image/png;base64," + wrapped)).status_code == 400


def test_the_pages_of_a_bomb_are_not_counted_and_the_limit_is_named() -> None:
    with pytest.raises(ApiError, match="more than 40,000,000 pixels") as found:
        count_pages(png_that_claims(60_000, 60_000), max_pixels=40_000_000)
    assert found.value.status == 413
