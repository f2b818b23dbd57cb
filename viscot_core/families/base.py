"""What a model family says of itself: the only contract through which the rest of the house knows a backbone.

A ``Family`` stands for a kind of checkpoint (its files, its parts, how it is built), a ``Processor`` for
one opened checkpoint's way with conversations (ids, text, pixels). ``table.family_of`` finds the family of a
config. Adding one is a folder beside ``llava/`` and a line in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from viscot_core.boxes.geometry import Size
from viscot_core.conversation import Message
from viscot_core.errors import UsageError
from viscot_core.families.inputs import ModelInputs, Rendered
from viscot_core.families.token_grid import TokenGrid
from viscot_core.tensors import Stored

if TYPE_CHECKING:
    from PIL import Image

    from viscot_core.families.checkpoint import BuildOptions, Checkpoint, Layout
    from viscot_core.families.training import Training

Sibling = Callable[[str, Path], Path]
"""``(name, of)``: the folder of what the checkpoint in ``of`` names; CheckpointError where it is not here."""


Spans = tuple[tuple[str, bool], ...]
"""A conversation as text in pieces, each with whether the model learns to say it; an image is ``<image>``."""


class TextTemplate(Protocol):
    """A conversation as text, in words that need no checkpoint: what records show and `viscot data` draws."""

    @property
    def name(self) -> str: ...

    def prompt(self, messages: Sequence[Message]) -> str:
        """The text that a model is to continue, images as ``<image>``."""
        ...

    def spans(self, messages: Sequence[Message]) -> Spans:
        """The text as training reads it, split where supervision starts and ends."""
        ...


class Processor(Protocol):
    """One checkpoint's way with conversations: the same for training, for asking, and for reading replies."""

    @property
    def identity(self) -> dict[str, str]:
        """What changes the ids beyond the weights: it is part of an engine's identity."""
        ...

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a turn."""
        ...

    @property
    def suppress_tokens(self) -> list[int]:
        """Ids that are never to be said: image slots and the padding of the vocabulary."""
        ...

    @property
    def pad_id(self) -> int: ...

    @property
    def image_id(self) -> int:
        """The id whose places in a prompt an image's features take; -1 where that is not known."""
        ...

    @property
    def context(self) -> int:
        """Most tokens of a prompt and its continuation."""
        ...

    @property
    def typical_prompt(self) -> int:
        """Tokens of a long prompt with two images, to guess how many fit together."""
        ...

    @property
    def thinks(self) -> bool:
        """Whether the model was told to think before it answers."""
        ...

    def render(self, messages: Sequence[Message], sizes: Sequence[Size], *, generate: bool) -> Rendered:
        """Ids of a conversation about images of these sizes; ``generate``: it ends where the model speaks.

        Raises:
            ValueError: the images do not fit the slots, or one of them cannot be taken; says why.
        """
        ...

    def slot_ids(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation that the model is to continue, images not expanded: what vLLM is given."""
        ...

    def shown(self, image: Image.Image) -> Image.Image:
        """What transformers' own image processor must be given to make this one's pixels of ``image``."""
        ...

    def prompt(self, messages: Sequence[Message]) -> str:
        """The conversation as text that the model is to continue, images as ``<image>``."""
        ...

    def text(self, ids: Sequence[int]) -> str:
        """Words of generated ids, special tokens left out."""
        ...

    def settled_text(self, ids: Sequence[int]) -> str:
        """The beginning of ``text(ids)`` that stays, whatever tokens follow: no half of a letter."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a family's model: how their parameters' names begin in the model in memory."""

    vision_tower: tuple[str, ...] = ()
    projector: tuple[str, ...] = ()
    llm: tuple[str, ...] = ()

    def part_of(self, name: str) -> str | None:
        """The part a parameter belongs to, as recipes name it; None outside of all.

        Whatever wraps the model (heads, adapters) puts its own words before the parameter's name. A projector
        may lie within the tower (Qwen-VL's merger): the longest beginning counts.
        """
        marks = {"vision_tower": self.vision_tower, "projector": self.projector, "llm": self.llm}
        fitting = [(len(start), part) for part, starts in marks.items() for start in starts if start in name]
        return max(fitting)[1] if fitting else None

    def sizes(self, counts: Iterable[tuple[str, int]]) -> dict[str, int]:
        """Parameters of each part, by the words that people read; what is outside of all counts as text."""
        sizes = dict.fromkeys(_WORDS.values(), 0)
        for name, count in counts:
            sizes[_WORDS[self.part_of(name) or "llm"]] += count
        return sizes


_WORDS = {"vision_tower": "vision tower", "projector": "projector", "llm": "language model"}


NO_LIMITS = (
    "This model resizes every image to a size of its own; leave out --min-pixels and --max-pixels, which are "
    "for models that read images of any size (Qwen-VL)."
)


NO_THOUGHTS = "This model's chat template has no switch for thinking (enable_thinking); leave out --thinking."


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Between how many image tokens a processor resizes to; a token is a square of ``step`` pixels a side."""

    least: int
    most: int
    step: int

    def within(self, min_pixels: int | None, max_pixels: int | None) -> ImageLimits:
        """The same with a user's limits in pixels, rounded so that both are kept.

        Raises:
            UsageError: no image fits between them.
        """
        area = self.step**2
        least = self.least if min_pixels is None else max(1, -(-min_pixels // area))
        most = self.most if max_pixels is None else max_pixels // area
        if not least <= most:
            low, high = (
                name if given is not None else f"without {name}"
                for name, given in (("--min-pixels", min_pixels), ("--max-pixels", max_pixels))
            )
            raise UsageError(
                f"No image has at least {least * area} pixels ({low}) and at most {most * area} ({high}): "
                f"the least is above the most; both count squares of {self.step} x {self.step}, one at least."
            )
        return ImageLimits(least, most, self.step)


@dataclass(frozen=True, slots=True)
class Square:
    """What models of a family see of any image: a square of ``side`` pixels that ``of`` makes of it."""

    side: int
    of: Callable[[Image.Image], Image.Image]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a person wants to know of a checkpoint's shape; None where it varies with the image."""

    tower: str
    image_side: int | None
    image_tokens: int | None
    context: int
    embedding_rows: int


@dataclass(frozen=True, slots=True)
class Files:
    """What a checkpoint's folder (and the folders it names) holds, before it is understood."""

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Stored]
    """By stored name."""
    tokenizer: Path
    """The folder with the tokenizer's files."""
    notes: tuple[str, ...] = field(default=())


