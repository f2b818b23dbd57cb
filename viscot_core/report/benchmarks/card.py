"""The run card: all that makes a score comparable with another, taken from the run folder alone.

Published figures of one model on V* range from 83.3 to 90.1 because options are not shuffled, pixel caps are
not told and the reading of answers differs: two scores are compared only where their cards are equal.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from viscot_core.errors import UsageError, check_choice
from viscot_core.policies.dialects.known import DIALECTS
from viscot_core.report.scored_run import ScoredRun
from viscot_core.runs.records import RunInfo

FIELDS = (
    *("questions", "protocol", "seed", "repeats", "policy", "looks", "crop-source", "crop"),
    *("image-sent", "image-seen", "tokens", "temperature", "judge", "engine"),
)
"""What must be equal. The model is what is compared; the machine and the versions inform only."""


_SIZES = ("image_tokens", "resize", "max_image_side", "image_format", "image_square", "tiles")
"""What engines' identities say of the sizes of images."""


@dataclass(frozen=True)
class RunCard:
    """One text a field of ``FIELDS``, and the model."""

    model: str
    fields: Mapping[str, str]

    def differences(self, other: RunCard) -> dict[str, tuple[str, str]]:
        """The fields that differ, with both texts."""
        return {
            name: (self.fields[name], other.fields[name])
            for name in FIELDS
            if self.fields[name] != other.fields[name]
        }


def card_of(run: ScoredRun) -> RunCard:
    """The card of a run, whatever its task; a field that does not apply is ``-``."""
    settings, engine = run.info.settings, run.info.settings.get("engine", {})
    zoom = settings.get("zoom") or {}
    loops = "zoom" in run.strategies
    fields = {
        "questions": _questions(run.info),
        "protocol": str(settings.get("order") or settings.get("protocol") or settings.get("style") or "-"),
        "seed": str(settings.get("seed", "-")),
        "repeats": str(max((item.prediction.repeat or 1 for item in run.items), default=1)),
        "policy": _policy(run),
        "looks": f"up to {zoom.get('looks')}" if loops else str(settings.get("most_looks", 1)),
        "crop-source": str(zoom.get("crop_from", "original")) if loops else "original",
        "crop": _crop(run),
        "image-sent": _sent(settings, engine),
        "image-seen": _seen(run),
        "tokens": str(settings.get("max_new_tokens", "-")),
        "temperature": _temperature(str(engine.get("sampling", "-"))),
        "judge": run.judge.describe() if run.judge else "-",
        "engine": str(engine.get("engine", "-")),
    }
    return RunCard(run.info.model, fields)


def check_alike(first: ScoredRun, second: ScoredRun, allow: Collection[str] = ()) -> None:
    """Refuse to compare runs whose cards differ in a field that is not in ``allow``.

    Raises:
        UsageError: names every such field with both values; or ``allow`` has an unknown field.
    """
    for name in allow:
        check_choice("--allow", name, FIELDS)
    found = card_of(first).differences(card_of(second))
    refused = {name: pair for name, pair in found.items() if name not in allow}
    if refused:
        told = "; ".join(f"{name} ({mine} and {theirs})" for name, (mine, theirs) in refused.items())
        raise UsageError(
            f"{first.path} and {second.path} were not measured alike: {told}. To compare them all the same, "
            f"add --allow {','.join(refused)}."
        )


def _policy(run: ScoredRun) -> str:
    """The strategies, with the dialect of the zoom loop and the layer whose attention was asked for."""
    settings = run.info.settings
    told = [str((settings.get("zoom") or {}).get("dialect"))] if "zoom" in run.strategies else []
    if "attention_layer" in settings:
        told.append(f"attention layer {settings['attention_layer']}")
    return ",".join(run.strategies) + (f" ({', '.join(told)})" if told else "")


def _crop(run: ScoredRun) -> str:
    """How crops are cut: as ``--crop-policy`` says, in the zoom loop as its dialect's authors do."""
    settings = run.info.settings
    cut = str(settings.get("crop_policy", "-"))
    if "zoom" not in run.strategies:
        return cut
    found = DIALECTS.get(str((settings.get("zoom") or {}).get("dialect")))
    looped = found.rules.window if found else "-"
    return ",".join(dict.fromkeys([cut, looped] if len(run.strategies) > 1 else [looped]))


def _questions(info: RunInfo) -> str:
    """The data sets with the hashes of their files: another file has other questions."""
    return ", ".join(f"{name} {info.hashes[name][:8]}" for name in sorted(info.hashes)) or "-"


def _sent(settings: Mapping[str, Any], engine: Mapping[str, Any]) -> str:
    """What limits the pixels on their way to the model."""
    limits = {
        "zoom_pixels": (settings.get("zoom") or {}).get("most_pixels"),
        **{name: engine.get(name) for name in _SIZES},
    }
    told = [f"{name} {value}" for name, value in limits.items() if value not in (None, "none")]
    return ", ".join(told) or "as stored"


def _seen(run: ScoredRun) -> str:
    """The largest image as the model saw it; engines that resize to one size do not tell."""
    seen = [item.prediction.seen for item in run.items if item.prediction.seen]
    if not seen:
        return "not told"
    width, height = max(seen, key=lambda size: size[0] * size[1])
    return f"at most {width} x {height}"


def _temperature(sampling: str) -> str:
    """``t=0.7,p=0.9,s=0`` (``Sampling.identity``) without its seed, which the card has already.

    A nucleus of everything (``p=1.0``) is left out, as those leave it out who publish a figure.
    """
    told = sampling.rpartition(",s=")[0].removeprefix("t=").removesuffix(",p=1.0")
    return "0" if sampling == "greedy" else told or sampling
