"""transformers' models on this machine: batched, greedy by default, any family.

Batches are left-padded and sorted by length; a batched answer equals the single one token for token (in
float32; bf16 kernels may round differently by batch shape). What a family can reuse of an image is computed
once per process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cache
from threading import RLock
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

from viscot_core.boxes.formats import Resize
from viscot_core.conversation import Message
from viscot_core.engines.base import GREEDY, Generation, Request, Sampling, Traits, draws
from viscot_core.engines.transformers.batches import (
    MOST_ROWS,
    MOST_ROWS_GPU,
    RUN_ROWS,
    BatchBudget,
    fitting_batch,
)
from viscot_core.engines.transformers.decode_state import Decoding, begun
from viscot_core.engines.transformers.work import Work
from viscot_core.errors import OutOfMemory, UsageError
from viscot_core.families.inputs import PrefixInputs
from viscot_core.models.load import LoadedModel

if TYPE_CHECKING:
    from viscot_core.engines.transformers.fused import FusedKernels
    from viscot_core.engines.transformers.maps import AttentionMaps
    from viscot_core.engines.transformers.prefix import PrefixDecoder


# While a model decodes, its layers use another attention, and its caches are not made for two at once:
# whoever asks it waits for the one before.
_LOCKS: WeakKeyDictionary[Any, RLock] = WeakKeyDictionary()


def _lock_of(model: Any) -> RLock:
    return _LOCKS.setdefault(model, RLock())


@cache
def _survive_forks() -> None:
    """Let a forked child answer too: torch's threads and the holders of locks stay behind in its parent."""
    import torch

    def in_child() -> None:
        torch.set_num_threads(1)  # with more it would wait for those that it does not have
        _LOCKS.clear()

    os.register_at_fork(after_in_child=in_child)


