"""The run that an audit replays: its answers, what the model said and saw in each, and what made them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from viscot_core.boxes.geometry import Box, Window
from viscot_core.data.traces.trace import trace_in
from viscot_core.engines.base import GREEDY, Sampling
from viscot_core.errors import UsageError, check_choice
from viscot_core.policies.zoom_settings import settings_of
from viscot_core.runs.journal import at_its_address, refuse_changes
from viscot_core.runs.records import ITEM_FACTS, Key, Prediction, RunInfo, read_predictions, read_run
from viscot_core.tasks.base import Benchmark, Item, Task
from viscot_core.tasks.image_files import find_image
from viscot_core.tasks.registry import TASKS

_TRIES = 100
"""Draws of another item before it is said that there is none."""

ItemKey = tuple[str, str]
"""An item's data set and number."""
Donor = tuple[Path, Window]
"""The image and the crop of another item."""


@dataclass(frozen=True)
class Recorded:
    """The answers in the run folder ``folder``.

    ``named`` are the strategies whose crops are replaced; without any, all in which the model saw a crop that
    it had named.

    Raises:
        UsageError: a run that cannot be replayed, or nothing to replace in it.
    """

    folder: Path
    named: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.info.settings.get("audit"):
            raise UsageError(f"{self.folder} is an audit itself; give the run that it replays.")
        if not self.audited:
            raise UsageError(
                f"No answer of {self.folder} was given after a crop that the model had named; audit a run of "
                "the strategies cot or zoom."
            )
        zoom = self.info.settings.get("zoom")
        if zoom and settings_of(zoom).record().get("words") != zoom.get("words"):
            raise UsageError(
                f"{self.folder} was made with other words of the dialect {zoom.get('dialect')}; run it "
                "again with this version, then audit it."
            )

    @cached_property
    def info(self) -> RunInfo:
        """The ``run.json`` of the run."""
        return read_run(self.folder)

    @property
    def engine(self) -> Mapping[str, Any]:
        """The identity of the engine that was asked."""
        known: Mapping[str, Any] = self.info.settings.get("engine", {})
        return known

    @property
    def sampling(self) -> Sampling:
        """How the run chose its tokens: a replay that differed in it too would not be about the crop.

        Raises:
            UsageError: the run does not say it in words that this version knows.
        """
        told = str(self.engine.get("sampling", GREEDY.identity))
        try:
            return Sampling.of_identity(told)
        except ValueError as error:
            raise UsageError(
                f"{self.folder} was made with the sampling {told!r}, which this version does not have; run "
                "it again, then audit it."
            ) from error

    @cached_property
    def task(self) -> type[Task]:
        """Whose questions were asked."""
        if self.info.kind not in TASKS:
            raise UsageError(f"{self.folder} is a run of a task that this version does not have.")
        return TASKS[self.info.kind]

    @cached_property
    def answers(self) -> dict[Key, Prediction]:
        """All that are there."""
        return {each.key: each for each in read_predictions(self.folder) if each.done}

    @cached_property
    def audited(self) -> tuple[str, ...]:
        """The strategies whose crops are replaced."""
        known = self.task.all_strategies
        found = dict.fromkeys(p.strategy for p in self.answers.values() if p.strategy in known and looked(p))
        looking = tuple(name for name in found if known[name].asks_for_box or known[name].loops)
        for name in self.named:
            check_choice("--strategy", name, looking)
        return tuple(dict.fromkeys(self.named)) or looking

    @cached_property
    def of_audited(self) -> list[Prediction]:
        """The answers whose crops are replaced."""
        return [each for each in self.answers.values() if each.strategy in self.audited]

    def check(self, known: Mapping[str, Any], *, same_engine: bool = False) -> None:
        """Refuse another engine, or other prompts, than those of the run; ``same_engine``: a server may have
        another address now. Raises UsageError."""
        if same_engine:
            known = {**known, "engine": at_its_address(known["engine"], self.info)}
        names = [name for name in ("engine", "prompts") if name in self.info.settings]
        old = self.info.model_copy(update={"settings": {name: self.info.settings[name] for name in names}})
        new = self.info.model_copy(update={"settings": {name: known.get(name) for name in names}})
        refuse_changes(old, new, self.folder, "an audit asks the model of the run, as the run did")

    def benchmark(self) -> Benchmark:
        """The items that are answered under every audited strategy.

        Raises:
            DataError: a row names an image outside of the data root.
        """
        answered: dict[ItemKey, list[Prediction]] = {}
        for each in self.of_audited:
            answered.setdefault(each.key[1:], []).append(each)
        whole = [found for found in answered.values() if len(found) == len(self.audited)]
        planned = self.info.planned.get(self.audited[0], {})
        open_items = sum(planned.values()) - len(whole)
        warning = f"{open_items} items of {self.folder} have no answer there; they are left out."
        return Benchmark(
            items=tuple(self._item(found[0]) for found in whole),
            missing={},
            warnings=(warning,) if open_items > 0 else (),
            hashes=self._hashes(),
            files={},
        )

    def _item(self, p: Prediction) -> Item:
        size = (p.width, p.height)
        return Item(
            dataset=p.dataset,
            question_id=p.question_id,
            image=p.image,
            path=find_image(Path(self.info.data), p.image),
            size=size,
            question=p.question,
            box=Box(*p.box_gt).to_original(size) if p.box_gt else None,
            reference=p.reference,
            facts={name: value for name in ITEM_FACTS if (value := getattr(p, name)) is not None},
        )

    def _hashes(self) -> dict[str, str]:
        """Of each data set's recorded answers: an audit goes on only with the talks it began with."""
        digests: dict[str, Any] = {}
        for each in sorted(self.of_audited, key=lambda p: p.key):
            digests.setdefault(each.dataset, hashlib.sha256()).update(each.to_line())
        return {name: digest.hexdigest()[:16] for name, digest in digests.items()}

    def looks_of(self, strategy: str) -> list[Prediction]:
        """The answers under ``strategy`` that were given after a crop."""
        return [p for p in self.answers.values() if p.strategy == strategy and looked(p)]

    def donors(self, strategy: str, seed: int) -> dict[ItemKey, Donor]:
        """For each item the crop of another one with another image, drawn by the seed and the item's name."""
        there = sorted(self.looks_of(strategy), key=lambda p: p.key)
        found: dict[ItemKey, Donor] = {}
        for each in there:
            rng = random.Random(f"{seed}/other/{each.dataset}/{each.question_id}")
            drawn = (rng.choice(there) for _ in range(_TRIES))
            donor = next((p for p in drawn if p.image != each.image), None)
            if donor is None:
                raise UsageError(f"{self.folder} has looks at one image only; leave other out of --replace.")
            window = first_crop(donor)
            assert window is not None
            found[each.key[1:]] = find_image(Path(self.info.data), donor.image), window
        return found


def first_crop(p: Prediction) -> Window | None:
    """The first crop that the model saw, in pixels of its image; None where it saw none."""
    if p.trace is not None:
        looks = trace_in(p.trace).looks
        return looks[0].crop if looks else None
    return p.crop


def last_crops(p: Prediction) -> tuple[Window, ...]:
    """The crops of the last look: one, or all that the same words named."""
    if p.looks:
        return tuple(tuple(look["crop"]) for look in p.looks if look.get("crop"))
    return () if p.crop is None else (p.crop,)


def looked(p: Prediction) -> bool:
    """Whether the model saw a crop before it answered."""
    return first_crop(p) is not None


def said_before_look(p: Prediction) -> list[str]:
    """The model's own words up to its first look, turn by turn."""
    if p.trace is None:
        return [p.box_text or ""]
    trace = trace_in(p.trace)
    said = [message.text for message in trace.turns if message.role == "assistant"]
    return said[: trace.looks[0].turn] if trace.looks else []
