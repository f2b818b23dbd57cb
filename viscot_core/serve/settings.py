"""A server's limits (sizes, times, how many at once) and options, as ``viscot serve`` sets them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from viscot_core.ask import Strategy
from viscot_core.boxes.geometry import CropPolicy
from viscot_core.errors import UsageError
from viscot_core.openai_api.keys import key_in
from viscot_core.policies.zoom_settings import ZoomSettings

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits that keep one client from stopping the server or delaying all others."""

    body_bytes: int = 20 << 20
    """Largest request, images included."""
    body_seconds: float = 15.0
    """How long a client may take to send the body of its request."""
    head_seconds: float = 10.0
    """How long a client may take to send the request's head."""
    write_seconds: float = 30.0
    """How long a reply may wait for a client that does not read it."""
    pixels: int = 40_000_000
    """Largest image that is decoded."""
    images: int = 8
    """Largest number of images in one request."""
    elements: int = 50_000
    """Most brackets, braces and commas in a body, those of its texts included. They are counted before the
    body is parsed: a parser makes an object of each, and nobody else is answered meanwhile."""
    characters: int = 32_000
    """Longest text of one request: more cannot fit a model's context, and would be tokenized for nothing."""
    new_tokens: int = 512
    """Longest answer that may be asked for."""
    seconds: float = 120.0
    """How long a request may take from its first byte to its answer."""
    queue: int = 64
    """Requests in work or waiting; further ones get 429."""
    batch: int = 32
    """Prompts that run together."""
    gather_seconds: float = 0.02
    """How long a batch waits for the prompts of requests that are open."""

    def __post_init__(self) -> None:
        wrong = [name for name in self.__slots__ if getattr(self, name) <= 0]
        if wrong:
            raise UsageError(f"The limit '{wrong[0]}' must be more than 0, not {getattr(self, wrong[0])}.")

    @property
    def connections(self) -> int:
        """Open connections; beyond it the one that has waited longest for its client is closed."""
        return self.queue * 4 + 64

    @property
    def pixels_in_flight(self) -> int:
        """Pixels of all decoded images at one time, about 3 bytes each; further requests wait for room."""
        return 4 * self.pixels

    @property
    def bytes_in_flight(self) -> int:
        """Bytes of all requests at one time; further ones get 429."""
        return 16 * self.body_bytes


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Where a server listens, who may use it, and its limits."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    allow_urls: tuple[str, ...] = ()
    crop_policy: CropPolicy = CropPolicy.PAPER
    limits: Limits = field(default_factory=Limits)
    zoom: ZoomSettings | None = None
    """The zoom loop, where the server has one."""
    strategy: Strategy | None = None
    """What answers a request that names none; None: the zoom loop where there is one, else cot."""

    def __post_init__(self) -> None:
        checked_hosts(self.allow_urls)

    @property
    def usual(self) -> Strategy:
        """What answers a request that names no strategy."""
        return self.strategy or ("cot" if self.zoom is None else "zoom")

    @property
    def is_local(self) -> bool:
        """Whether only programs of this machine can connect."""
        return self.host in LOOPBACK


def checked_hosts(hosts: Sequence[str]) -> tuple[str, ...]:
    """Host names in lower case.

    Raises:
        UsageError: a URL or a pattern instead of a name.
    """
    for host in hosts:
        if "/" in host or "*" in host or not host.strip("."):
            raise UsageError(
                f"--allow-urls takes hosts like example.org or .example.org, with commas; not '{host}'."
            )
    return tuple(host.lower() for host in hosts)


def api_key_from(variable: str | None, environment: Mapping[str, str]) -> str | None:
    """The key in the environment variable called ``variable``; None if no variable is named.

    Raises:
        UsageError: the variable is unset or empty; a server that needs a key must not start without one.
    """
    if variable is None:
        return None
    key = key_in(variable, environment)
    if key is None:
        raise UsageError(f"The environment variable {variable} is empty; export {variable}=SECRET first.")
    return key
