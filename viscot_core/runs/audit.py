"""Does looking matter? The talks of a run once more, with what the model was shown replaced.

An audit is a task over another run: its items are that run's, its strategies are ``NAME:REPLACEMENT`` of the
run's own, its engine must be the one that answered. What the model said up to its first look is taken from
the record; then it sees the replacement and goes on. The run's own answers are copied into the folder, so
that one judge scores all of it and each pair stands in one place.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from viscot_core.boxes.formats import Codec
from viscot_core.boxes.geometry import Box, Window
from viscot_core.data.traces.trace import trace_in
from viscot_core.engines.base import Sampling
from viscot_core.errors import UsageError, check_choice
from viscot_core.images.reading import open_image
from viscot_core.images.view import View, crop
from viscot_core.policies.base import Answer, Policy, Question
from viscot_core.policies.replaced import REPLACEMENTS, Looking, Replaced
from viscot_core.policies.sampled import Sampled
from viscot_core.policies.zoom_settings import settings_of
from viscot_core.rollout import Turn
from viscot_core.runs.journal import refuse_changes
from viscot_core.runs.records import Key, Prediction, RunInfo, read_predictions, read_run
from viscot_core.tasks.base import Benchmark, Facts, Item, Region, Settings, Strategy, Task
from viscot_core.tasks.image_files import find_image
from viscot_core.tasks.registry import TASKS

DIRECT = "direct"
"""The strategy without a look, with which the answers are compared."""
ALONE = "alone"
"""The question about the last crop, without the image that it was cut from."""
_TRIES = 100
"""Draws of another item before it is said that there is none."""

Donor = tuple[Path, Window]
"""The image and the crop of another item."""


@dataclass(frozen=True)
class ReplacedStrategy(Strategy):
    """A strategy whose crops are replaced; ``donors`` names another item's crop for each item."""

    donors: Mapping[tuple[str, str], Donor] = field(default_factory=dict)

    def question(self, item: Item, view: View, settings: Settings) -> Question:
        """The question, with what its crop may be replaced by."""
        question = super().question(item, view, settings)
        seed = f"{settings['audit']['seed']}/{item.dataset}/{item.question_id}"
        donor = self.donors.get((item.dataset, str(item.question_id)))
        other = None if donor is None else crop(View(open_image(donor[0]), str(donor[0])), donor[1])
        return replace(question, seed=seed, other=other)


@dataclass(frozen=True)
class AloneStrategy(Strategy):
    """The question without a look, about the crops that the recorded answer was given after."""

    crops: Mapping[tuple[str, str], tuple[Window, ...]] = field(default_factory=dict)

    def question(self, item: Item, view: View, settings: Settings) -> Question:
        """The question with each crop as an image of its own."""
        windows = self.crops[item.dataset, str(item.question_id)]
        question = super().question(item, view, settings)
        return replace(question, images=tuple(crop(view, window) for window in windows))


