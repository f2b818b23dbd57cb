"""Who continues a conversation: the contract between the rollout and whatever runs the model.

An engine takes conversations with their images and gives text back; it knows nothing of boxes, questions or
policies. One runs transformers' models on this machine (``transformers/``), one asks a server
(``openai.py``), and the tests have fakes.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from viscot_core.errors import UsageError

if TYPE_CHECKING:
    from viscot_core.boxes.attention_map import AttentionMap, AttentionOf
    from viscot_core.boxes.geometry import Size
    from viscot_core.conversation import Message
    from viscot_core.images.view import View


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen: greedy at temperature 0, else from the ``top_p`` nucleus with ``seed``."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf or not 0 < self.top_p <= 1:
            raise UsageError(
                f"--temperature is 0 or more and --top-p in (0, 1]; got {self.temperature} and {self.top_p}."
            )
        if not -(2**63) <= self.seed < 2**63:
            raise UsageError(f"--seed {self.seed} is beyond 64 bits; give a smaller one.")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def identity(self) -> str:
        """In one word, for an engine's identity."""
        return "greedy" if self.greedy else f"t={self.temperature},p={self.top_p},s={self.seed}"

    @classmethod
    def of_identity(cls, identity: str) -> Sampling:
        """The sampling whose ``identity`` this is. Raises ValueError for other words."""
        if identity == "greedy":
            return GREEDY
        found = re.fullmatch(r"t=(.+),p=(.+),s=(-?\d+)", identity)
        if found is None:
            raise ValueError(f"{identity!r} is the identity of no sampling")
        return cls(float(found[1]), float(found[2]), int(found[3]))

    def draw(self, number: int) -> Sampling:
        """For the ``number``-th of equal requests, counted from 0: with the seed that many further on.

        Seeds go round, those of 31 bits among themselves and others within 64.
        """
        if self.greedy or not number:
            return self
        if 0 <= self.seed < 2**31:  # the seeds that every server takes: some keep 32 bits, with a sign
            return replace(self, seed=(self.seed + number) % 2**31)
        return replace(self, seed=(self.seed + number + 2**63) % 2**64 - 2**63)


GREEDY = Sampling()


def thinking_identity(thinking: bool | None) -> dict[str, str]:
    """For an engine's identity: nothing where nobody said whether the model is to think."""
    return {} if thinking is None else {"thinking": "on" if thinking else "off"}


def draw_of(*key: str | int) -> int:
    """A ``Request.draw`` that only ``key`` decides, so that requests with other keys draw other numbers.

    It has 31 bits and is added to a run's seed, as ``Sampling.draw`` says.
    """
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return int.from_bytes(digest[:4]) >> 1


class DrawCount:
    """Numbers equal questions in the order in which they are asked, from 0; for any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._before: Counter[int] = Counter()

    def next(self, *same: Hashable) -> int:
        """How often this was called with the same arguments before."""
        # Only the hash is kept: a count lives as long as a whole run, and the words may be long.
        key = hash(same)
        with self._lock:
            self._before[key] += 1
            return self._before[key] - 1


def draws(requests: Sequence[Request], default: Sampling) -> list[Sampling]:
    """How each request's tokens are chosen; equal requests draw one after the other (``Request``)."""
    count = DrawCount()
    found = []
    for request in requests:
        sampling, number = request.sampling or default, request.draw
        if number is None:
            number = count.next(request.messages, tuple(view.key for view in request.images), sampling)
        found.append(sampling.draw(number))
    return found


