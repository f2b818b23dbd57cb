"""A judge on this machine: any text model of transformers, asked greedily, in left-padded batches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

from viscot_core.conversation import split_thought
from viscot_core.deadline import TEMPLATE_SECONDS, call_within
from viscot_core.errors import EngineError, UsageError
from viscot_core.score.base import Done, JudgeOptions
from viscot_core.score.prompt import JudgePrompt, PromptBuilder, cut_off
from viscot_core.score.verdicts import JudgeIdentity, Outcome, Pair

MAX_NEW_TOKENS = 64


class LocalJudge:
    """``tokenizer`` and ``model`` are transformers'; ``name`` says where they came from.

    A model with a chat template gets system and user message through it; any other one plain text ending in
    ``Score:``. The identity names the weights by content, so that a folder that changed is another judge.
    """

    def __init__(
        self,
        name: str,
        tokenizer: Any,
        model: Any,
        *,
        prompt: PromptBuilder | None = None,
        batch_size: int = 8,
        max_tokens: int = MAX_NEW_TOKENS,
    ) -> None:
        self.prompt = prompt or PromptBuilder()
        self.batch_size, self.max_tokens = batch_size, max_tokens
        self._tokenizer, self._model = tokenizer, model
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        # Generation goes on at the right end, so padding may stand only before a prompt.
        tokenizer.padding_side = "left"
        self.identity = JudgeIdentity.now(
            f"hf:{name}", f"{name}@{weights_digest(model)}", self.prompt.sha256, 0.0
        )

    @classmethod
    def from_options(cls, name: str, options: JudgeOptions) -> Self:
        """Load a folder or a model of the hub. Raises UsageError where there is none of that name."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        device = options.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            # Code that comes with a model is never run. Said in so many words: unset, transformers asks.
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(name, dtype="auto", trust_remote_code=False)
            model = model.to(device).eval()
        except (OSError, ValueError) as error:
            first = str(error).strip().splitlines()[0][:200]
            raise UsageError(
                f"'{name}' does not load as a text model ({first}); give a folder or a hub name."
            ) from error
        prompt = PromptBuilder(options.style, options.json_mode)
        shown = Path(name).name if Path(name).is_dir() else name
        most = options.max_tokens or MAX_NEW_TOKENS
        return cls(shown, tokenizer, model, prompt=prompt, batch_size=options.batch_size, max_tokens=most)

    def judge(self, pairs: Sequence[Pair], done: Done) -> None:
        """Judge all pairs, longest prompts first so that batches waste little padding."""
        prompts = [(pair, self._render(self.prompt.build(pair))) for pair in pairs]
        prompts.sort(key=lambda item: -len(item[1]))
        for start in range(0, len(prompts), self.batch_size):
            batch = prompts[start : start + self.batch_size]
            for (pair, _), outcome in zip(batch, self._outcomes([text for _, text in batch]), strict=True):
                done(pair, outcome)

    def _render(self, prompt: JudgePrompt) -> str:
        if not self._tokenizer.chat_template:
            return f"{prompt.system}{prompt.user}Score:"
        messages = [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}]
        template = partial(
            self._tokenizer.apply_chat_template, messages, tokenize=False, add_generation_prompt=True
        )
        try:
            return str(call_within(TEMPLATE_SECONDS, template))
        except TimeoutError as error:
            raise EngineError(
                f"{self.identity.name}: its chat template does not end; take another."
            ) from error

    def _outcomes(self, texts: list[str]) -> list[Outcome]:
        import torch

        # A chat template writes its own start token; plain text gets the tokenizer's.
        special = not self._tokenizer.chat_template
        inputs = self._tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=special)
        inputs = {
            k: v.to(self._model.device) for k, v in inputs.items() if k in ("input_ids", "attention_mask")
        }
        try:
            with torch.inference_mode():
                output = self._model.generate(
                    **inputs,
                    max_new_tokens=self.max_tokens,
                    do_sample=False,
                    pad_token_id=self._tokenizer.pad_token_id,
                )
        except torch.cuda.OutOfMemoryError as error:
            raise EngineError("The judge ran out of GPU memory; try a smaller --batch-size.") from error
        # [batch, prompt + new] -> [batch, new]: all prompts of a batch end in the same column.
        new = output[:, inputs["input_ids"].shape[1] :]
        return [self._read(ids.tolist()) for ids in new]

    def _read(self, ids: list[int]) -> Outcome:
        reply = self._tokenizer.decode(ids, skip_special_tokens=True)
        ends = {self._tokenizer.eos_token_id, self._tokenizer.pad_token_id}
        stops = self._model.generation_config.eos_token_id
        ends |= set(stops) if isinstance(stops, list) else {stops}
        if len(ids) >= self.max_tokens and not ends & set(ids):
            # A model that never stops may have been cut in the middle of a number: take whole lines only.
            whole, _, _ = reply.rpartition("\n")
            if not split_thought(whole).text.strip():
                return cut_off(reply)
            reply = whole
        return self.prompt.read(reply)


def weights_digest(model: Any) -> str:
    """12 hex digits of the weights: shapes, and the first and last values of every tensor."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        ends = [*flat[:64].float().tolist(), *flat[-64:].float().tolist()]
        digest.update(f"{name} {tuple(tensor.shape)} {ends}".encode())
    return digest.hexdigest()[:12]
