"""The Visual CoT benchmark: all first turns of a batch together, then all second turns (paper section 5)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from viscot_core.boxes.geometry import Box, CropPolicy, ParsedBox, Window, crop_window
from viscot_core.engines.base import Generation
from viscot_core.images.view import View, crop
from viscot_core.policies.wording import Turns
from viscot_core.runs.records import Key
from viscot_core.tasks.asking import Job, Outcome, Speaker, done, failed, image, overlap, unsaid
from viscot_core.tasks.strategies import STRATEGIES, Strategy, annotated_box


@dataclass(frozen=True)
class _Second:
    """A job on its way to the answer: where its box came from and what is shown."""

    job: Job
    turns: Turns
    views: tuple[View, ...]
    box: Box | None = None
    box_text: str | None = None
    parsed: ParsedBox | None = None
    window: Window | None = None


@dataclass(frozen=True)
class CotAsker:
    """Answers questions under any of the six strategies; the model is asked for a box once per question."""

    speaker: Speaker
    crop_policy: CropPolicy = CropPolicy.PAPER
    seed: int = 0

    def ask(self, jobs: Sequence[Job]) -> list[Outcome]:
        """One outcome per job, in order."""
        start = time.perf_counter()
        outcomes: dict[Key, Outcome] = {
            job.key: failed(job, job.look.error or "no image") for job in jobs if job.look.view is None
        }
        ready = [job for job in jobs if job.look.view is not None]
        said = self._boxes(ready)
        seconds: list[_Second] = []
        for job in ready:
            asked = STRATEGIES[job.strategy].box_from == "model"
            first = said.get(job.look.item.name) if asked else None
            if first is not None and first.error is not None:
                outcomes[job.key] = unsaid(job, first)
            else:
                seconds.append(self._second(job, first))
        answers = self.speaker.say([(each.turns, each.views) for each in seconds])
        share = (time.perf_counter() - start) / max(len(ready), 1)
        for each, answer in zip(seconds, answers, strict=True):
            outcomes[each.job.key] = self._outcome(each, answer, share)
        return [outcomes[job.key] for job in jobs]

    def _boxes(self, jobs: Sequence[Job]) -> dict[str, Generation]:
        """Turn 1, once for each item that some strategy wants the model's box of."""
        wanted = {
            job.look.item.name: job.look for job in jobs if STRATEGIES[job.strategy].box_from == "model"
        }
        prompts = [
            (self.speaker.wording.detection(look.item.question), (image(look),)) for look in wanted.values()
        ]
        return dict(zip(wanted, self.speaker.say(prompts) if prompts else [], strict=True))

    def _second(self, job: Job, first: Generation | None) -> _Second:
        item, view, strategy = job.look.item, image(job.look), STRATEGIES[job.strategy]
        wording = self.speaker.wording
        if strategy.box_from == "nobody":
            return _Second(job, wording.direct(item.question), (view,))
        size = view.image.size
        parsed: ParsedBox | None = None
        if strategy.box_from == "model" and first is not None:
            parsed = wording.codec.parse(first.text, size)
            box, words = parsed.box, first.text
        else:
            box = strategy.given_box(item, self.seed) or annotated_box(item)
            words = self._words(strategy, item.box_text, box, view)
        if not strategy.shows_crop:
            return _Second(job, wording.without_crop(item.question, words), (view,), box, words, parsed)
        window = crop_window(box, size, self.crop_policy)
        shown = (view, crop(view, window))
        return _Second(job, wording.answer(item.question, words), shown, box, words, parsed, window)

    def _words(self, strategy: Strategy, quoted: str | None, box: Box, view: View) -> str:
        """A given box in the family's words; for the annotated one the file's, as the reference has it."""
        codec = self.speaker.wording.codec
        if strategy.name == "gt-box" and quoted is not None and codec.name == "viscot":
            return quoted
        return codec.encode(box, view.image.size)

    def _outcome(self, each: _Second, answer: Generation, share: float) -> Outcome:
        if answer.error is not None:
            return unsaid(each.job, answer)
        parsed, box = each.parsed, each.box
        points = parsed is not None and self.speaker.wording.codec.points
        return done(
            each.job,
            share,
            {
                "answer": answer.text,
                "box_text": each.box_text,
                "box_status": parsed.status.value if parsed else None,
                "box": box.coords if box else None,
                "crop": each.window,
                "iou": overlap(parsed, box, each.job.look.item, points),
            },
        )