class LocalEngine:
    """An ``Engine`` over a loaded model. ``batch_size`` bounds the prompts that run together (0: what fits).

    ``reuse`` keeps what was computed of an image for its next prompt (``prefix.py``), where the family allows
    it; the text is the same. ``resize`` gives the size an image is shown in, for models that name pixels.
    ``fused`` compiles small kernels of a 16-bit model on a GPU (``fused.py``): for who asks more than a few
    questions, as it takes seconds.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        batch_size: int = 8,
        sampling: Sampling | None = None,
        reuse: bool = True,
        resize: Resize | None = None,
        fused: bool = False,
    ) -> None:
        if batch_size < 0:
            raise UsageError(f"--batch-size is at least 1, or auto, not {batch_size}.")
        _survive_forks()
        self.loaded = loaded
        self.model = loaded.model
        self.processor = loaded.processor
        self._resize = resize
        self._finds_size = batch_size == 0
        # 0 starts with a guess, which `_generate` halves where memory runs out.
        self.batch_size = batch_size or fitting_batch(self.model, self.processor.typical_prompt)
        self.sampling = sampling or GREEDY
        self.name = loaded.manifest.name
        self.inputs = loaded.family.inputs(self.model, self.processor)
        training = loaded.family.training
        self._maps = self._attention_maps()
        self._work = Work(training.shape_of_config(self.model.config) if training is not None else None)
        self.prefix = self._prefix_decoder() if reuse else None
        self.fused: FusedKernels | None = None
        if fused:
            self._fuse()
        self._prefix_refused = self.prefix is not None and not self._prefix_is_exact()

    @property
    def identity(self) -> dict[str, str]:
        """All that can change the text: weights, numbers' precision, device, kernels, tokens, sampling."""
        return {
            "engine": "local",
            "model": self.name,
            "weights": self.loaded.weights_hash,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "load_in": self.loaded.load_in or "none",
            "device": self.model.device.type,
            "attention": str(self.model.config._attn_implementation),
            **self.processor.identity,
            "sampling": self.sampling.identity,
            # A model whose shared prefix did not pass the check at load says so; all others read it exactly.
            **({"prefix": "off"} if self._prefix_refused else {}),
            # They round elsewhere. Plain kernels have no key: all runs from before were made with them.
            **({"kernels": "fused"} if self.fused is not None else {}),
        }

    @property
    def traits(self) -> Traits:
        """Batches of its own size; prompts about one image cost less together."""
        return Traits(
            self.batch_size,
            shares_images=self.prefix is not None,
            deterministic=self.sampling.greedy,
            logprobs=True,
            samples=True,
            attention=self._maps.known,
            attention_layers=self._maps.layers,
        )

    def prompt(self, messages: Sequence[Message]) -> str:
        """The text that the model continues, images as ``<image>``."""
        return self.processor.prompt(messages)

    def reset(self) -> None:
        """Forget features and prefixes: the weights have changed."""
        with _lock_of(self.model):
            self.inputs.clear()
            if self.prefix is not None:
                self.prefix.clear()

    def least_seconds(self) -> float | None:
        """What the answers so far would have taken at this GPU's peak; None on a CPU, or if not known."""
        import torch

        on_gpu = self.model.device.type == "cuda"
        return self._work.least_seconds(torch.cuda.get_device_name(self.model.device)) if on_gpu else None

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """One generation per request, in order; a prompt that does not fit the context fails alone.

        Threads, and engines over one model, take turns.

        Raises:
            OutOfMemory: with the flags to try.
            EngineError: the model cannot answer what was asked.
        """
        with _lock_of(self.model):
            try:
                return self._generate(requests)
            finally:
                self.inputs.prefetch(())  # after an error: pixels that nobody takes

    def _generate(self, requests: Sequence[Request]) -> list[Generation]:
        prompts = list(map(self._prompt, requests, draws(requests, self.sampling)))
        todo = [prompt for prompt in prompts if isinstance(prompt, Decoding)]
        while todo:
            try:
                self._decode(todo)
                break
            except OutOfMemory:
                if not self._finds_size or self.batch_size == 1:
                    raise
                self.batch_size //= 2
                if self.prefix is not None and self.prefix.static is not None:
                    self.prefix.static.clear()  # its buffers and graphs were made for the larger batch
                # What is finished is kept; the rest starts again from its first token, and listeners hear it
                # again.
                todo = [prompt for prompt in todo if prompt.state.open]
                for prompt in todo:
                    prompt.state.reset()
        return [each.state.generation() if isinstance(each, Decoding) else each for each in prompts]

    def _prompt(self, request: Request, sampling: Sampling) -> Decoding | Generation:
        """The request as tokens, or why it cannot run."""
        prompt = begun(self.processor, request, self._resize, self.processor.context, sampling)
        if isinstance(prompt, Decoding) and request.attention is not None:
            return self._maps.checked(prompt)
        return prompt

    def _decode(self, prompts: Sequence[Decoding]) -> None:
        """Decode every prompt to its end; those that begin with an image share it."""
        import torch

        encoded = self.inputs.encoded
        looking = [prompt for prompt in prompts if prompt.state.request.attention is not None]
        self._maps.read(looking, self.batch_size, self._run)
        prompts = [prompt for prompt in prompts if prompt.state.request.attention is None]
        with torch.inference_mode(), self._faster():
            fitting = [self.prefix is not None and self.prefix.fits(prompt) for prompt in prompts]
            shared = [prompt for prompt, fits in zip(prompts, fitting, strict=True) if fits]
            plain = [prompt for prompt, fits in zip(prompts, fitting, strict=True) if not fits]
            plain.sort(key=lambda prompt: len(prompt.ids), reverse=True)  # the largest first: it fails first
            if self.prefix is not None:
                with _memory_errors(self.batch_size):
                    self.prefix.generate(shared, self._budget(), self._work)
            self.inputs.prefetch(view for prompt in plain for view in prompt.prompt.images)
            for start in range(0, len(plain), self.batch_size):
                self._run(plain[start : start + self.batch_size])
        self._work.add_images(self.inputs.encoded - encoded)
        self._work.add_prompts([*looking, *plain])

    def _faster(self) -> AbstractContextManager[None]:
        """What makes the model faster while it runs: fused kernels, or on a CPU other products."""
        from viscot_core.engines.transformers.prefill import fast_products

        return self.fused.active() if self.fused is not None else fast_products(self.model)

    def _fuse(self) -> None:
        """Compile kernels, unless the model would not gain or a few questions show that they do not work."""
        from viscot_core.engines.transformers.fused import FusedKernels, worth_fusing
        from viscot_core.engines.transformers.self_check import check_requests

        if not worth_fusing(self.model):
            return
        # Rows about one image, and a row alone. Of two tokens, one comes of the reading and one of a step,
        # which is not captured: a check reads numbers back.
        asked = [replace(each, max_new_tokens=2) for each in check_requests()[:3]]
        # Another engine over the model that answers now has changed its layers for as long.
        with _lock_of(self.model):
            fused, batch_size = FusedKernels(self.model), self.batch_size
            self.fused = fused if fused.parts else None
            if fused.parts and not fused.works(lambda: self.generate(asked)):
                self.fused = None
            self.batch_size = batch_size
        self.reset()
        self._work.clear()

    def _attention_maps(self) -> AttentionMaps:
        """What tells where prompts look."""
        from viscot_core.engines.transformers.maps import AttentionMaps

        return AttentionMaps(self.model, self.processor, self.loaded.family)

    def _prefix_decoder(self) -> PrefixDecoder | None:
        """What shares the image between prompts, where the family allows it for this model."""
        text = self.loaded.family.prefix_model(self.model)
        if text is None:
            return None
        from viscot_core.engines.transformers.prefix import PrefixDecoder

        suppressed = self.processor.suppress_tokens
        return PrefixDecoder(self.model, text, cast(PrefixInputs, self.inputs), suppress_tokens=suppressed)

    def _prefix_is_exact(self) -> bool:
        """Whether the model passes the check; where it does not, the plain way is all that is left."""
        if self.loaded.family.prefix_proven:
            return True
        from viscot_core.engines.transformers.self_check import agree

        decoder = self.prefix

        def plain(requests: Sequence[Request]) -> list[Generation]:
            self.prefix = None
            said = self.generate(requests)
            self.prefix = decoder
            return said

        exact = agree(plain, self.generate)
        if not exact:
            self.prefix = None
        return exact

    def _budget(self) -> BatchBudget:
        """What may run together: so many prompts, or as many short ones as weigh as much."""
        tokens = self.batch_size * self.processor.typical_prompt
        on_gpu = self.model.device.type == "cuda"
        most = max(MOST_ROWS_GPU, RUN_ROWS * self.batch_size) if on_gpu else MOST_ROWS
        return BatchBudget(self.batch_size, tokens if self._finds_size else None, most)

    def _run(self, prompts: Sequence[Decoding], *before: Any) -> None:
        """Decode prompts the plain way, each until its text is over; ``before`` process logits first."""
        from transformers import LogitsProcessorList, StoppingCriteriaList

        from viscot_core.engines.transformers.plain import PlainSteps

        with _memory_errors(len(prompts)):
            inputs = self.inputs.batch([prompt.prompt for prompt in prompts])
            states = [prompt.state for prompt in prompts]
            steps = PlainSteps(states, self.processor.suppress_tokens, self.model.device)
            self.model.generate(
                **inputs,
                generation_config=self._options(max(state.limit for state in states)),
                logits_processor=LogitsProcessorList([*before, steps.choose]),
                stopping_criteria=StoppingCriteriaList([steps.tell]),
            )

    def _options(self, most: int) -> Any:
        """How transformers decodes at most ``most`` tokens; `PlainSteps` chooses them.

        Every field that changes a text is set: transformers fills what is unset from the checkpoint's own
        ``generation_config.json``.
        """
        from transformers import GenerationConfig

        return GenerationConfig(
            max_new_tokens=most,
            eos_token_id=sorted(self.processor.stop_ids),
            pad_token_id=self.processor.pad_id,
            # Empty, not unset: the steps forbid ids themselves, after they have read the probabilities.
            suppress_tokens=[],
            repetition_penalty=1.0,
            do_sample=False,
        )


@contextmanager
def _memory_errors(together: int) -> Iterator[None]:
    """Running out of memory becomes an error that names the flags to try."""
    import torch

    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise OutOfMemory(
            f"Out of GPU memory with {together} prompts at once; try --batch-size 1, --load-in 4bit "
            "or 8bit, or --device cpu."
        ) from error
    except RuntimeError as error:
        # torch's CPU allocator raises a plain RuntimeError; only its words tell it from others.
        if "can't allocate memory" not in str(error):
            raise
        raise OutOfMemory("Out of memory; try --batch-size 1, --dtype bf16 or a smaller model.") from error
