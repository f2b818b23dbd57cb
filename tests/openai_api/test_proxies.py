"""Proxies of the environment: a server on this machine is asked directly, any other through them."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_server import JudgeServer, completion
from made_runs import sample_run
from PIL import Image

from viscot_core.addresses import http_client, is_this_machine, takes_proxy
from viscot_core.errors import UsageError
from viscot_core.models.pull import pull
from viscot_core.openai_api import waiting

Cli = Callable[..., Any]
DEAD = "http://127.0.0.1:9"
NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def none_of_the_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "FIRST_WAIT", 0.01)
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.new("RGB", (64, 48), "red").save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.mark.parametrize(
    "proxies",
    [
        {"http_proxy": DEAD},
        {"HTTP_PROXY": DEAD, "HTTPS_PROXY": DEAD},
        {"ALL_PROXY": DEAD, "no_proxy": "example.org"},
        {"all_proxy": "socks5://127.0.0.1:9"},
        {"http_proxy": "foo://127.0.0.1:9"},
    ],
)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_on_this_machine_is_asked_directly(
    cli: Cli, image: Path, monkeypatch: pytest.MonkeyPatch, proxies: dict[str, str], host: str
) -> None:
    """They were asked through the proxy, which has no such server, or ended with an unexpected error."""
    for name, value in proxies.items():
        monkeypatch.setenv(name, value)
    with JudgeServer(lambda *_: completion("red")) as server:
        url = server.url.replace("127.0.0.1", host)
        ran = cli("infer", image, "Which colour?", "--direct", "--model", f"{url}#made")
        assert ran.code == 0 and ran.out == "answer  red\n", ran.err


def test_so_is_a_judge(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", DEAD)
    run = sample_run(tmp_path / "run", items=4)
    with JudgeServer(lambda *_: completion("score: 1.0")) as server:
        ran = cli("score", run, "--judge", "openai:made", "--base-url", server.url)
        assert ran.code == 0, ran.err
        assert server.requests


def test_any_other_server_is_asked_through_the_proxy(
    cli: Cli, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("infer", image, "Which colour?", "--direct", "--model", "http://far.invalid:8000/v1#made")
    with JudgeServer(lambda *_: completion("red")) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        assert cli(*asked).out == "answer  red\n"
        assert any("http://far.invalid:8000/v1/chat/completions" in head for head in map(str, proxy.headers))
        proxy.requests.clear()
        monkeypatch.setenv("no_proxy", "far.invalid")
        ran = cli(*asked)
        assert ran.code == 1 and not proxy.requests and "through the proxy" not in ran.err
        monkeypatch.delenv("no_proxy")
    ran = cli(*asked)
    assert "no connection to http://far.invalid:8000/v1, through the proxy of the environment" in ran.err


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        (
            "socks5://127.0.0.1:9",
            "SOCKS proxy (ALL_PROXY), which needs a package: pip install 'httpx[socks]'",
        ),
        ("foo://me:secret@h:1", "has no address that can be used"),
        ("http://h:port", "has no address that can be used"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_one_sentence(
    cli: Cli, image: Path, monkeypatch: pytest.MonkeyPatch, proxy: str, words: str
) -> None:
    """Each was an unexpected error of the HTTP client, for the hub too."""
    monkeypatch.setenv("ALL_PROXY", proxy)
    ran = cli("infer", image, "?", "--direct", "--model", "http://far.invalid:8000/v1#made")
    assert (ran.code, len(ran.err.splitlines())) == (2, 1) and words in ran.err, ran.err
    assert "secret" not in ran.err
    with pytest.raises(UsageError, match="prox"):
        pull("made/up")
    ran = cli("data", "fetch", "--for", "bench:vstar", "--data", image.parent / "data", "--yes")
    assert ran.code == 2 and words in ran.err, ran.err
    ran = cli("demo", "--model", "viscot-tiny", "--device", "cpu")
    assert (ran.code, len(ran.err.splitlines())) == (2, 1) and words in ran.err, ran.err


def test_addresses_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", DEAD)
    here = ("localhost", "LocalHost.", "a.localhost", "127.8.0.1", "[::1]", "0.0.0.0", "[::ffff:127.0.0.1]")
    for host in here:
        assert is_this_machine(f"http://me:x@{host}:8000/v1"), host
        assert not takes_proxy(f"http://{host}:8000/v1")
    for url in ("http://10.0.0.1/v1", "https://127.0.0.1.example.org", "http://[::2]/", "", "http://["):
        assert not is_this_machine(url), url
    assert takes_proxy("https://example.org/v1")


@pytest.mark.parametrize(
    ("no_proxy", "url", "through"),
    [
        (".example.com", "http://example.com/v1", True),
        (".example.com", "http://a.example.com/v1", False),
        ("example.com", "http://example.com:8000/v1", False),
        ("2001:db8::1", "http://[2001:db8::1]:8000/v1", False),
        ("localhost,[2001:db8::1] , [::1]", "http://[2001:db8::1]:8000/v1", False),
        ("http://far.invalid:8000", "http://far.invalid:8000/v1", False),
    ],
)
def test_whether_a_proxy_is_asked_is_what_the_client_does(
    monkeypatch: pytest.MonkeyPatch, no_proxy: str, url: str, through: bool
) -> None:
    monkeypatch.setenv("http_proxy", DEAD)
    monkeypatch.setenv("no_proxy", no_proxy)
    assert takes_proxy(url) is through


def test_brackets_in_no_proxy_stop_nobody(cli: Cli, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everyone who has no proxy was told to correct http_proxy."""
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1,[::1]")
    ran = cli("infer", image, "?", "--direct", "--model", "http://far.invalid:8000/v1#made")
    assert ran.code == 1 and "no connection to http://far.invalid:8000/v1 (" in ran.err, ran.err
    assert os.environ["no_proxy"] == "localhost,127.0.0.1,::1"
    monkeypatch.setenv("no_proxy", "localhost,[::1]:x")
    ran = cli("infer", image, "?", "--direct", "--model", "http://far.invalid:8000/v1#made")
    assert ran.code == 2 and "no_proxy has an entry that cannot be used" in ran.err, ran.err


def test_no_part_of_a_password_is_shown(cli: Cli, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The HTTP client takes what stands before a / for a port, and says it."""
    monkeypatch.setenv("http_proxy", "http://me:hunter22/x@proxy:3128")
    ran = cli("infer", image, "?", "--direct", "--model", "http://far.invalid:8000/v1#made")
    assert ran.code == 2 and "hunter" not in ran.err
    assert "http_proxy" in ran.err and "%2F" in ran.err, ran.err


def test_own_certificates_count_on_this_machine_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without proxies the environment's certificates were left out as well."""
    (tmp_path / "none.pem").touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    for url in ("https://localhost:8000/v1", "https://far.invalid/v1"):
        with pytest.raises(ssl.SSLError):
            http_client(url)
