"""The task that asks benchmarks of ``known_benchmarks``: several in one run folder, each a data set of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from viscot_core.boxes.formats import Codec
from viscot_core.boxes.geometry import Box, Size, iou
from viscot_core.data.benchmarks.synth import kind_of
from viscot_core.errors import DataError, ImageError, UsageError, check_choice
from viscot_core.images.reading import image_size
from viscot_core.policies.base import Answer
from viscot_core.policies.zoom_settings import ZoomSettings
from viscot_core.tasks.base import (
    MAX_NEW_TOKENS,
    Benchmark,
    Facts,
    Item,
    Settings,
    Strategy,
    box_facts,
    check_strategies,
)
from viscot_core.tasks.benchmarks.entry import ORDERS, BenchmarkRow, Order, SearchBenchmark, asked
from viscot_core.tasks.benchmarks.known_benchmarks import BENCHMARKS
from viscot_core.tasks.loading import Selection, digest_of
from viscot_core.tasks.shared_strategies import GIVEN, attention_settings
from viscot_core.tasks.vqa_file import STRATEGIES as ASKED

STRATEGIES = {**ASKED, **{strategy.name: strategy for strategy in GIVEN}}
"""Those of any question with an answer, and the regions that a model does not name."""


@dataclass(frozen=True)
class Benchmarks:
    """The benchmarks ``names`` of a data root, each question asked ``repeats`` times.

    A repeat shuffles the options anew (``order`` shuffled) and is a record of its own, ``ID@2``.

    Raises:
        UsageError: an unknown benchmark, order or strategy, or a number of repeats below 1.
    """

    kind: ClassVar[str] = "benchmarks"
    all_strategies: ClassVar[Mapping[str, Strategy]] = STRATEGIES

    data: Path
    names: tuple[str, ...]
    strategies: tuple[str, ...] = ("direct",)
    order: str = "shuffled"
    repeats: int = 1
    select: Selection = field(default_factory=Selection)
    max_new_tokens: int = MAX_NEW_TOKENS
    zoom: ZoomSettings = field(default_factory=ZoomSettings)
    attention_layer: int | None = None

    def __post_init__(self) -> None:
        if not self.names:
            raise UsageError(f"No benchmark is given; it is one or more of {', '.join(BENCHMARKS)}.")
        names = dict.fromkeys(check_choice("The benchmark", name, BENCHMARKS) for name in self.names)
        object.__setattr__(self, "names", tuple(names))
        object.__setattr__(self, "strategies", check_strategies(self.strategies, STRATEGIES))
        check_choice("--order", self.order, ORDERS)
        if self.repeats < 1:
            raise UsageError(f"--repeats {self.repeats} asks for nothing; give a number from 1.")

    def load(self) -> Benchmark:
        """The questions of every benchmark, in the order they were named.

        Raises:
            UsageError: a benchmark's folder is not there.
            DataError: damaged rows, or images missing (unless they may be left out).
        """
        items: list[Item] = []
        hashes: dict[str, str] = {}
        warnings: list[str] = []
        for name in self.names:
            benchmark = BENCHMARKS[name]
            folder = self.data / benchmark.folder
            if not folder.is_dir():
                made = f"viscot data synth --kind {kind_of(benchmark.folder)} --out {self.data}"
                raise UsageError(
                    f"{folder} does not exist; get it with 'viscot data fetch --for bench:{name} --data "
                    f"{self.data}', or make a small one: '{made}'."
                )
            entries = list(benchmark.read(folder))
            _check_ids(folder, entries)
            once = [self._item(benchmark, entry, repeat=1) for entry in entries]
            kept = {item.question_id for item in self.select.sample(once)}
            chosen = [entry for entry in entries if entry.id in kept]
            items += [
                self._item(benchmark, entry, repeat)
                for repeat in range(1, self.repeats + 1)
                for entry in chosen
            ]
            hashes[name] = digest_of(*benchmark.files(folder))
            if self.order == "file" and len({entry.right for entry in entries if entry.options}) == 1:
                warnings.append(
                    f"{name}: the right option has the same place in every question of the file; a constant "
                    "answer scores 100 % with --order file"
                )
            if len(entries) != benchmark.items:
                warnings.append(f"{name} has {len(entries)} questions here, {benchmark.items} as published")
        self._check_regions(items)
        found = self.select.benchmark(items, hashes, {name: name for name in hashes})
        return Benchmark(found.items, found.missing, (*found.warnings, *warnings), found.hashes, found.files)

    def _check_regions(self, items: Sequence[Item]) -> None:
        without = [item for item in items if item.region is None]
        if "gt-box" in self.strategies and without:
            raise UsageError(
                f"{len(without)} of {len(items)} questions have no annotated region ({without[0].name} is "
                "the first); leave gt-box out."
            )

    def _item(self, benchmark: SearchBenchmark, entry: BenchmarkRow, repeat: int) -> Item:
        order = benchmark.order(entry, self._order, self.select.seed, repeat)
        question, options, reference = asked(entry, order, benchmark.suffix(entry))
        size = _size(entry.image)
        facts: Facts = {"benchmark": benchmark.name, "category": entry.category, "cycle": entry.cycle}
        if options:
            facts |= {"options": options, "order": order}
        if entry.boxes:
            facts["evidence"] = tuple(box.to_square(size).coords for box in entry.boxes)
        if self.repeats > 1:
            facts["repeat"] = repeat
        return Item(
            dataset=benchmark.name,
            question_id=entry.id if repeat == 1 else f"{entry.id}@{repeat}",
            image=str(entry.image.relative_to(self.data)),
            path=entry.image,
            size=size,
            question=question,
            box=entry.boxes[0] if len(entry.boxes) == 1 else None,
            reference=reference,
            facts=facts,
        )

    @property
    def _order(self) -> Order:
        return next(order for order in ORDERS if order == self.order)

    def settings(self, codec: Codec | None) -> dict[str, Any]:
        """Everything that changes an answer and is known before a model is loaded.

        ``repeats`` is not among them: more of them may be added to a run.
        """
        return {
            "order": self.order,
            "seed": self.select.seed,
            "box_format": codec.name if codec else None,
            "max_new_tokens": self.max_new_tokens,
            **({"zoom": self.zoom.record()} if "zoom" in self.strategies else {}),
            **attention_settings(self.attention_layer, [STRATEGIES[name] for name in self.strategies]),
        }

    @staticmethod
    def metrics(item: Item, answer: Answer, settings: Settings) -> Facts:
        """The answer, its last region, and how well all regions that were looked at cover the evidence."""
        facts = {"answer": answer.text, **box_facts(item, answer, settings)}
        targets = [Box(*coords) for coords in item.facts.get("evidence", ())]
        # Without a look there is nothing to compare: an IoU of 0 is for a model that looked elsewhere.
        if targets and answer.looks:
            facts["evidence_iou"] = evidence_iou(targets, [look.box for look in answer.looks])
        return facts


def evidence_iou(targets: Sequence[Box], looked: Sequence[Box]) -> float:
    """TreeBench's measure: the mean over the targets of the best IoU with any box; in the padded square."""
    return fmean(max((iou(box, target) for box in looked), default=0.0) for target in targets)


def _check_ids(folder: Path, entries: Sequence[BenchmarkRow]) -> None:
    if not entries:
        raise DataError(f"{folder} holds no question; fetch the benchmark again.")
    twice = [name for name, count in Counter(entry.id for entry in entries).items() if count > 1]
    if twice:
        raise DataError(
            f"{folder}: two questions have the id {twice[0][:80]}; keep one file of the benchmark there."
        )


def _size(path: Path) -> Size:
    """Pixels, from the file's header; a missing or unreadable image fails its question when it is opened."""
    try:
        return image_size(path)
    except ImageError:
        return 1, 1
