"""The strategies of an audit: a run's with its crops replaced, a crop alone, samples without a look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from viscot_core.boxes.geometry import Window
from viscot_core.engines.base import Sampling
from viscot_core.images.reading import open_image
from viscot_core.images.view import View, crop
from viscot_core.policies.base import Policy, Question
from viscot_core.policies.replaced import Looking, Replaced, Replacement
from viscot_core.policies.sampled import Sampled
from viscot_core.runs.audit.recorded import Donor, ItemKey
from viscot_core.tasks.base import Item, Region, Settings, Strategy


@dataclass(frozen=True)
class ReplacedStrategy(Strategy):
    """A strategy whose crops are replaced; ``donors`` names another item's crop for each item."""

    donors: Mapping[ItemKey, Donor] = field(default_factory=dict)

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

    crops: Mapping[ItemKey, tuple[Window, ...]] = field(default_factory=dict)

    def question(self, item: Item, view: View, settings: Settings) -> Question:
        """The question with each crop as an image of its own."""
        windows = self.crops[item.dataset, str(item.question_id)]
        question = super().question(item, view, settings)
        return replace(question, images=tuple(crop(view, window) for window in windows))


def replaced(strategy: Strategy, by: Replacement, donors: Mapping[ItemKey, Donor]) -> Strategy:
    """``strategy`` with its crops replaced."""

    def policy(settings: Settings) -> Policy:
        inner = strategy.policy(settings)
        assert isinstance(inner, Looking), f"the policy of {strategy.name} shows no crops"
        return Replaced(inner, by)

    return ReplacedStrategy(
        f"{strategy.name}:{by}",
        f"{strategy.name}, its crops replaced: {by}",
        policy,
        strategy.asks_for_box,
        _annotated if by == "gt" else None,
        strategy.loops,
        donors=donors,
    )


def drawn(name: str, direct: Strategy, sampling: Sampling) -> Strategy:
    """``direct`` with words that are drawn."""
    summary = f"{direct.summary}; drawn at temperature {sampling.temperature}"
    return Strategy(name, summary, lambda settings: Sampled(direct.policy(settings), sampling))


def _annotated(item: Item, settings: Settings) -> Region:
    """The annotated region, as it stands in the padded square."""
    assert item.region is not None, f"{item.name} has no annotated region"
    return item.region, None
