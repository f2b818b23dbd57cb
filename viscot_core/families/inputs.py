"""What a model is fed: rendered conversations, and inputs made of whole prompts or of parts of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from viscot_core.boxes.geometry import Size
from viscot_core.conversation import Message

if TYPE_CHECKING:
    import torch

    from viscot_core.images.view import View

IGNORE = -100
"""Label of a token that is not supervised."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as the model reads it: ``ids`` and ``labels`` of one length, image slots expanded.

    A label is the token's id where the model learns to say it, else ``IGNORE``. ``images`` are the places of
    each image's tokens (first, behind the last), where an image's number of tokens varies. ``seen`` are the
    sizes that the model sees the images in, where they keep their shape.
    """

    ids: list[int]
    labels: list[int]
    n_images: int
    images: tuple[tuple[int, int], ...] = ()
    seen: tuple[Size, ...] = ()

    @property
    def n_supervised(self) -> int:
        return len(self.labels) - self.labels.count(IGNORE)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered conversation with the images of its slots."""

    messages: tuple[Message, ...]
    rendered: Rendered
    images: tuple[View, ...]


class ModelInputs(Protocol):
    """Makes a model's inputs, and remembers what it computed of images for the next prompt about them."""

    def batch(self, prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
        """Left-padded keyword arguments of ``generate`` for these prompts, ``[rows, tokens, ...]``."""
        ...

    @property
    def encoded(self) -> int:
        """How many images were encoded so far, where each is encoded once."""
        ...

    def prefetch(self, views: Iterable[View]) -> None:
        """Begin with the pixels of the images that will be encoded next, in this order, where that helps."""
        ...

    def clear(self) -> None:
        """Forget what depends on the weights."""
        ...


@dataclass(frozen=True, slots=True)
class Suffix:
    """What prompts say after the images that are read already, ``n`` tokens a row, padded on one side.

    Attributes:
        arguments: keyword arguments of the prefix model for these tokens.
        real: which tokens are no padding, ``[rows, n]``.
        positions: ``[rows, n]``, or ``[3, rows, n]`` where the model counts on three axes.
    """

    arguments: dict[str, Any]
    real: torch.Tensor
    positions: torch.Tensor


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the host on ``device``; a GPU goes on with its work, and the host does not wait for it.

    (A copy from memory that is not pinned would wait for all that was asked of the GPU before.)
    """
    if device.type != "cuda" or not tensor.is_cpu:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def positions_after(starts: Sequence[int], real: torch.Tensor) -> torch.Tensor:
    """Positions ``[rows, n]`` of tokens that follow ``starts`` others each; ``real`` as in ``Suffix``."""
    # Padding takes no position. The clamp is for the padding itself.
    counted = (real.cumsum(1) - 1).clamp(min=0)
    return counted + counted.new_tensor(starts)[:, None]


class PrefixInputs(ModelInputs, Protocol):
    """Inputs that can be made of a part of a prompt: what shared-prefix decoding needs."""

    @property
    def embeds(self) -> bool:
        """Whether they are embeddings alone (``inputs_embeds``), as decoding in static buffers wants them."""
        ...

    def image_ends(self, prompt: Prompt) -> list[int]:
        """Tokens up to the end of each image's, in reading order."""
        ...

    def prefix(self, prompts: Sequence[Prompt], prefix_len: int) -> dict[str, Any]:
        """Keyword arguments of the prefix model for the first tokens of prompts about an image each."""
        ...

    def suffix(self, prompts: Sequence[Prompt], read: Sequence[int], *, left: bool = True) -> Suffix:
        """What stands after the first ``read`` images of each prompt, padded on the left or on the right."""
        ...

    def next(self, ids: torch.Tensor) -> dict[str, Any]:
        """Keyword arguments of the prefix model for one more token a row, ``ids [rows]``."""
        ...