@dataclass(frozen=True)
class Audit:
    """The answers of the run folder ``run`` under each replacement, and the baselines to compare them with.

    ``named`` are the strategies of the run to audit; without any, all in which the model saw a crop that it
    had named.

    Raises:
        UsageError: an unknown replacement or strategy, or nothing to replace.
    """

    run: Path
    by: tuple[str, ...]
    named: tuple[str, ...] = ()
    seed: int = 0
    compares: bool = True
    """Whether the baselines are asked: ``direct`` where the run does not have it, and each crop alone."""
    samples: int = 0
    """So many answers without a look are drawn for each item, at ``temperature``: ``direct:1``, ..."""
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for name in self.by:
            check_choice("--replace", name, REPLACEMENTS)
        if not self.by:
            raise UsageError(
                f"No replacement is given; --replace is one or more of {', '.join(REPLACEMENTS)}."
            )
        if self.samples and (self.temperature <= 0 or DIRECT not in self._base.all_strategies):
            raise UsageError(
                "--samples needs a --temperature above 0 and a task that has the strategy direct."
            )
        if self.run_info.settings.get("audit"):
            raise UsageError(f"{self.run} is an audit itself; give the run that it replays.")
        if not self.audited:
            raise UsageError(
                f"No answer of {self.run} was given after a crop that the model had named; audit a run of "
                "the strategies cot or zoom."
            )
        if "gt" in self.by and not any(each.box_gt for each in self._records):
            raise UsageError(f"The items of {self.run} have no annotated region; leave gt out of --replace.")
        recorded = self.run_info.settings.get("zoom")
        if recorded and settings_of(recorded).record().get("words") != recorded.get("words"):
            raise UsageError(
                f"{self.run} was made with other words of the dialect {recorded.get('dialect')}; run it "
                "again with this version, then audit it."
            )

    # -- the recorded run -------------------------------------------------------------------------------

    @cached_property
    def run_info(self) -> RunInfo:
        """The ``run.json`` of the run."""
        return read_run(self.run)

    @cached_property
    def _base(self) -> type[Task]:
        if self.run_info.kind not in TASKS:
            raise UsageError(f"{self.run} is a run of a task that this version does not have.")
        return TASKS[self.run_info.kind]

    @cached_property
    def _all(self) -> dict[Key, Prediction]:
        return {each.key: each for each in read_predictions(self.run) if each.done}

    @cached_property
    def audited(self) -> tuple[str, ...]:
        """The strategies whose crops are replaced."""
        known = self._base.all_strategies
        found = dict.fromkeys(p.strategy for p in self._all.values() if p.strategy in known and looked(p))
        looking = tuple(name for name in found if known[name].asks_for_box or known[name].loops)
        for name in self.named:
            check_choice("--strategy", name, looking)
        return self.named or looking

    @cached_property
    def _records(self) -> list[Prediction]:
        """The answers whose crops are replaced."""
        return [each for each in self._all.values() if each.strategy in self.audited]

    # -- a task -----------------------------------------------------------------------------------------

    @property
    def kind(self) -> str:
        return self._base.kind

    @property
    def data(self) -> Path:
        return Path(self.run_info.data)

    @property
    def strategies(self) -> tuple[str, ...]:
        """The run's own, then each with each replacement; ``direct`` last."""
        asks = self.compares and DIRECT in self._base.all_strategies
        kinds = [*self.by, *([ALONE] if asks else [])]
        replaced = [f"{name}:{by}" for name in self.audited for by in kinds]
        direct = [DIRECT] if asks or any(key[0] == DIRECT for key in self._all) else []
        return (*self.audited, *replaced, *direct, *self._draws)

    @property
    def _draws(self) -> dict[str, Sampling]:
        return {f"{DIRECT}:{n}": Sampling(self.temperature, seed=n) for n in range(1, self.samples + 1)}

    @cached_property
    def all_strategies(self) -> Mapping[str, Strategy]:
        """Those of the task, those with replaced crops, and those with the crop alone."""
        found = dict(self._base.all_strategies)
        for key, sampling in self._draws.items():
            found[key] = _drawn(key, found[DIRECT], sampling)
        for name in self.audited:
            if DIRECT in found:
                key, summary = f"{name}:{ALONE}", f"the crop of {name} without its image, answer at once"
                found[key] = AloneStrategy(key, summary, found[DIRECT].policy, crops=self._last_crops(name))
            for by in self.by:
                found[f"{name}:{by}"] = self._replaced(found[name], by)
        return found

    def _replaced(self, strategy: Strategy, by: str) -> Strategy:
        kind = next(known for known in REPLACEMENTS if known == by)

        def policy(settings: Settings) -> Policy:
            inner = strategy.policy(settings)
            assert isinstance(inner, Looking), f"the policy of {strategy.name} shows no crops"
            return Replaced(inner, kind)

        return ReplacedStrategy(
            f"{strategy.name}:{by}",
            f"{strategy.name}, its crops replaced: {by}",
            policy,
            strategy.asks_for_box,
            _annotated if by == "gt" else None,
            strategy.loops,
            donors=self._donors(strategy.name) if by == "other" else {},
        )

    def load(self) -> Benchmark:
        """The run's items that are answered under every audited strategy.

        Raises:
            DataError: a row names an image outside of the data root.
        """
        answered: dict[tuple[str, str], list[Prediction]] = {}
        for each in self._records:
            answered.setdefault(each.key[1:], []).append(each)
        whole = [found for found in answered.values() if len(found) == len(self.audited)]
        planned = self.run_info.planned.get(self.audited[0], {})
        open_items = sum(planned.values()) - len(whole)
        warning = f"{open_items} items of {self.run} have no answer there; they are left out."
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
            path=find_image(self.data, p.image),
            size=size,
            question=p.question,
            box=Box(*p.box_gt).to_original(size) if p.box_gt else None,
            reference=p.reference,
        )

    def _hashes(self) -> dict[str, str]:
        """Of each data set's recorded answers: an audit goes on only with the talks it began with."""
        digests: dict[str, Any] = {}
        for each in sorted(self._records, key=lambda p: p.key):
            digests.setdefault(each.dataset, hashlib.sha256()).update(each.to_line())
        return {name: digest.hexdigest()[:16] for name, digest in digests.items()}

    def settings(self, codec: Codec | None) -> dict[str, Any]:
        """Those of the run, and how its crops are replaced."""
        kept = {n: v for n, v in self.run_info.settings.items() if n not in ("engine", "prompts")}
        drawn = {"temperature": self.temperature} if self.samples else {}
        return {**kept, "audit": {"seed": self.seed, "strategies": list(self.audited), **drawn}}

    def metrics(self, item: Item, answer: Answer, settings: Settings) -> Facts:
        """As the task's own."""
        return self._base.metrics(item, answer, settings)

    # -- what the run knows ------------------------------------------------------------------------------

    def check(self, known: Mapping[str, Any]) -> None:
        """Refuse another engine, or other prompts, than those of the run. Raises UsageError."""
        before = self.run_info
        names = [name for name in ("engine", "prompts") if name in before.settings]
        old = before.model_copy(update={"settings": {name: before.settings[name] for name in names}})
        new = before.model_copy(update={"settings": {name: known.get(name) for name in names}})
        refuse_changes(old, new, self.run)

    def begun(self, key: Key) -> Sequence[Turn]:
        """What the model said up to its first look."""
        found = self._recorded(key)
        replays = found is not None and found.strategy != key[0] and not key[0].endswith(f":{ALONE}")
        return [Turn(text) for text in said_before_look(found)] if found is not None and replays else ()

    def answered(self, key: Key) -> Prediction | None:
        """An answer of the run; so is that of a talk without a look, in which nothing is replaced."""
        found = self._recorded(key)
        if found is None or found.strategy == key[0]:
            return found
        return None if looked(found) else found.model_copy(update={"strategy": key[0]})

    def _recorded(self, key: Key) -> Prediction | None:
        """The run's answer under a strategy, or the one whose talk the strategy replays."""
        name, _, by = key[0].partition(":")
        return None if by and name not in self.audited else self._all.get((name, *key[1:]))

    def _last_crops(self, name: str) -> dict[tuple[str, str], tuple[Window, ...]]:
        return {p.key[1:]: last_crops(p) for p in self._all.values() if p.strategy == name and looked(p)}

    def _donors(self, name: str) -> dict[tuple[str, str], Donor]:
        """For each item the crop of another one with another image, drawn by the seed and the item's name."""
        there = sorted(
            (p for p in self._all.values() if p.strategy == name and looked(p)), key=lambda p: p.key
        )
        found: dict[tuple[str, str], Donor] = {}
        for each in there:
            rng = random.Random(f"{self.seed}/other/{each.dataset}/{each.question_id}")
            drawn = (rng.choice(there) for _ in range(_TRIES))
            donor = next((p for p in drawn if p.image != each.image), None)
            if donor is None:
                raise UsageError(f"{self.run} has looks at one image only; leave other out of --replace.")
            window = first_crop(donor)
            assert window is not None
            found[each.dataset, str(each.question_id)] = find_image(self.data, donor.image), window
        return found


def _drawn(name: str, direct: Strategy, sampling: Sampling) -> Strategy:
    """``direct`` with words that are drawn."""
    summary = f"{direct.summary}; drawn at temperature {sampling.temperature}"
    return Strategy(name, summary, lambda settings: Sampled(direct.policy(settings), sampling))


def _annotated(item: Item, settings: Settings) -> Region:
    """The annotated region, as it stands in the padded square."""
    assert item.box_square is not None, f"{item.name} has no annotated box"
    return item.box_square, None


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
