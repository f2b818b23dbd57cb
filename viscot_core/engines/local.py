"""The local engine: transformers' model on this machine, batched, greedy by default.

Batches are left-padded and sorted by length; a batched answer equals the single one token for token (in
float32; bf16 kernels may round differently by batch shape). Pictures are encoded once per process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from viscot_core.engines.base import Generation, Request
from viscot_core.engines.vision import FeatureCache
from viscot_core.errors import EngineError, UsageError
from viscot_core.models.load import LoadedModel
from viscot_core.prompts import TEMPLATES

if TYPE_CHECKING:
    import torch

    from viscot_core.engines.prefix import PrefixDecoder, Room


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen: greedy at temperature 0, else from the ``top_p`` nucleus with ``seed``."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise UsageError(
                f"--temperature is 0 or more and --top-p in (0, 1]; got {self.temperature} and {self.top_p}."
            )


@dataclass(frozen=True, slots=True)
class _Prompt:
    """One request tokenized; ``number`` is its place in the caller's list."""

    number: int
    ids: list[int]
    request: Request


class LocalEngine:
    """An ``Engine`` over a loaded model. ``batch_size`` bounds the prompts that run together (0: what fits).

    ``reuse`` keeps what was computed of a picture for its next prompt (``prefix.py``); the text is the same.
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

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """One generation per request, in order; a prompt that does not fit the context fails alone.

        Raises:
            EngineError: out of memory, with the flags to try.
        """
        while True:
            try:
                return self._generate(requests)
            except EngineError:
                if not self._finds_size or self.batch_size == 1:
                    raise
                self.batch_size //= 2

    def _generate(self, requests: Sequence[Request]) -> list[Generation]:
        import torch

        results: list[Generation | None] = [None] * len(requests)
        prompts: list[_Prompt] = []
        for number, request in enumerate(requests):
            prompt = _Prompt(number, self.tokens.encode(request.rendered).ids, request)
            error = self._unfit(prompt)
            if error is None:
                prompts.append(prompt)
            else:
                results[number] = Generation("", 0, False, error)
        prompts.sort(key=lambda prompt: len(prompt.ids), reverse=True)  # the largest first: it fails first
        with torch.inference_mode():
            prompts = self._with_prefix(prompts, results)
            for start in range(0, len(prompts), self.batch_size):
                group = prompts[start : start + self.batch_size]
                for prompt, new in zip(group, self._run(group), strict=True):
                    results[prompt.number] = self._generation(new, prompt.request.max_new_tokens)
        return [result for result in results if result is not None]

    def _prefix_decoder(self) -> PrefixDecoder | None:
        """What shares the picture between prompts, where the model and the sampling allow it."""
        from viscot_core.engines.prefix import PrefixDecoder

        if self.sampling.temperature > 0 or not PrefixDecoder.supports(self.model):
            return None
        return PrefixDecoder(self.model, self.tokens, self.vision, never=self._never())

    def _room(self) -> Room:
        """What may run together: so many prompts, or as many short ones as weigh as much."""
        from viscot_core.engines.prefix import Room

        tokens = self.batch_size * longest_prompt(self.model)
        return Room(self.batch_size, tokens if self._finds_size else None)

    def _with_prefix(self, prompts: list[_Prompt], results: list[Generation | None]) -> list[_Prompt]:
        """Do the prompts that begin with a picture, sharing it; gives back the others."""
        from viscot_core.engines.prefix import Prompt

        if self.prefix is None:
            return prompts
        limits = [prompt.request.max_new_tokens for prompt in prompts]
        ready = [Prompt(p.ids, p.request.views, limit) for p, limit in zip(prompts, limits, strict=True)]
        mine = [number for number, each in enumerate(ready) if self.prefix.fits(each)]
        with _memory_told(self.batch_size):
            said = self.prefix.generate([ready[number] for number in mine], self._room())
        for number, new in zip(mine, said, strict=True):
            results[prompts[number].number] = self._generation(new, limits[number])
        return [prompt for number, prompt in enumerate(prompts) if number not in set(mine)]

    def _unfit(self, prompt: _Prompt) -> str | None:
        """Why a prompt cannot run, or None."""
        request = prompt.request
        marks, views = request.rendered.n_images, len(request.views)
        if marks != views or prompt.ids.count(self.tokens.image_id) != views * self.tokens.image_tokens:
            return f"the prompt has {marks} <image> marks for {views} pictures"
        room = self._context - len(prompt.ids)
        if room < 1:
            return f"the prompt's {len(prompt.ids)} tokens do not fit the model's context of {self._context}"
        return None

    def _run(self, prompts: Sequence[_Prompt]) -> list[list[int]]:
        """New token ids of each prompt, up to and without the end token and what follows it."""
        import torch

        with _memory_told(len(prompts)):
            embeddings, mask = self._embed(prompts)
            if self.sampling.temperature > 0:
                torch.manual_seed(self.sampling.seed)
            out = self.model.generate(
                inputs_embeds=embeddings, attention_mask=mask, generation_config=self._options(prompts)
            )
        return [row.tolist() for row in out]

    def _embed(self, prompts: Sequence[_Prompt]) -> tuple[torch.Tensor, torch.Tensor]:
        """Left-padded embeddings ``[b, n, hidden]`` with the pictures' features in place, and the mask."""
        import torch

        device = self.model.device
        longest = max(len(prompt.ids) for prompt in prompts)
        ids = torch.full((len(prompts), longest), self.tokens.pad_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt.ids) :] = torch.tensor(prompt.ids)
            mask[row, longest - len(prompt.ids) :] = 1
        ids = ids.to(device)
        embeddings = self.model.get_input_embeddings()(ids)
        views = [view for prompt in prompts for view in prompt.request.views]
        if views:
            features = torch.cat(self.vision.features(views)).to(embeddings.device, embeddings.dtype)
            embeddings[ids == self.tokens.image_id] = features
        return embeddings, mask.to(device)

    def _options(self, prompts: Sequence[_Prompt]) -> Any:
        from transformers import GenerationConfig

        longest = max(len(prompt.ids) for prompt in prompts)
        wanted = max(prompt.request.max_new_tokens for prompt in prompts)
        chosen = self.sampling
        sampled = (
            {"do_sample": True, "temperature": chosen.temperature, "top_p": chosen.top_p, "top_k": 0}
            if chosen.temperature > 0
            else {"do_sample": False}
        )
        return GenerationConfig(
            max_new_tokens=min(wanted, self._context - longest),
            eos_token_id=self.tokens.eos_id,
            pad_token_id=self.tokens.pad_id,
            suppress_tokens=self._never(),
            **sampled,
        )

    def _never(self) -> list[int]:
        """Ids that are no words: the image's and the padding of the vocabulary."""
        rows = int(self.model.config.text_config.vocab_size)
        return sorted({self.tokens.image_id, *range(self.loaded.text_rows, rows)})

    def _generation(self, new: list[int], limit: int) -> Generation:
        new = new[:limit]
        finished = self.tokens.eos_id in new
        if finished:
            new = new[: new.index(self.tokens.eos_id)]
        return Generation(self.tokens.decode(new), len(new) + finished, finished)


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


def longest_prompt(model: Any) -> int:
    """Tokens of the benchmark's longest prompts and their answers: two pictures and some hundred words."""
    return 2 * int(model.config.image_seq_length) + 256


def fitting_batch(model: Any) -> int:
    """How many prompts should fit together.

    A row is taken for the longest of the benchmark's (``longest_prompt``). On a CPU, where rows gain little
    by company: 2 to 16 of them in an eighth of the weights' memory (144 MiB at least). On a GPU: what half of
    its free memory holds. A guess that is too large is halved when memory runs out.
    """
    import torch

    text = model.config.text_config
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = heads * (text.hidden_size // text.num_attention_heads)
    row = 2 * text.num_hidden_layers * width * longest_prompt(model) * model.dtype.itemsize
    if model.device.type != "cuda":
        room = max(144 << 20, sum(weights.nbytes for weights in model.parameters()) // 8)
        return int(min(16, max(2, room // row)))
    free, _ = torch.cuda.mem_get_info(model.device)
    return int(min(256, max(1, free // 2 // (2 * row))))
