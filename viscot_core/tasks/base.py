"""What a task is: its questions, the strategies that make sense for them, and what is measured of an answer.

A task knows policies and images, and no engine, journal or run folder: ``runs`` asks its questions and keeps
the records. A new task is one module and one line in ``registry.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar, Protocol

from viscot_core.boxes.attention_map import AttentionOf
from viscot_core.boxes.formats import Codec
from viscot_core.boxes.geometry import Box, BoxStatus, Size, hull, iou
from viscot_core.boxes.registry import codec
from viscot_core.engines.base import Traits, draw_of
from viscot_core.errors import UsageError, check_choice
from viscot_core.images.view import View
from viscot_core.policies import wording
from viscot_core.policies.base import Answer, Look, Policy, Question
from viscot_core.policies.training_free.attention import NO_MAPS
from viscot_core.policies.wording import Wording

Settings = Mapping[str, Any]
"""Everything that can change an answer, as ``run.json`` keeps it; an older run may lack a name."""
Facts = dict[str, Any]
"""Fields of an answer's line in ``predictions.jsonl``."""
MAX_NEW_TOKENS = 128
DRAWS = "draws"
"""The setting of a run that samples: how its questions come to their random numbers."""
BY_ITEM = "item"
"""Each question has its own. In runs that do not say it, all questions of a repeat had the same."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question. ``box`` is the annotated region in pixels of the stored image of ``size``, if any.

    ``box_text`` quotes the benchmark file's own box words, where it has them: the reference shows those.
    """

    dataset: str
    question_id: int | str
    image: str
    path: Path
    size: Size
    question: str
    box: Box | None = None
    box_text: str | None = None
    reference: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the item's records that only some tasks have (options, category, evidence ...)."""

    @property
    def name(self) -> str:
        """``docvqa:17``: how a person names an item."""
        return f"{self.dataset}:{self.question_id}"

    def draw(self, settings: Settings) -> int:
        """Which numbers it draws with (``Question.draw``): its own, or in older runs those of its repeat."""
        repeat = int(self.facts.get("repeat", 1))
        if settings.get(DRAWS) == BY_ITEM:
            return draw_of(self.dataset, str(self.question_id), repeat)
        return repeat - 1

    @property
    def box_square(self) -> Box | None:
        """The annotated region in the padded square (0..1)."""
        return self.box.to_square(self.size) if self.box else None

    @property
    def region(self) -> Box | None:
        """The annotated region in the padded square; of several the box that encloses them."""
        regions = [Box(*coords) for coords in self.facts.get("evidence", ())]
        return self.box_square or (hull(regions) if regions else None)


@dataclass(frozen=True)
class Benchmark:
    """Items ready to run; ``missing`` counts those left out because their image is missing, by data set."""

    items: tuple[Item, ...]
    missing: dict[str, int]
    warnings: tuple[str, ...]
    hashes: dict[str, str]
    """Of each data set's annotation files: a run folder refuses to continue with other questions."""
    files: dict[str, str]
    """The stem of each data set's file."""

    def planned(self) -> dict[str, int]:
        """How many items each data set has, those with missing images included."""
        present = Counter(item.dataset for item in self.items)
        names = dict.fromkeys([*present, *self.missing])
        return {name: present[name] + self.missing.get(name, 0) for name in names}


Region = tuple[Box, str | None]
"""A box (SQUARE frame) that the model does not name itself, and its exact words where a file has them."""


@dataclass(frozen=True)
class Strategy:
    """A policy under the name that ``--strategy`` and the records have.

    ``region`` gives the box of an item where the policy is shown one; ``asks_for_box`` says that the model
    names the box. ``loops``: the policy looks as often as the model wants. It shows images in sizes of its
    own, and an engine must change none. ``searches``: it finds the box by calls that no record keeps.
    ``reads_attention``: the engine must tell what the model attends to.
    """

    name: str
    summary: str
    policy: Callable[[Settings], Policy]
    asks_for_box: bool = False
    region: Callable[[Item, Settings], Region] | None = None
    loops: bool = False
    searches: bool = False
    reads_attention: bool = False

    def question(self, item: Item, view: View, settings: Settings) -> Question:
        """The question of ``item`` as the policy takes it."""
        box, words = self.region(item, settings) if self.region else (None, None)
        return Question(
            item.question, (view,), box, words, max_new_tokens(settings), draw=item.draw(settings)
        )

    def said(self, box_text: str | None, answer: str | None) -> list[str]:
        """The model's own texts on record, in order, up to the first that is missing (for ``replay``)."""
        texts = (box_text, answer) if self.asks_for_box else (answer,)
        return [text for text in takewhile(lambda text: text is not None, texts) if text is not None]


