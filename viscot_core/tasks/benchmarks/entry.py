"""What a benchmark is, and what its file says of one question before the options are put into an order."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from viscot_core.boxes.geometry import Box
from viscot_core.policies.wording import LETTER, SHORT
from viscot_core.tasks.answers.public_rules import Rule
from viscot_core.tasks.answers.reading import LETTERS

Form = Literal["choice", "words"]
Order = Literal["shuffled", "file"]
ORDERS: tuple[Order, ...] = ("shuffled", "file")
"""``shuffled`` by seed and question; ``file``: as the benchmark's own file has them."""


@dataclass(frozen=True, slots=True)
class BenchmarkRow:
    """One question. ``options`` are in the file's order and ``right`` is the place of the right one.

    ``boxes`` are the regions that hold the evidence, in pixels of the stored image. ``cycle`` names the
    rotation of the options, where the file asks each question in all of them.
    """

    id: str
    image: Path
    question: str
    answer: str
    options: tuple[str, ...] = ()
    right: int = 0
    category: str | None = None
    boxes: tuple[Box, ...] = ()
    cycle: str | None = None
    options_in_image: bool = False
    """The image shows the options with their letters: in another order the text would contradict it."""


@dataclass(frozen=True)
class SearchBenchmark:
    """A benchmark: where its file lies under a data root, how it is read, asked and scored.

    ``reordered`` False: the file asks each question in every rotation of its options, and they stay. The last
    ``fixed`` options keep their place when the others are shuffled ("E: the image does not feature it").
    ``rules`` are how public harnesses read a letter of this benchmark, by the harness's name.
    Its license stands in the catalogue of sources, under its name.
    """

    name: str
    title: str
    folder: str
    read: Callable[[Path], Iterator[BenchmarkRow]]
    files: Callable[[Path], Sequence[Path]]
    """The files that the questions stand in, without the images: their hash names the questions."""
    items: int
    """How many questions the published benchmark has."""
    form: Form
    source: str
    reordered: bool = True
    fixed: int = 0
    rules: tuple[tuple[str, Rule], ...] = ()

    def suffix(self, entry: BenchmarkRow) -> str:
        """LLaVA's words that ask for the form of this question's answer."""
        return LETTER if self.form == "choice" or entry.options else SHORT

    def order(self, entry: BenchmarkRow, order: Order, seed: int, repeat: int = 1) -> tuple[int, ...]:
        """The places of the options in the order in which they are asked.

        It depends on the seed, the question and the repeat only, never on what else is asked.
        """
        count = len(entry.options)
        places = list(range(count))
        if order == "file" or not self.reordered or entry.options_in_image:
            return tuple(places)
        moving = places[: count - self.fixed]
        drawn = hashlib.sha256(f"{seed}/{self.name}/{entry.id}/{repeat}".encode()).hexdigest()
        random.Random(drawn).shuffle(moving)
        return (*moving, *places[count - self.fixed :])


def asked(entry: BenchmarkRow, order: Sequence[int], suffix: str) -> tuple[str, tuple[str, ...], str]:
    """The question's text, its options and its reference answer, with the options in ``order``."""
    if not entry.options:
        return entry.question.strip() + suffix, (), entry.answer
    options = tuple(entry.options[place] for place in order)
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    right = order.index(entry.right)
    return "\n".join([entry.question.strip(), *lines]) + suffix, options, lines[right]