@dataclass(frozen=True)
class Request:
    """One conversation to continue.

    ``images`` belong to the ``<image>`` slots of the messages, in reading order; their number must agree.
    ``stop`` are texts that end the answer and are no part of it.

    ``sampling`` is how tokens are chosen; without it, as the engine was opened, which is greedy if nothing
    was said. Equal requests of one ``generate`` are so many draws: the n-th one draws with ``seed + n``, and
    other requests with the same numbers. Who wants other ones, or asks in several calls, says ``draw``
    (``draw_of``), which stands for n.

    ``logprobs`` asks for each new token's probability, ``top_logprobs`` for so many of the likeliest first
    tokens (a policy reads there how likely "yes" is). Neither changes the text. What an engine cannot tell
    (``Traits.logprobs``) is left out.

    ``attention`` asks which parts of the image the prompt's last token attends to. Of such a request the
    first token is said alone, the likeliest one. It is for an engine with ``Traits.attention``.

    ``tools`` are those that a server offers to the model (JSON, as OpenAI's protocol has them); the calls
    come back behind the text (``conversation.with_calls``). An engine on this machine refuses them.

    ``on_text`` is told the text so far whenever a token made it longer: always the beginning of what will be
    said, unless the engine has to begin again. An engine that cannot tell leaves it out. ``cancelled`` is
    asked before each token; where it says True nobody waits, and the rest is not made. Both are called from
    the engine's thread and must return at once.

    ``follow_ups`` are the requests that will come after this one, as far as is known, and ``reserved`` says
    of how many earlier ones this is the announced follow-up: an engine with a budget keeps their room free,
    so that no question is begun that cannot be paid to its end.
    """

    messages: tuple[Message, ...]
    images: tuple[View, ...]
    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()
    sampling: Sampling | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    attention: AttentionOf | None = None
    tools: str = ""
    draw: int | None = None
    on_text: Callable[[str], None] | None = field(default=None, compare=False)
    cancelled: Callable[[], bool] | None = field(default=None, compare=False)
    follow_ups: int = field(default=0, compare=False)
    reserved: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Generation:
    """What came back: ``tokens`` new tokens after ``prompt_tokens``.

    ``finished`` says that the model ended its turn by itself, ``truncated`` that the token limit did.
    ``thought`` is what the model thought, where the engine gets it apart from the text (a text may hold more
    between marks: ``rollout`` takes it out).

    ``ids`` are the new tokens, the one that ended the turn included; an engine that has none (a server)
    leaves them out. ``logprobs`` has one number per new token (servers leave out the one of the end): the
    natural logarithm of its probability under the model's own distribution (no temperature, no nucleus, no
    forbidden ids); None where they were not asked for, or the engine has none. The first ``thought_tokens``
    of them are the thought and its marks. ``top_logprobs`` are the likeliest first tokens, each as text with
    its logarithm, the likeliest first.

    ``attention`` is where the prompt's last token looked, if that was asked for.

    ``seen`` is the size in which the model saw the first image, where the engine resizes it and keeps its
    shape.

    ``error`` is set when this request failed while others of the batch may have worked; ``text`` is then "".
    ``transient`` errors (a server that is busy, a budget that is spent) may be gone on another try.
    """

    text: str
    tokens: int
    finished: bool
    error: str | None = None
    transient: bool = False
    prompt_tokens: int = 0
    truncated: bool = False
    thought: str = ""
    ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    thought_tokens: int = 0
    top_logprobs: tuple[tuple[str, float], ...] = ()
    attention: AttentionMap | None = None
    seen: Size | None = None


@dataclass(frozen=True)
class Traits:
    """What a caller may know of an engine, so that nobody asks which one it is.

    Attributes:
        batch: how many requests it wants at once to work well.
        parallel: how many ``generate`` calls it takes at the same time.
        shares_images: requests about one image cost less together.
        deterministic: equal requests get equal texts, unless they ask for sampling themselves.
        logprobs: gives the probabilities of tokens where they are asked for.
        attention: tells which parts of an image a prompt's last token attends to.
        attention_layers: the text layers in which it can tell that, where they are known.
        samples: chooses tokens as a request's ``sampling`` says; else every request is greedy.
        paid: a reply costs money or long waiting: each is kept as it comes, also of a question that is not
            answered yet.
    """

    batch: int = 1
    parallel: int = 1
    shares_images: bool = False
    deterministic: bool = True
    logprobs: bool = False
    samples: bool = False
    attention: bool = False
    attention_layers: tuple[int, ...] = ()
    paid: bool = False


@runtime_checkable
class Served(Protocol):
    """An engine on another machine, which says with its replies what it is."""

    @property
    def versions(self) -> frozenset[str]:
        """What the server has said of itself so far (``system_fingerprint``)."""
        ...


@runtime_checkable
class Counting(Protocol):
    """An engine that counts what its answers cost to compute."""

    def least_seconds(self) -> float | None:
        """What the answers so far would have taken at the device's peak; None where that is not known."""
        ...


@runtime_checkable
class Engine(Protocol):
    """Anything that continues conversations.

    ``identity`` names all that changes the text (weights hash, dtype, device, sampling): a benchmark refuses
    to continue a run whose engine's identity differs.
    """

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> dict[str, str]: ...

    @property
    def traits(self) -> Traits: ...

    def prompt(self, messages: Sequence[Message]) -> str:
        """The conversation as the text that the model is to continue, for records and for people."""
        ...

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """One generation per request, in the same order.

        Raises:
            EngineError: when nothing can be generated at all (server gone, out of memory, bad request).
        """
        ...

    def reset(self) -> None:
        """Forget everything that depends on the weights, and that a server has refused.

        Call it after the weights changed in place, and before asking again after an ``EngineError``.
        """
        ...
