"""Addresses of servers: what of them may be written down and shown, and how they are reached."""

from __future__ import annotations

import os
import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from viscot_core.errors import UsageError

if TYPE_CHECKING:
    import httpx

_USER = re.compile(r"(?<=://)[^\s/]*@")
_BRACKETS = re.compile(r"(^|,)\s*\[([0-9a-fA-F:.]+)\]\s*(?=,|$)")
_QUERY = re.compile(r"(\bhttps?://[^\s?#\"']*)\?[^\s#\"']*")


def without_password(text: str) -> str:
    """A URL, or words with URLs in them, without user, password and query: each may be or hold a key."""
    return _QUERY.sub(r"\1", _USER.sub("", text))


def no_address(url: str) -> UsageError:
    """The error of a URL that leads to no server."""
    return UsageError(
        f"{without_password(url)} is no address of a server; give one like http://127.0.0.1:8000/v1."
    )


def secrets_in(url: str) -> tuple[str, ...]:
    """The parts of ``url`` that may be secret: password, or the user that is one, and values of the query."""
    parts = urlsplit(url)
    values = [value for _, value in parse_qsl(parts.query)]
    return tuple(
        unquote(word) for word in (parts.password or parts.username, *values) if word and len(word) > 3
    )


def is_this_machine(url: str) -> bool:
    """Whether a URL leads to the machine that it is read on: ``localhost``, 127.x.x.x, ``[::1]``, 0.0.0.0."""
    try:
        host = (urlsplit(url).hostname or "").rstrip(".")
        if host == "localhost" or host.endswith(".localhost"):
            return True
        address = ip_address(host)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    # Servers print 0.0.0.0 when they listen on every address, and it is copied from there.
    return address.is_loopback or address.is_unspecified


def takes_proxy(url: str) -> bool:
    """Whether the environment has calls to ``url`` go through a proxy."""
    import httpx

    with http_client(url, verify=False) as client:  # asks nothing
        return client._transport_for_url(httpx.URL(url)) is not client._transport


def check_proxies() -> None:
    """Raise UsageError where the environment names a proxy that cannot be used."""
    http_client().close()


def http_client(url: str = "", **options: Any) -> httpx.Client:
    """A client for the server at ``url``, or for any: through the proxy that the environment names.

    A server on this machine is asked directly, as no proxy could reach it.

    Raises:
        UsageError: the environment names a proxy that cannot be used.
    """
    import httpx

    here = is_this_machine(url)
    if here and "verify" not in options:
        options["verify"] = httpx.create_ssl_context()  # SSL_CERT_FILE counts for this machine too
    try:
        _plain_no_proxy()
        return httpx.Client(trust_env=not here, **options)
    except ImportError as error:
        raise UsageError(
            "The environment names a SOCKS proxy (ALL_PROXY), which needs a package: "
            "pip install 'httpx[socks]'."
        ) from error
    except (httpx.InvalidURL, ValueError):
        # Not with httpx's words, nor from its error: where a password was not understood, they quote it.
        raise UsageError(_wrong_proxy()) from None


def _plain_no_proxy() -> None:
    """Write ``[::1]`` in no_proxy as ``::1``: httpx refuses the brackets, in the hub and Gradio too."""
    for name in ("no_proxy", "NO_PROXY"):
        given = os.environ.get(name, "")
        if (plain := _BRACKETS.sub(r"\1\2", given)) != given:
            os.environ[name] = plain


def _wrong_proxy() -> str:
    """Which variable of the environment has a value that cannot be used, and what to do."""
    from urllib.request import getproxies

    import httpx

    proxies = getproxies()
    for scheme in ("http", "https", "all"):
        given = proxies.get(scheme, "")
        try:
            if given:
                httpx.Proxy(given if "://" in given else f"http://{given}")
        except (httpx.InvalidURL, ValueError):
            return (
                f"The proxy that {scheme}_proxy names has no address that can be used; correct it, such as "
                "http://NAME:PASSWORD@HOST:PORT (in a password write / as %2F, # as %23, @ as %40)."
            )
    return "no_proxy has an entry that cannot be used; write hosts and commas, such as localhost,::1."
