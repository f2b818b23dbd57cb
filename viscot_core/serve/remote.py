"""Images from other hosts, for a server that may download: only from listed hosts, only public addresses.

A server that downloads any URL a client names gives that client a way into its own network. So the host
must be listed; its name is resolved here, and every address must be public; the connection goes to the
address that was checked (a second look-up could return another one); redirects are refused; time and size
are limited.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import SplitResult, urlsplit

import httpx

from viscot_core.serve.errors import ApiError, bad_request
from viscot_core.serve.guard.flight import HeldBytes
from viscot_core.serve.settings import checked_hosts

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""``(host, port) -> addresses``."""

PORTS = {"http": 80, "https": 443}
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_SPECIAL = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20")))
"""Networks of IANA's special-purpose registries that some Python versions call global."""


async def resolve(host: str, port: int) -> list[str]:
    """Every address of a name."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return sorted({str(entry[4][0]) for entry in found})


def is_public(address: str) -> bool:
    """Whether an address is public, and the one it contains as well (``::ffff:10.0.0.1``)."""
    # Without the zone of a link-local address (fe80::1%eth0).
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is not None and not is_public(str(inner)):
            return False
        if ip in ipaddress.ip_network("64:ff9b::/96"):  # IPv4 behind NAT64
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        # Python calls fec0::/10, once "site local", global: only what is assigned to the Internet is public.
        if ip not in _GLOBAL_UNICAST:
            return False
    if any(ip in network for network in _SPECIAL):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def no_urls() -> ApiError:
    """The refusal of a server that downloads nothing."""
    return bad_request(
        "This server takes images as data URLs only (data:image/png;base64,...).",
        "image_url",
        "url_not_allowed",
    )


class Fetcher:
    """Downloads images from ``hosts``: ``example.org``, ``example.org:8443``, ``.example.org``."""

    def __init__(
        self,
        hosts: Sequence[str],
        *,
        max_bytes: int,
        seconds: float = 10.0,
        resolve: Resolve = resolve,
        is_public: Callable[[str], bool] = is_public,
    ) -> None:
        self.hosts = checked_hosts(hosts)
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._resolve = resolve
        self._is_public = is_public

    async def fetch(self, url: str, held: HeldBytes) -> bytes:
        """The bytes behind ``url``, added to ``held`` as they come.

        Raises:
            ApiError: 400 not allowed or not found, 413 too large, 504 too slow, 429 too many bytes of others.
        """
        host, port, parts = self._allowed(url)
        try:
            async with asyncio.timeout(self._seconds):
                address = await self._public_address(host, port)
                return await self._get(parts, host, port, address, held)
        except TimeoutError as error:
            raise ApiError(
                504, f"{host} did not send the image in {self._seconds:g} s.", "url_timeout"
            ) from error
        except (httpx.HTTPError, OSError) as error:
            raise bad_request(
                f"The image could not be downloaded from {host}.", "image_url", "url_failed"
            ) from error

    def _allowed(self, url: str) -> tuple[str, int, SplitResult]:
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").rstrip("."), parts.port
        except ValueError as error:
            raise bad_request("The image's URL cannot be read.", "image_url", "bad_url") from error
        if parts.scheme not in PORTS or not host or parts.username is not None or "\\" in url:
            raise bad_request("An image's URL is http(s)://HOST/PATH or data:.", "image_url", "bad_url")
        named = f"{host}:{port}" if port not in (None, PORTS[parts.scheme]) else host
        under = [h for h in self.hosts if h.startswith(".") and (host == h[1:] or host.endswith(h))]
        if named not in self.hosts and not (under and named == host):
            raise bad_request(
                f"This server downloads no images from {named[:80]}.", "image_url", "url_not_allowed"
            )
        return host, port or PORTS[parts.scheme], parts

    async def _public_address(self, host: str, port: int) -> str:
        addresses = await self._resolve(host, port)
        if not addresses or not all(self._is_public(address) for address in addresses):
            raise bad_request(f"{host} is not a public host.", "image_url", "url_not_allowed")
        return addresses[0]

    async def _get(self, parts: SplitResult, host: str, port: int, address: str, held: HeldBytes) -> bytes:
        literal = f"[{address}]" if ":" in address else address
        target = f"{parts.scheme}://{literal}:{port}{parts.path or '/'}" + (
            f"?{parts.query}" if parts.query else ""
        )
        # The connection goes to the checked address; Host and SNI keep the name, for which the certificate
        # is checked. Uncompressed and raw, so that max_bytes limits the memory too.
        headers = {"host": parts.netloc, "accept": "image/*", "accept-encoding": "identity"}
        async with (
            # A proxy from the environment would look the name up again, unchecked: trust_env is off.
            httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=self._seconds) as client,
            client.stream("GET", target, headers=headers, extensions={"sni_hostname": host}) as reply,
        ):
            if reply.is_redirect:
                raise bad_request(
                    f"{host} redirects; give the image's final address.", "image_url", "url_redirects"
                )
            if reply.status_code != 200:
                raise bad_request(f"{host} answered {reply.status_code}.", "image_url", "url_failed")
            body = bytearray()
            async for block in reply.aiter_raw():
                held.add(len(block))
                body += block
                if len(body) > self._max_bytes:
                    raise ApiError(
                        413, f"The image of {host} is larger than {self._max_bytes:,} bytes.", "too_large"
                    )
            return bytes(body)
