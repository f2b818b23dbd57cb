"""Images from other hosts: only listed ones, only public addresses, no redirects, bounded."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import ClassVar

import pytest
from serve_help import Looker, Running, data_url, question
from web_server import listening

from viscot_core.errors import UsageError
from viscot_core.serve.errors import ApiError
from viscot_core.serve.guard.flight import ByteLimit, HeldBytes
from viscot_core.serve.images import image_of
from viscot_core.serve.remote import Fetcher, is_public

IMAGE = image_of(data_url())

PRIVATE = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::1", "::",
    "fe80::1%eth0", "fc00::1", "ff02::1", "fec0::1", "feff:ffff::1", "5f00::1", "4000::1", "::7f00:1",
    "64:ff9b:1::a00:1", "192.0.0.8", "192.88.99.1", "3fff::1", "198.18.0.1", "203.0.113.1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:7f00:1::", "2001:db8::1",
]  # fmt: skip
URLS = {
    "another host": "https://evil.example/a.png",
    "the host as a path": "https://evil.example/images.example/a.png",
    "the host as a user": "https://images.example@evil.example/a.png",
    "a user": "https://me:secret@images.example/a.png",
    "the host as a prefix": "https://images.example.evil.example/a.png",
    "another port": "http://images.example:6379/",
    "a backslash": "http://images.example\\@evil.example/",
    "another scheme": "gopher://images.example/",
    "no host": "http:///a.png",
    "a port out of range": "http://images.example:99999/",
    "a bare address": "http://2130706433/",
}


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_of_private_networks_are_seen(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::808:808"]
)
def test_public_addresses_are_seen(address: str) -> None:
    assert is_public(address)


def nothing_held() -> HeldBytes:
    return HeldBytes(ByteLimit(1_000_000_000))


def fetcher(*addresses: str, hosts: tuple[str, ...] = ("images.example",), **more: object) -> Fetcher:
    async def resolve(_: str, __: int) -> list[str]:
        return list(addresses)

    return Fetcher(hosts, max_bytes=10_000, resolve=resolve, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", URLS)
def test_urls_beside_the_list_are_refused_without_a_look_up(name: str) -> None:
    async def resolve(_: str, __: int) -> list[str]:
        raise AssertionError("a refused host was looked up")

    with pytest.raises(ApiError) as caught:
        asyncio.run(
            Fetcher(["images.example"], max_bytes=100, resolve=resolve).fetch(URLS[name], nothing_held())
        )
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "addresses", [["10.0.0.1"], ["93.184.215.14", "127.0.0.1"], ["::ffff:169.254.169.254"], []]
)
def test_a_listed_name_that_leads_inside_is_refused(addresses: list[str]) -> None:
    with pytest.raises(ApiError, match="not a public host"):
        asyncio.run(fetcher(*addresses).fetch("http://images.example/a.png", nothing_held()))


def test_a_leading_dot_lists_subdomains() -> None:
    with_dot = fetcher("10.0.0.1", hosts=(".images.example",))
    for host in ("images.example", "a.b.images.example"):
        with pytest.raises(ApiError, match="not a public host"):
            asyncio.run(with_dot.fetch(f"https://{host}/a.png", nothing_held()))
    with pytest.raises(ApiError, match="downloads no images from"):
        asyncio.run(with_dot.fetch("https://otherimages.example/a.png", nothing_held()))


@pytest.mark.parametrize("host", ["*", "http://a.example", "a.example/b", "."])
def test_a_list_that_says_something_else_is_refused_at_the_start(host: str) -> None:
    with pytest.raises(UsageError, match="--allow-urls"):
        Fetcher([host], max_bytes=100)


class Images(BaseHTTPRequestHandler):
    """A host with an image, a redirect into this machine, too much, and nothing."""

    hosts: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.hosts.append(self.headers["host"])
        if self.path.startswith("/redirect"):
            self.send_response(302)
            self.send_header("location", "http://127.0.0.1:1/secret")
            self.end_headers()
        elif self.path.startswith("/image"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(IMAGE)
        elif self.path.startswith("/large"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * 1_000_000)
        elif self.path.startswith("/slow"):
            threading.Event().wait(1.5)
        else:
            self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with listening(Images) as url:
        yield int(url.rpartition(":")[2])


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/redirect", 400, "url_redirects"),
        ("/large", 413, "too_large"),
        ("/slow", 504, "url_timeout"),
        ("/none", 400, "url_failed"),
    ],
)
def test_what_a_listed_host_may_not_send(port: int, path: str, status: int, code: str) -> None:
    seconds = 0.5 if path == "/slow" else 20.0
    here = fetcher("127.0.0.1", hosts=(f"images.example:{port}",), is_public=lambda _: True, seconds=seconds)
    with pytest.raises(ApiError) as caught:
        asyncio.run(here.fetch(f"http://images.example:{port}{path}", nothing_held()))
    assert (caught.value.status, caught.value.code) == (status, code)


def test_a_listed_image_is_fetched_from_the_address_that_was_checked(
    port: int, serve: Callable[..., Running]
) -> None:
    listed = fetcher("127.0.0.1", hosts=(f"images.example:{port}",), is_public=lambda _: True)
    reply = serve(Looker(), fetcher=listed).post(question(url=f"http://images.example:{port}/image?size=1"))
    assert reply.json()["viscot"]["width"] == 400
    assert Images.hosts[-1] == f"images.example:{port}"


def test_downloaded_bytes_count_among_those_of_all_requests(port: int, serve: Callable[..., Running]) -> None:
    listed = fetcher("127.0.0.1", hosts=(f"images.example:{port}",), is_public=lambda _: True)
    here = serve(Looker(), fetcher=listed, body_bytes=10_000)
    body = question(url=f"http://images.example:{port}/image")
    here.server.bytes.held = here.server.bytes.limit - len(json.dumps(body)) - len(IMAGE) // 2
    reply = here.post(body)
    assert reply.status_code == 429 and "too many bytes" in reply.json()["error"]["message"]
    here.server.bytes.held = 0
    assert here.post(body).status_code == 200