class Family(Protocol):
    """A kind of checkpoint. Nothing outside its folder names its tensors, tokens or model classes."""

    @property
    def name(self) -> str: ...

    @property
    def parts(self) -> Parts: ...

    @property
    def templates(self) -> tuple[str, ...]:
        """What a manifest may name as its ``template``."""
        ...

    @property
    def text_templates(self) -> Mapping[str, TextTemplate]:
        """Those of its templates that are known without a checkpoint."""
        ...

    @property
    def training(self) -> Training | None:
        """What training asks; None where viscot cannot train such a model yet."""
        ...

    @property
    def box_format(self) -> str | None:
        """How its models write boxes where nothing else says so; None where that is not certain."""
        ...

    def square(self, served: str) -> Square | None:
        """The square that a model which a server calls ``served`` reads; None where that is not certain."""
        ...

    def gather(self, path: Path, config: dict[str, Any], sibling: Sibling) -> Files:
        """Config and tensors of a checkpoint; parts that it leaves out are looked up by ``sibling``."""
        ...

    def what_part(self, path: Path, config: Mapping[str, Any]) -> str | None:
        """What a folder that holds a part of a model only is for, in a sentence; None for a whole model."""
        ...

    def absent_part(self, path: Path, config: Mapping[str, Any], sibling: Sibling) -> str | None:
        """The name of a part that the folder leaves out and that is not on this machine, or None."""
        ...

    def adapted_module(self, name: str) -> str:
        """The module name of what an adapter's tensor changes."""
        ...

    def stored_name(self, module: str, layout: Layout) -> str:
        """A tensor's name on disk."""
        ...

    def read(self, files: Files, sibling: Sibling) -> Checkpoint:
        """The checkpoint of these files, tensors by module name, with what is missing or does not fit.

        Raises:
            CheckpointError: a model of another kind, or a choice the family cannot express.
        """
        ...

    def facts(self, checkpoint: Checkpoint) -> Facts:
        """Sizes for a report."""
        ...

    def image_limits(self, path: Path) -> ImageLimits | None:
        """What the processor of a folder resizes images to, where their shape is kept; else None."""
        ...

    def processor(
        self,
        checkpoint: Checkpoint,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        *,
        thinking: bool = False,
    ) -> Processor:
        """Its way with conversations, and with images where their limits are given.

        ``thinking`` lets it think before it answers.

        Raises:
            CheckpointError: a damaged tokenizer.
            UsageError: limits where images get a size of the model's own; a model that cannot think.
        """
        ...

    def build(self, checkpoint: Checkpoint, options: BuildOptions) -> Any:
        """transformers' model, tensors read as they are placed."""
        ...

    def inputs(self, model: Any, processor: Processor) -> ModelInputs:
        """What makes inputs for a built model."""
        ...

    @property
    def attention_depth(self) -> float:
        """Which share of the text layers lies below the one that shows best where the model looks."""
        ...

    def token_grid(self, processor: Processor, size: Size) -> TokenGrid | None:
        """Where the tokens of an image of this size lie on it; None where that is not certain."""
        ...

    def prefix_model(self, model: Any) -> Any | None:
        """The text model, where prompts about one image may share what precedes their questions; else None.

        Its layers must take any attention registered with transformers, and the family's inputs be
        ``PrefixInputs``.
        """
        ...

    @property
    def prefix_proven(self) -> bool:
        """Whether sharing a prefix is exact by construction; else each loaded model is asked (self_check)."""
        ...

    def exported_rows(self, name: str, checkpoint: Checkpoint, layout: Layout) -> int | None:
        """How many rows of a tensor the layout keeps, where fewer than there are."""
        ...

    def write_files(
        self, checkpoint: Checkpoint, out: Path, layout: Layout, *, dtype: str, vision_tower: str | None
    ) -> None:
        """Everything beside the weights that other software reads, for weights of ``dtype`` (torch's name).

        Raises:
            CheckpointError: the family has no such layout.
        """
        ...
