"""``lmms-eval --model viscot``: any of viscot's engines, directly or through the two-turn chain.

    python -m lmms_eval --model viscot --model_args pretrained=VisCoT-7b-336,strategy=cot --tasks pope ...

Imported by lmms-eval alone, through the entry point; nothing of viscot imports it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from loguru import logger
from tqdm import tqdm

from viscot_core.boxes.geometry import CropPolicy, Window, crop_window
from viscot_core.conversation import IMAGE, Message
from viscot_core.engines.base import Engine, Generation, Request
from viscot_core.engines.open import EngineOptions, codec_for, open_engine
from viscot_core.errors import EngineError, ImageError, UsageError, nearest
from viscot_core.families.llava.template import render
from viscot_core.images.view import View, crop, view_of
from viscot_core.policies.wording import PROTOCOLS, Protocol, Turns, Wording

OURS = ("cot", "direct")
"""The strategies that need no annotated box, and so work on any task."""
LONGEST = 1024
"""New tokens where a task names no limit, as lmms-eval's own classes have it."""


@dataclass
class _Asked:
    """One request of lmms-eval on its way: its images, what it was told, where the model looked."""

    task: str
    doc_id: int
    text: str
    views: tuple[View, ...]
    max_new_tokens: int
    until: tuple[str, ...]
    error: str | None = None
    said: str = ""
    look: dict[str, Any] | None = None


