"""vLLM on this machine: paged KV cache, prefix caching, tensor parallel, which viscot does not write itself.

Prompts are rendered here, as token ids, and images come as the pixels that the family makes, so that vLLM
reads exactly what the local engine reads: it gives the prompt's ids back, and a prompt that it has read
otherwise fails. What is said is cut, counted and streamed by the local engine's ``DecodeState``.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viscot_core.boxes.formats import Resize
from viscot_core.conversation import Message
from viscot_core.engines.base import GREEDY, Generation, Request, Sampling, Traits, draws
from viscot_core.engines.transformers.decode_state import DecodeState, begun
from viscot_core.engines.vllm.order import ImageOrder
from viscot_core.engines.vllm.process import VllmProcess, version_of
from viscot_core.engines.vllm.traits import TOGETHER, traits
from viscot_core.errors import UsageError, ViscotError
from viscot_core.families.base import Processor
from viscot_core.images.view import View

if TYPE_CHECKING:
    from viscot_core.engines.open import EngineOptions
    from viscot_core.families.checkpoint import Checkpoint


@dataclass(slots=True)
class _Prompt:
    """A prompt for vLLM: ``ids`` with one id an image, ``rendered`` as the model is to read it."""

    number: int
    state: DecodeState
    ids: list[int]
    rendered: list[int]
    images: tuple[View, ...]
    done: Future[Generation] = field(default_factory=Future)


class VllmEngine:
    """An ``Engine`` over a vLLM process. Safe to call from several threads: vLLM batches what is there.

    ``folder`` is the checkpoint as vLLM reads it. ``together`` bounds the prompts in work at the same time.
    ``counts`` lets vLLM keep counters (`counters`), for measuring.

    Raises:
        ViscotError: vLLM is not there or cannot start; says why.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        folder: Path,
        weights: str,
        *,
        python: str | None = None,
        device: str = "auto",
        dtype: str | None = None,
        cpu_dtype: str = "float32",
        tensor_parallel: int = 1,
        together: int = TOGETHER,
        sampling: Sampling | None = None,
        resize: Resize | None = None,
        thinking: bool = False,
        counts: bool = False,
    ) -> None:
        python = python or sys.executable
        self.version = version_of(python)
        self.name = checkpoint.manifest.name
        self.processor: Processor = checkpoint.family.processor(checkpoint, thinking=thinking)
        self.sampling = sampling or GREEDY
        self._weights, self._resize, self._together = weights, resize, together
        self._tensor_parallel = tensor_parallel
        self._python = python
        self._config: dict[str, Any] = {
            "model": str(folder),
            "device": device,
            "dtype": dtype,
            "cpu_dtype": cpu_dtype,
            "tensor_parallel": tensor_parallel,
            "together": together,
            "never": self.processor.suppress_tokens,
            "stop_ids": sorted(self.processor.stop_ids),
            "counts": counts,
        }
        self._lock, self._restarting = threading.Lock(), threading.Lock()
        self._numbers = itertools.count()
        self._process = self._start()

    def _start(self) -> VllmProcess:
        self._order = ImageOrder()
        self._open: dict[int, _Prompt] = {}
        self._counted: Future[dict[str, float]] = Future()
        return VllmProcess(self._python, self._config, self._on_message, self.name)

    @property
    def identity(self) -> dict[str, str]:
        """All that can change the text, as the local engine's; vLLM's version and ranks beside it."""
        about = self._process.about
        return {
            "engine": "vllm",
            "vllm": self.version,
            "model": self.name,
            "weights": self._weights,
            "dtype": str(about["dtype"]),
            "device": str(about["device"]),
            "tensor_parallel": str(self._tensor_parallel),
            **self.processor.identity,
            "sampling": self.sampling.identity,
        }

    @property
    def traits(self) -> Traits:
        """Asked by many at once: a question that is answered makes room for the next without waiting."""
        return traits(self._together, deterministic=self.sampling.greedy)

    def prompt(self, messages: Sequence[Message]) -> str:
        """The text that the model continues, images as ``<image>``."""
        return self.processor.prompt(messages)

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """One generation per request, in order; a prompt that vLLM cannot take fails alone.

        Raises:
            EngineError: vLLM has gone.
        """
        prompts = list(map(self._prompt, requests, draws(requests, self.sampling)))
        asked = [prompt for prompt in prompts if isinstance(prompt, _Prompt)]
        try:
            for prompt in asked:
                self._add(prompt)
            return [each.done.result() if isinstance(each, _Prompt) else each for each in prompts]
        except BaseException:
            # Ctrl-C: nobody waits for the rest.
            for prompt in asked:
                self._end(prompt.number, None)
            raise

    def reset(self) -> None:
        """Forget features and prefixes; a vLLM that has gone is started again."""
        with self._restarting:
            if self._process.alive:
                self._process.send({"reset": True})
                return
            # Not under the lock: it waits for vLLM's thread, and that may be waiting for the lock.
            self._process.close()
            with self._lock:
                self._process = self._start()

    def counters(self) -> dict[str, float]:
        """vLLM's own counters, where the engine was made with ``counts``."""
        self._counted = Future()
        self._process.send({"count": True})
        return self._counted.result()

    def close(self) -> None:
        """End vLLM."""
        self._process.close()

    def _prompt(self, request: Request, sampling: Sampling) -> _Prompt | Generation:
        """The request as tokens, or why it cannot run."""
        context = min(self.processor.context, int(self._process.about["context"]))
        found = begun(self.processor, request, self._resize, context, sampling)
        if isinstance(found, Generation):
            return found
        ids = self.processor.slot_ids(request.messages)
        shown = tuple(View(self.processor.shown(view.image), view.key) for view in found.prompt.images)
        return _Prompt(next(self._numbers), found.state, ids, found.ids, shown)

    def _add(self, prompt: _Prompt) -> None:
        with self._lock:
            if not self._process.alive:
                raise self._process.death()
            self._open[prompt.number] = prompt
            self._send(self._order.add(prompt.number, {view.key for view in prompt.images}))

    def _send(self, numbers: Sequence[int]) -> None:
        """Give vLLM prompts that may begin; called with the lock."""
        for number in numbers:
            prompt = self._open[number]
            message = {
                "prompt": number,
                "ids": prompt.ids,
                "images": [[view.key, view.image.size] for view in prompt.images],
                "top": prompt.state.request.top_logprobs,
                "sampling": {"max_tokens": prompt.state.limit, **_sampling(prompt.state)},
            }
            self._process.send(message, [view.image.tobytes() for view in prompt.images])

    def _on_message(self, message: dict[str, Any] | None) -> None:
        """What vLLM said; called from its thread."""
        if message is None:
            self._lose()
        elif "said" in message:
            for said in message["said"]:
                try:
                    self._said(**said)
                except Exception as error:  # noqa: BLE001 - of its listener: told to the one who asks
                    self._end(said["number"], error)
        elif "refused" in message:
            reason = f"vLLM does not take this prompt ({message['reason']})"
            self._end(message["refused"], Generation("", 0, False, reason), heard=True)
        else:
            self._counted.set_result(message["counted"])

    def _said(
        self,
        number: int,
        tokens: list[int],
        reason: str | None,
        logprobs: list[float] | None,
        prompt_ids: list[int] | None,
        top: list[tuple[int, float]],
    ) -> None:
        """New tokens of a prompt; with the first of them, the prompt's own ids and the likeliest ones."""
        prompt = self._open.get(number)
        if prompt is None:  # it has ended here, and vLLM was told too late
            return
        if prompt_ids is not None:
            if prompt_ids != prompt.rendered:
                count = len(prompt.rendered)
                told = f"vLLM reads {len(prompt_ids)} tokens, and not the {count} that viscot writes"
                self._end(number, Generation("", 0, False, told), heard=reason is not None)
                return
            with self._lock:
                self._send(self._order.read(number))
            prompt.state.on_first([token for token, _ in top], [value for _, value in top])
        for place, token in enumerate(tokens):
            prompt.state.on_token(token, logprobs[place] if logprobs else None)
        if reason not in (None, "stop", "length"):
            self._end(number, Generation("", 0, False, f"vLLM ended this prompt ({reason})"), heard=True)
        elif reason is not None or not prompt.state.open:
            self._end(number, prompt.state.generation(), heard=reason is not None)

    def _end(self, number: int, outcome: Generation | Exception | None, *, heard: bool = False) -> None:
        """Close a prompt with what it came to; vLLM is told where it has not said so itself (``heard``)."""
        with self._lock:
            prompt = self._open.pop(number, None)
            if prompt is None:
                return
            following = self._order.end(number)
            with suppress(ViscotError):  # vLLM has gone: those that follow hear it from `_lose`
                if not heard:
                    self._process.send({"stop": number})
                self._send(following)
        if isinstance(outcome, Generation):
            prompt.done.set_result(outcome)
        elif outcome is not None:
            prompt.done.set_exception(outcome)

    def _lose(self) -> None:
        """vLLM has gone: whoever waits is told."""
        with self._lock:
            lost, self._open = self._open, {}
        for prompt in lost.values():
            prompt.done.set_exception(self._process.death())


