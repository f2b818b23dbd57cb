"""``lmms-eval --model viscot``: any of viscot's engines, directly or through the two-turn chain.

    python -m lmms_eval --model viscot --model_args pretrained=VisCoT-7b-336,strategy=cot --tasks pope ...

Imported by lmms-eval alone, through the entry point; nothing of viscot imports it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from loguru import logger
from tqdm import tqdm

from viscot_core import rollout
from viscot_core.boxes.geometry import CropPolicy
from viscot_core.conversation import IMAGE
from viscot_core.engines.base import Engine
from viscot_core.engines.open import EngineOptions, codec_for, known_codec, open_engine
from viscot_core.errors import EngineError, ImageError, check_choice
from viscot_core.images.view import View, view_of
from viscot_core.policies.base import Answer, Policy, Question
from viscot_core.policies.direct import Direct
from viscot_core.policies.two_turn import TwoTurn
from viscot_core.policies.wording import PROTOCOLS
from viscot_core.tasks.base import wording_of

OURS = ("cot", "direct")
"""The strategies that need no annotated box, and so work on any task."""
LONGEST = 1024
"""New tokens where a task names no limit, as lmms-eval's own classes have it."""


@dataclass
class _Asked:
    """One request of lmms-eval: its question and images, then its answer and where the model looked."""

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
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        thinking: bool | None = None,
        base: str | None = None,
        batch_size: int | str = 8,
        max_batch_size: int | str | None = None,
    ) -> None:
        super().__init__()
        self.strategy = check_choice("--model_args strategy", strategy, OURS)
        policies = [policy.value for policy in CropPolicy]
        self.crop_policy = CropPolicy(check_choice("--model_args crop_policy", crop_policy, policies))
        self.box_tokens = int(box_tokens)
        self.batch_size = int(batch_size)
        options = EngineOptions(
            pretrained,
            device,
            dtype,
            load_in,
            attn,
            self.batch_size,
            box_format,
            min_pixels=min_pixels,
            max_pixels=max_pixels,
            thinking=thinking,
            base=base,
        )
        check_choice("--model_args protocol", protocol, PROTOCOLS)
        codec = known_codec(options) if self.strategy == "direct" else codec_for(options)
        self.wording = wording_of({"protocol": protocol, "box_format": codec.name if codec else None})
        self.engine: Engine = open_engine(options, codec=codec, fused=True)
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
        raise EngineError("viscot can only answer tasks of the type generate_until; choose other --tasks.")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> NoReturn:
        """Not offered, as ``loglikelihood``."""
        self.loglikelihood(requests)

    def _open(self, request: Instance) -> _Asked:
        text, options, doc_to_visual, doc_id, task, split = request.args
        if options.get("do_sample") and options.get("temperature"):
            raise EngineError(f"The task {task} asks for sampled answers; viscot decodes greedily only.")
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
            # One unreadable image fails its own request, not the task.
            images = doc_to_visual(self.task_dict[task][split][doc_id]) or []
            asked.views = tuple(view_of(image.convert("RGB")) for image in images)
        except ImageError as error:
            asked.error = str(error)
        return asked

    def _answer(self, batch: Sequence[_Asked]) -> None:
        ready = [asked for asked in batch if asked.error is None]
        questions = [
            Question(asked.text, asked.views, max_new_tokens=asked.max_new_tokens) for asked in ready
        ]
        policies = [self._policy(asked) for asked in ready]
        answers = rollout.run(policies, self.engine, questions)
        for asked, answer in zip(ready, answers, strict=True):
            asked.error, asked.said = answer.error, _cut(answer.text, asked.until)
            asked.look = {**_look_facts(answer), "seconds": answer.seconds}

    def _policy(self, asked: _Asked) -> Policy:
        """Two turns where there is exactly one image to look at again."""
        if self.strategy == "cot" and len(asked.views) == 1:
            return TwoTurn(self.wording, self.crop_policy, box_tokens=self.box_tokens)
        return Direct(self.wording)

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


def _look_facts(answer: Answer) -> dict[str, Any]:
    """The region of an answer, as a line of the looks file has it; nothing where none was named."""
    look = answer.look
    if look is None:
        return {}
    return {
        "box_text": look.text,
        "box_status": look.status.value if look.status else None,
        "box": look.box.coords,
        "crop": look.crop,
        "size": look.size,
    }


def _cut(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of the task's stop strings."""
    for stop in filter(None, stops):
        text = text.split(stop, 1)[0]
    return text