class Viscot(lmms):
    """One of viscot's models (a name, a folder, ``http://HOST/v1#NAME``) as a model of lmms-eval.

    ``strategy`` cot names a region and answers with its crop where a request has exactly one image; other
    requests, and all with direct, are answered at once. ``protocol`` paper uses the Visual CoT benchmark's
    prompts, native the words of the training data (for direct: LLaVA's own, the task's text and nothing
    else). With ``looks=FILE`` every box goes there, a JSON line each, with the reason where a request failed:
    lmms-eval has no state for a failure and counts the empty answer as wrong.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str | None = None,
        strategy: str = "cot",
        protocol: str = "paper",
        crop_policy: str = "paper",
        box_tokens: int = 128,
        looks: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        load_in: str | None = None,
        attn: str = "sdpa",
        box_format: str | None = None,
        batch_size: int | str = 8,
        max_batch_size: int | str | None = None,
    ) -> None:
        super().__init__()
        self.strategy = _one_of("strategy", strategy, OURS)
        self.crop_policy = CropPolicy(_one_of("crop_policy", crop_policy, [p.value for p in CropPolicy]))
        self.box_tokens = int(box_tokens)
        self.batch_size = int(batch_size)
        options = EngineOptions(pretrained, device, dtype, load_in, attn, self.batch_size, box_format)
        spoken: Protocol = "native" if _one_of("protocol", protocol, PROTOCOLS) == "native" else "paper"
        self.wording = Wording(codec_for(options), spoken)
        self.engine: Engine = open_engine(options)
        self.looks = Path(looks) if looks else None
        self.failures = 0

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Answers in the order of the requests, asked in batches."""
        said: list[str] = []
        step = max(8, self.batch_size)
        with tqdm(total=len(requests), desc="Model Responding") as bar:
            for start in range(0, len(requests), step):
                batch = [self._open(request) for request in requests[start : start + step]]
                self._answer(batch)
                self._keep(batch)
                said += [asked.said for asked in batch]
                bar.update(len(batch))
        if self.failures:
            logger.error(f"{self.failures} requests failed; lmms-eval counts their empty answers as wrong.")
        return said

    def loglikelihood(self, requests: Sequence[Instance]) -> NoReturn:
        """Not offered: an engine says text, not probabilities."""
        raise EngineError("viscot answers tasks of the type generate_until only; choose another --tasks.")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> NoReturn:
        """Not offered, as ``loglikelihood``."""
        self.loglikelihood(requests)

    def _open(self, request: Instance) -> _Asked:
        text, options, doc_to_visual, doc_id, task, split = request.args
        if options.get("do_sample") and options.get("temperature"):
            raise EngineError(f"The task {task} wants sampled answers; viscot answers greedily only.")
        stops = options.get("until") or ()
        asked = _Asked(
            task,
            doc_id,
            text.replace(IMAGE, "").lstrip("\n") if IMAGE in text else text,
            (),
            int(options.get("max_new_tokens") or LONGEST),
            (stops,) if isinstance(stops, str) else tuple(stops),
        )
        try:
            images = doc_to_visual(self.task_dict[task][split][doc_id]) or []
            asked.views = tuple(view_of(image.convert("RGB")) for image in images)
        except ImageError as error:
            asked.error = str(error)
        return asked

    def _answer(self, batch: Sequence[_Asked]) -> None:
        start = time.perf_counter()
        ready = [asked for asked in batch if asked.error is None]
        looking = [asked for asked in ready if self.strategy == "cot" and len(asked.views) == 1]
        at_once = [asked for asked in ready if asked not in looking]
        prompts = [(asked, self._direct(asked), asked.views) for asked in at_once]
        prompts += self._with_crops(looking)
        limits = [asked.max_new_tokens for asked, _, _ in prompts]
        for (asked, _, _), said in zip(prompts, self._say(prompts, limits), strict=True):
            asked.error, asked.said = said.error, _cut(said.text, asked.until)
        share = (time.perf_counter() - start) / max(len(ready), 1)
        for asked in ready:
            asked.look = {**(asked.look or {}), "seconds": share}

    def _direct(self, asked: _Asked) -> Turns:
        """The question at once; images in front of it, as LLaVA has them."""
        if len(asked.views) == 1:
            return self.wording.direct(asked.text)
        return (Message("user", f"{IMAGE}\n" * len(asked.views) + asked.text),)

    def _with_crops(self, batch: Sequence[_Asked]) -> list[tuple[_Asked, Turns, tuple[View, ...]]]:
        """Turn 1 of all; then the prompts of turn 2, for those whose turn 1 worked."""
        first = [(asked, self.wording.detection(asked.text), asked.views) for asked in batch]
        prompts: list[tuple[_Asked, Turns, tuple[View, ...]]] = []
        for asked, said in zip(batch, self._say(first, [self.box_tokens] * len(batch)), strict=True):
            asked.error = said.error
            if said.error is None:
                view = asked.views[0]
                parsed = self.wording.codec.parse(said.text, view.image.size)
                window: Window = crop_window(parsed.box, view.image.size, self.crop_policy)
                asked.look = {
                    "box_text": said.text,
                    "box_status": parsed.status.value,
                    "box": parsed.box.coords,
                    "crop": window,
                    "size": view.image.size,
                }
                prompts.append(
                    (asked, self.wording.answer(asked.text, said.text), (view, crop(view, window)))
                )
        return prompts

    def _say(
        self, prompts: Sequence[tuple[_Asked, Turns, tuple[View, ...]]], limits: Sequence[int]
    ) -> list[Generation]:
        template = self.engine.template
        return self.engine.generate(
            [
                Request(render(turns, template, generate=True), views, limit)
                for (_, turns, views), limit in zip(prompts, limits, strict=True)
            ]
        )

    def _keep(self, batch: Sequence[_Asked]) -> None:
        for asked in batch:
            if asked.error is not None:
                self.failures += 1
                logger.error(f"{asked.task} {asked.doc_id} failed: {asked.error}")
        if self.looks is None:
            return
        self.looks.parent.mkdir(parents=True, exist_ok=True)
        with self.looks.open("a", encoding="utf-8") as file:
            for asked in batch:
                line = {
                    "task": asked.task,
                    "doc_id": asked.doc_id,
                    "error": asked.error,
                    **(asked.look or {}),
                }
                file.write(json.dumps(line) + "\n")


def _cut(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of the task's stop strings."""
    for stop in filter(None, stops):
        text = text.split(stop, 1)[0]
    return text


def _one_of(name: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise UsageError(
            f"--model_args {name} is one of {', '.join(choices)}, not '{value}'.{nearest(value, choices)}"
        )
    return value
