"""Referring expressions: name the box of what a sentence describes (RefCOCO, RefCOCO+, RefCOCOg; Table 9)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from viscot_core.engines.base import Generation
from viscot_core.tasks.asking import Job, Outcome, Speaker, done, failed, image, overlap, unsaid


@dataclass(frozen=True)
class RefcocoAsker:
    """One turn per expression; the answer is the box."""

    speaker: Speaker

    def ask(self, jobs: Sequence[Job]) -> list[Outcome]:
        """One outcome per job, in order."""
        start = time.perf_counter()
        wording = self.speaker.wording
        ready = [job for job in jobs if job.look.view is not None]
        prompts = [(wording.refcoco(job.look.item.question), (image(job.look),)) for job in ready]
        said = dict(zip((job.key for job in ready), self.speaker.say(prompts), strict=True))
        share = (time.perf_counter() - start) / max(len(ready), 1)
        return [self._outcome(job, said.get(job.key), share) for job in jobs]

    def _outcome(self, job: Job, said: Generation | None, share: float) -> Outcome:
        if said is None:
            return failed(job, job.look.error or "no image")
        if said.error is not None:
            return unsaid(job, said)
        codec = self.speaker.wording.codec
        parsed = codec.parse(said.text, image(job.look).image.size)
        facts = {
            "box_text": said.text,
            "box_status": parsed.status.value,
            "box": parsed.box.coords,
            "iou": overlap(parsed, parsed.box, job.look.item, codec.points),
        }
        return done(job, share, facts)
