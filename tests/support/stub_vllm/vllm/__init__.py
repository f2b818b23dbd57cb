"""Stands in for vLLM in its own process: reads prompts as vLLM does, and says what ``STUB_VLLM`` tells.

``STUB_VLLM`` is JSON: {"says": ids, "fails": words of the loading, "dies_at": step, "reads": "otherwise",
"device": what it is built for, "forks": it has a process of its own}.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import AutoImageProcessor

from vllm.sampling_params import SamplingParams

__all__ = ["LLM", "SamplingParams"]
TOLD: dict[str, Any] = json.loads(os.environ.get("STUB_VLLM", "{}"))


class _Engine:
    """A token of each prompt a step; an image is as many ids as the model's tower gives features."""

    def __init__(self, model: str, dtype: str) -> None:
        config = json.loads((Path(model) / "config.json").read_text())
        vision = config["vision_config"]
        self.image_id = int(config.get("image_token_id", config.get("image_token_index", -1)))
        self.image_tokens = (int(vision["image_size"]) // int(vision["patch_size"])) ** 2
        self.model_config = SimpleNamespace(dtype=f"torch.{dtype}", max_model_len=512)
        self.open: dict[str, dict[str, Any]] = {}
        self.steps = 0
        self.most = 0
        self.encoded: set[str] = set()
        self.stopped = 0

    def add_request(self, name: str, prompt: dict[str, Any], params: SamplingParams) -> None:
        images = prompt.get("multi_modal_data", {}).get("image", [])
        keys = prompt.get("multi_modal_uuids", {}).get("image", [])
        ids: list[int] = []
        for token in prompt["prompt_token_ids"]:
            ids += [token] * self.image_tokens if token == self.image_id else [token]
        if len(images) != prompt["prompt_token_ids"].count(self.image_id):
            raise ValueError("images and placeholders differ")
        if TOLD.get("reads") == "otherwise":
            ids = ids[1:]
        self.open[name] = {"ids": ids, "keys": keys, "said": 0, "limit": params.max_tokens}

    def step(self) -> list[Any]:
        self.steps += 1
        if self.steps == TOLD.get("dies_at"):
            raise RuntimeError("the engine core died")
        time.sleep(0.005)
        says = TOLD.get("says", [])
        fresh = [key for one in self.open.values() if not one["said"] for key in one["keys"]]
        # What several prompts of one step show for the first time is encoded several times.
        self.most = max([self.most, *(fresh.count(key) for key in fresh if key not in self.encoded)])
        self.encoded.update(fresh)
        out = []
        for name, one in list(self.open.items()):
            token = says[one["said"] % len(says)]
            one["said"] += 1
            over = one["said"] >= one["limit"]
            told = SimpleNamespace(token_ids=[token], finish_reason="length" if over else None, logprobs=None)
            out.append(
                SimpleNamespace(
                    request_id=name, outputs=[told], prompt_token_ids=one["ids"], num_cached_tokens=0
                )
            )
            if over:
                del self.open[name]
        return out

    def has_unfinished_requests(self) -> bool:
        return bool(self.open)

    def abort_request(self, names: list[str]) -> None:
        for name in names:
            self.stopped += self.open.pop(name, None) is not None

    def get_metrics(self) -> list[Any]:
        told = {"most": self.most, "stopped": self.stopped, "open": len(self.open)}
        return [SimpleNamespace(name=name, value=value) for name, value in told.items()]

    def reset_mm_cache(self) -> None:
        self.encoded.clear()

    def reset_prefix_cache(self) -> None: ...

    def reset_encoder_cache(self) -> None: ...


class LLM:
    """Takes the options that viscot gives."""

    def __init__(self, *, model: str, dtype: str, **_: Any) -> None:
        if "fails" in TOLD:
            raise ValueError(TOLD["fails"])
        if TOLD.get("forks") and os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        # As vLLM, which loads its processor after it has been told the model.
        if AutoImageProcessor.from_pretrained(model, use_fast=True).get("backend") != "pil":
            raise ValueError("images would not have Pillow's pixels")
        self.llm_engine = _Engine(model, dtype)