class Task(Protocol):
    """One task as it was asked for: which questions, under which ``strategies``.

    ``kind`` names it in ``run.json`` and in ``TASKS``; ``data`` is the folder that image paths are relative
    to. What needs only the recorded settings works on the class: an old run is shown without its data.
    """

    kind: ClassVar[str]
    all_strategies: ClassVar[Mapping[str, Strategy]]

    @property
    def data(self) -> Path: ...

    @property
    def strategies(self) -> tuple[str, ...]: ...

    def load(self) -> Benchmark:
        """The questions, checked.

        Raises:
            UsageError: a data set or an option that does not exist.
            DataError: damaged rows, or images missing that may not be left out.
        """
        ...

    def settings(self, codec: Codec | None) -> dict[str, Any]:
        """Everything that changes an answer and is known before a model is loaded.

        ``codec`` is None where no strategy needs a box and nothing says how the model writes them.
        """
        ...

    @staticmethod
    def metrics(item: Item, answer: Answer, settings: Settings) -> Facts:
        """What the record says of an answer: its text, the box, the crop, the measures."""
        ...


class Measuring(Protocol):
    """What of a task its answers need, be it a class or an object."""

    @property
    def all_strategies(self) -> Mapping[str, Strategy]: ...

    def metrics(self, item: Item, answer: Answer, settings: Settings) -> Facts: ...


class Chosen(Measuring, Protocol):
    """A task as it was asked for, which may have strategies of its own: a ``Task``, or an audit of a run."""

    @property
    def kind(self) -> str: ...

    @property
    def data(self) -> Path: ...

    @property
    def strategies(self) -> tuple[str, ...]: ...

    def load(self) -> Benchmark: ...

    def settings(self, codec: Codec | None) -> dict[str, Any]: ...


def wording_of(settings: Settings) -> Wording:
    """How the model is spoken to in a run; the paper's protocol where the run does not name one."""
    protocol = next((p for p in wording.PROTOCOLS if p == settings.get("protocol")), wording.PROTOCOLS[0])
    # No format is on record where it was not known, and no strategy had a box: then none is written or read.
    return Wording(codec(str(settings.get("box_format") or "viscot")), protocol)


def needs_boxes(task: Chosen) -> bool:
    """Whether a strategy of the task as it was asked for has the model read or write a box."""
    chosen = [task.all_strategies[name] for name in task.strategies]
    return any(each.asks_for_box or each.searches or each.region is not None for each in chosen)


def check_attention(task: Chosen, traits: Traits, settings: Settings) -> None:
    """Raise UsageError where a strategy reads attention that an engine of these ``traits`` does not tell, or
    in a layer that it does not have."""
    chosen = [task.all_strategies[name] for name in task.strategies]
    if any(strategy.reads_attention for strategy in chosen) and not traits.attention:
        raise UsageError(NO_MAPS)
    if traits.attention_layers:
        AttentionOf(layer=settings.get("attention_layer")).check(traits.attention_layers)


def engine_codec(task: Chosen, codec: Codec | None) -> Codec | None:
    """The box format whose sizes an engine gives to images; None where the policies have their own.

    Raises:
        UsageError: the task's strategies need both.
    """
    chosen = [task.all_strategies[name] for name in task.strategies]
    own = [strategy.name for strategy in chosen if strategy.loops]
    if not own or codec is None or codec.resize is None:
        return codec
    if len(own) < len(chosen):
        raise UsageError(
            f"The strategy {own[0]} shows images in other sizes than --box-format {codec.name} does; "
            "run it into a folder of its own."
        )
    return None


def max_new_tokens(settings: Settings) -> int:
    """The limit of an answer, and of a box, in tokens."""
    return int(settings.get("max_new_tokens", MAX_NEW_TOKENS))


def check_strategies(names: Sequence[str], known: Mapping[str, Strategy]) -> tuple[str, ...]:
    """``names``, each once, in the order given. Raises UsageError for an unknown one, or for none."""
    if not names:
        raise UsageError(f"No strategy is given; --strategy is one or more of {', '.join(known)}.")
    return tuple(dict.fromkeys(check_choice("--strategy", name, known) for name in names))


def box_facts(item: Item, answer: Answer, settings: Settings) -> Facts:
    """The last region of an answer: its words, how they were read, the crop, IoU with the annotated box."""
    look = answer.look
    if look is None:
        return {}
    return {
        "box_text": look.text,
        "box_status": look.status.value if look.status else None,
        "box": look.box.coords,
        "crop": None if look.replaced else look.crop,
        "boxes": look.boxes if look.boxes > 1 else None,
        "looks": _several(answer),
        "iou": overlap(look, item, points=wording_of(settings).codec.points),
    }


def _several(answer: Answer) -> tuple[Facts, ...] | None:
    """Every box that one reply named, with its crop; None for one box, or a talk that is kept as a trace."""
    if answer.messages or len(answer.looks) < 2:
        return None
    return tuple({"box": look.box.coords, "crop": look.crop} for look in answer.looks)


def overlap(look: Look, item: Item, *, points: bool) -> float | None:
    """IoU with the annotated box, both in the padded square; None where there is nothing to compare.

    A box that cannot be read overlaps nothing (0). A family that names ``points`` has no IoU, whether its
    words can be read or not.
    """
    annotated = item.box_square
    # A box that the model did not name (given, random) has an IoU in every family.
    if annotated is None or (points and look.named_by == "model"):
        return None
    if look.status is BoxStatus.UNPARSABLE:
        return 0.0
    return iou(look.box, annotated)
