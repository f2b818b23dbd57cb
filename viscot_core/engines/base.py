"""Who generates text: the contract between the chain, the benchmark and whatever runs the model.

An engine takes rendered prompts with their images and gives text back; it knows nothing of boxes, questions
or strategies. One local implementation (``local.py``), one over HTTP (``api.py``), and fakes in the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from viscot_core.families.llava.template import Rendered, Template
    from viscot_core.images.view import View


@dataclass(frozen=True)
class Request:
    """One prompt to continue.

    ``views`` are the images of the prompt's ``<image>`` marks, in reading order; their number must agree.
    ``stop`` are texts that end the answer and are no part of it.

    ``on_text`` is told the text so far whenever a token made it longer: always the beginning of what will be
    said, unless the engine has to begin again. An engine that cannot tell leaves it out. ``cancelled`` is
    asked before each token; where it says True nobody waits, and the rest is not made. Both are called from
    the engine's thread and must return at once.
    """

    rendered: Rendered
    views: tuple[View, ...]
    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()
    on_text: Callable[[str], None] | None = field(default=None, compare=False)
    cancelled: Callable[[], bool] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Generation:
    """What came back: ``tokens`` new tokens, ``finished`` when the model ended its turn by itself.

    ``error`` is set when this request failed while others of the batch may have worked; ``text`` is then "".
    ``transient`` errors (a server that is busy, a budget that is spent) may be gone on another try.
    """

    text: str
    tokens: int
    finished: bool
    error: str | None = None
    transient: bool = False


@runtime_checkable
class Engine(Protocol):
    """Anything that continues prompts.

    ``identity`` names all that changes the text (weights hash, dtype, device, sampling): a benchmark refuses
    to continue a run whose engine's identity differs.
    """

    @property
    def name(self) -> str: ...

    @property
    def template(self) -> Template: ...

    @property
    def identity(self) -> dict[str, str]: ...

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """One generation per request, in the same order.

        Raises:
            EngineError: when nothing can be generated at all (server gone, out of memory, bad request).
        """
        ...