def _sampling(state: DecodeState) -> dict[str, Any]:
    """vLLM's names of how tokens are chosen and what is told of them."""
    chosen, request = state.sampling, state.request
    named: dict[str, Any] = {"temperature": 0.0}
    if not chosen.greedy:
        named = {"temperature": chosen.temperature, "top_p": chosen.top_p, "seed": chosen.seed}
    if request.logprobs or request.top_logprobs:
        named["logprobs"] = request.top_logprobs
    return named


def open_vllm(options: EngineOptions, sampling: Sampling | None, resize: Resize | None) -> VllmEngine:
    """The engine of ``--engine vllm``; what vLLM cannot read is written once into the cache as it can.

    Raises:
        UsageError: an option that vLLM has no part in.
        CheckpointError: unknown or damaged.
        EngineError: as ``VllmEngine`` says.
    """
    from viscot_core.models.checkpoint import open_checkpoint
    from viscot_core.models.exported import exported
    from viscot_core.models.load import DTYPES, choose_dtype
    from viscot_core.models.zoo import resolve_answering
    from viscot_core.tensors import hash_files

    not_for_vllm = {
        "--load-in": options.load_in,
        "--attn": None if options.attn == "sdpa" else options.attn,
        "--min-pixels": options.min_pixels,
        "--max-pixels": options.max_pixels,
    }
    if named := [name for name, value in not_for_vllm.items() if value is not None]:
        raise UsageError(f"{' and '.join(named)} cannot be used with --engine vllm; leave it out.")
    python = options.python or sys.executable
    version_of(python)  # before the weights are read and written
    checkpoint = open_checkpoint(resolve_answering(options.model), options.base)
    checkpoint.require_whole()
    weights = hash_files(checkpoint.files)
    cpu_dtype = str(choose_dtype(options.dtype, "cpu", checkpoint)).removeprefix("torch.")
    if options.tensor_parallel < 1:
        raise UsageError(f"--tensor-parallel is 1 or more, not {options.tensor_parallel}.")
    return VllmEngine(
        checkpoint,
        exported(checkpoint, weights),
        weights,
        python=python,
        device=options.device,
        dtype=None if options.dtype == "auto" else DTYPES.get(options.dtype, options.dtype),
        cpu_dtype=cpu_dtype,
        tensor_parallel=options.tensor_parallel,
        together=options.batch_size or TOGETHER,
        sampling=sampling,
        resize=resize,
        thinking=bool(options.thinking),
    )
