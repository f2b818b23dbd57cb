"""Does looking matter? The talks of a run once more, with what the model was shown replaced.

An audit is a task over another run: its items are that run's, its strategies are ``NAME:REPLACEMENT`` of the
run's own, its engine must be the one that answered. What the model said up to its first look is taken from
the record; then it sees the replacement and goes on. The run's own answers are copied into the folder, so
that one judge scores all of it and each pair stands in one place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from viscot_core.boxes.formats import Codec
from viscot_core.engines.base import Sampling
from viscot_core.errors import UsageError, check_choice
from viscot_core.policies.base import Answer
from viscot_core.policies.replaced import REPLACEMENTS
from viscot_core.rollout import Turn
from viscot_core.runs.audit.recorded import Recorded, last_crops, looked, said_before_look
from viscot_core.runs.audit.strategies import AloneStrategy, drawn, replaced
from viscot_core.runs.records import Key, Prediction
from viscot_core.tasks.base import BY_ITEM, DRAWS, Benchmark, Facts, Item, Settings, Strategy

DIRECT = "direct"
"""The strategy without a look, with which the answers are compared."""
ALONE = "alone"
"""The question about the last crop, without the image that it was cut from."""


@dataclass(frozen=True)
class Audit:
    """The answers of ``recorded`` under each replacement, and the baselines to compare them with.

    Raises:
        UsageError: an unknown replacement, or one that the run has nothing for.
    """

    recorded: Recorded
    by: tuple[str, ...]
    seed: int = 0
    compares: bool = True
    """Whether the baselines are asked: ``direct`` where the run does not have it, and each crop alone."""
    samples: int = 0
    """So many answers without a look are drawn for each item, at ``temperature``: ``direct:1``, ..."""
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.by:
            raise UsageError(
                f"No replacement is given; --replace is one or more of {', '.join(REPLACEMENTS)}."
            )
        by = tuple(dict.fromkeys(check_choice("--replace", name, REPLACEMENTS) for name in self.by))
        object.__setattr__(self, "by", by)
        if self.samples and (self.temperature <= 0 or DIRECT not in self.recorded.task.all_strategies):
            raise UsageError(
                "--samples needs a --temperature above 0 and a task that has the strategy direct."
            )
        without = [each for each in self.recorded.of_audited if not each.box_gt and not each.evidence]
        if "gt" in self.by and without:
            raise UsageError(
                f"{len(without)} of {len(self.recorded.of_audited)} answers of {self.recorded.folder} are "
                "about items without an annotated region; leave gt out of --replace."
            )

    @property
    def kind(self) -> str:
        return self.recorded.task.kind

    @property
    def data(self) -> Path:
        return Path(self.recorded.info.data)

    @property
    def strategies(self) -> tuple[str, ...]:
        """The run's own, then each with each replacement; ``direct`` last."""
        asks = self.compares and DIRECT in self.recorded.task.all_strategies
        kinds = [*self.by, *([ALONE] if asks else [])]
        names = self.recorded.audited
        direct = [DIRECT] if asks or any(key[0] == DIRECT for key in self.recorded.answers) else []
        return (*names, *(f"{name}:{by}" for name in names for by in kinds), *direct, *self._draws)

    @property
    def _draws(self) -> dict[str, Sampling]:
        return {f"{DIRECT}:{n}": Sampling(self.temperature, seed=n) for n in range(1, self.samples + 1)}

    @cached_property
    def all_strategies(self) -> Mapping[str, Strategy]:
        """Those of the task, those with replaced crops, and those with the crop alone."""
        found = dict(self.recorded.task.all_strategies)
        for key, sampling in self._draws.items():
            found[key] = drawn(key, found[DIRECT], sampling)
        for name in self.recorded.audited:
            if DIRECT in found:
                key, summary = f"{name}:{ALONE}", f"the crop of {name} without its image, answer at once"
                crops = {p.key[1:]: last_crops(p) for p in self.recorded.looks_of(name)}
                found[key] = AloneStrategy(key, summary, found[DIRECT].policy, crops=crops)
            for by in (known for known in REPLACEMENTS if known in self.by):
                donors = self.recorded.donors(name, self.seed) if by == "other" else {}
                found[f"{name}:{by}"] = replaced(found[name], by, donors)
        return found

    def load(self) -> Benchmark:
        """The run's items that are answered under every audited strategy. Raises DataError as it does."""
        return self.recorded.benchmark()

    def settings(self, codec: Codec | None) -> dict[str, Any]:
        """Those of the run, and how its crops are replaced."""
        kept = {n: v for n, v in self.recorded.info.settings.items() if n not in ("engine", "prompts")}
        drawn_at = {"temperature": self.temperature} if self.samples else {}
        # A replay draws with the numbers of the run; only one without any may choose.
        if self.samples and self.recorded.sampling.greedy:
            kept[DRAWS] = BY_ITEM
        audit = {"seed": self.seed, "strategies": list(self.recorded.audited), **drawn_at}
        return {**kept, "audit": audit}

    def metrics(self, item: Item, answer: Answer, settings: Settings) -> Facts:
        """As the task's own."""
        return self.recorded.task.metrics(item, answer, settings)

    # -- what the run knows of a query: `runs.answering.Continuing`

    @property
    def engine(self) -> Mapping[str, Any]:
        """As the run has it on record."""
        return self.recorded.engine

    def check(self, known: Mapping[str, Any], *, same_engine: bool = False) -> None:
        """Refuse another engine, or other prompts, than those of the run. Raises UsageError."""
        self.recorded.check(known, same_engine=same_engine)

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
        known = not by or name in self.recorded.audited
        return self.recorded.answers.get((name, *key[1:])) if known else None
