"""The local engine: transformers' model on this machine, batched, greedy by default.

Batches are left-padded and sorted by length; a batched answer equals the single one token for token (in
float32; bf16 kernels may round differently by batch shape). Images are encoded once per process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from viscot_core.conversation import Message
from viscot_core.engines.base import Generation, Request, Traits
from viscot_core.engines.transformers.batches import Room, fitting_batch, longest_prompt
from viscot_core.engines.transformers.decode_state import Prompt, Speech
from viscot_core.engines.transformers.embedding import Embedder
from viscot_core.engines.transformers.features import FeatureCache
from viscot_core.errors import EngineError, UsageError
from viscot_core.families.llava.template import TEMPLATES, prompt_text, render
from viscot_core.models.load import LoadedModel

if TYPE_CHECKING:
    import torch

    from viscot_core.engines.transformers.prefix import PrefixDecoder


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen: greedy at temperature 0, else from the ``top_p`` nucleus with ``seed``."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf or not 0 < self.top_p <= 1:
            raise UsageError(
                f"--temperature is 0 or more and --top-p in (0, 1]; got {self.temperature} and {self.top_p}."
            )
        if not -(2**63) <= self.seed < 2**63:
            raise UsageError(f"--seed {self.seed} is beyond 64 bits; give a smaller one.")


class LocalEngine:
    """An ``Engine`` over a loaded model. ``batch_size`` bounds the prompts that run together (0: what fits).

    ``reuse`` keeps what was computed of an image for its next prompt (``prefix.py``); the text is the same.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        batch_size: int = 8,
        sampling: Sampling | None = None,
        reuse: bool = True,
    ) -> None:
        if batch_size < 0:
            raise UsageError(f"--batch-size is at least 1, or auto, not {batch_size}.")
        self.loaded = loaded
        self.model = loaded.model
        self.tokens = loaded.tokens
        self._finds_size = batch_size == 0
        self.batch_size = batch_size or fitting_batch(self.model)
        self.sampling = sampling or Sampling()
        self.name = loaded.manifest.name
        self.template = TEMPLATES[loaded.manifest.template]
        self.vision = FeatureCache(self.model, loaded.manifest.image_side)
        self._embedder = Embedder(self.model, self.tokens, self.vision)
        self.prefix = self._prefix_decoder() if reuse else None
        self._context = int(self.model.config.text_config.max_position_embeddings)

    @property
    def identity(self) -> dict[str, str]:
        """All that can change the text: weights, numbers' precision, device, kernels, tokens, sampling."""
        chosen = self.sampling
        greedy = (
            "greedy"
            if chosen.temperature == 0
            else f"t={chosen.temperature},p={chosen.top_p},s={chosen.seed}"
        )
        return {
            "engine": "local",
            "model": self.name,
            "weights": self.loaded.weights_hash,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "load_in": self.loaded.load_in or "none",
            "device": self.model.device.type,
            "attention": str(self.model.config._attn_implementation),
            "turn_tokens": self.tokens.turn_tokens,
            "template": self.template.name,
            "sampling": greedy,
        }

    @property
    def traits(self) -> Traits:
        """Batches of its own size; prompts about one image cost less together."""
        greedy = self.sampling.temperature == 0
        return Traits(self.batch_size, shares_images=self.prefix is not None, deterministic=greedy)

    def prompt(self, messages: Sequence[Message]) -> str:
        """The text that the model continues, images as ``<image>``."""
        return prompt_text(messages, self.template)

    def reset(self) -> None:
        """Forget features and prefixes: the weights have changed."""
        self.vision.clear()
        if self.prefix is not None:
            self.prefix.store.clear()

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """One generation per request, in order; a prompt that does not fit the context fails alone.

        Raises:
            EngineError: out of memory, with the flags to try.
        """
        prompts = [self._prompt(request) for request in requests]
        todo = [prompt for prompt in prompts if isinstance(prompt, Prompt)]
        while todo:
            try:
                self._decode(todo)
                break
            except EngineError:
                if not self._finds_size or self.batch_size == 1:
                    raise
                self.batch_size //= 2
                todo = [prompt for prompt in todo if prompt.speech.open]
                for prompt in todo:
                    prompt.speech.begin()
        return [each.speech.generation() if isinstance(each, Prompt) else each for each in prompts]

    def _prompt(self, request: Request) -> Prompt | Generation:
        """The request tokenized, or why it cannot run."""
        rendered = render(request.messages, self.template, generate=True)
        ids = self.tokens.encode(rendered).ids
        marks, views = rendered.n_images, len(request.images)
        if marks != views or ids.count(self.tokens.image_id) != views * self.tokens.image_tokens:
            return Generation("", 0, False, f"the prompt has {marks} <image> marks for {views} images")
        room = self._context - len(ids)
        if room < 1:
            error = f"the prompt's {len(ids)} tokens do not fit the model's context of {self._context}"
            return Generation("", 0, False, error)
        return Prompt(
            ids, request.images, Speech(self.tokens, request, min(request.max_new_tokens, room), len(ids))
        )

    def _decode(self, prompts: Sequence[Prompt]) -> None:
        """Let every prompt's speech come to its end; those that begin with an image share it."""
        import torch

        shared = [prompt for prompt in prompts if self.prefix is not None and self.prefix.fits(prompt)]
        plain = [prompt for prompt in prompts if self.prefix is None or not self.prefix.fits(prompt)]
        plain.sort(key=lambda prompt: len(prompt.ids), reverse=True)  # the largest first: it fails first
        with torch.inference_mode():
            if self.prefix is not None:
                with _memory_told(self.batch_size):
                    self.prefix.generate(shared, self._room())
            for start in range(0, len(plain), self.batch_size):
                self._run(plain[start : start + self.batch_size])

    def _prefix_decoder(self) -> PrefixDecoder | None:
        """What shares the image between prompts, where the model and the sampling allow it."""
        from viscot_core.engines.transformers.prefix import PrefixDecoder

        if self.sampling.temperature > 0 or not PrefixDecoder.supports(self.model):
            return None
        return PrefixDecoder(self.model, self.tokens, self._embedder, never=self._never())

    def _room(self) -> Room:
        """What may run together: so many prompts, or as many short ones as weigh as much."""
        tokens = self.batch_size * longest_prompt(self.model)
        return Room(self.batch_size, tokens if self._finds_size else None)

    def _run(self, prompts: Sequence[Prompt]) -> None:
        """Decode prompts the plain way, each as far as its speech is open."""
        import torch
        from transformers import StoppingCriteriaList

        def hear(ids: torch.Tensor, _: object) -> torch.Tensor:
            for prompt, token in zip(prompts, ids[:, -1].tolist(), strict=True):
                prompt.speech.add(token)
            return torch.tensor([not prompt.speech.open for prompt in prompts], device=ids.device)

        with _memory_told(len(prompts)):
            embeddings, real = self._embedder.embed([p.ids for p in prompts], [p.views for p in prompts])
            if self.sampling.temperature > 0:
                torch.manual_seed(self.sampling.seed)
            self.model.generate(
                inputs_embeds=embeddings,
                attention_mask=real.long(),
                generation_config=self._options(max(prompt.speech.limit for prompt in prompts)),
                stopping_criteria=StoppingCriteriaList([hear]),
            )

    def _options(self, most: int) -> Any:
        """How transformers decodes at most ``most`` tokens."""
        from transformers import GenerationConfig

        chosen = self.sampling
        sampled = (
            {"do_sample": True, "temperature": chosen.temperature, "top_p": chosen.top_p, "top_k": 0}
            if chosen.temperature > 0
            else {"do_sample": False}
        )
        return GenerationConfig(
            max_new_tokens=most,
            eos_token_id=self.tokens.eos_id,
            pad_token_id=self.tokens.pad_id,
            suppress_tokens=self._never(),
            **sampled,
        )

    def _never(self) -> list[int]:
        """Ids that are no words: the image's and the padding of the vocabulary."""
        rows = int(self.model.config.text_config.vocab_size)
        return sorted({self.tokens.image_id, *range(self.loaded.text_rows, rows)})


@contextmanager
def _memory_told(together: int) -> Iterator[None]:
    """Running out of memory becomes an error that names the flags to try."""
    import torch

    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise EngineError(
            f"Out of GPU memory with {together} prompts at once; try --batch-size 1, --load-in 4bit "
            "or 8bit, or --device cpu."
        ) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise EngineError("Out of memory; try --batch-size 1, --dtype bf16 or a smaller model.") from error
