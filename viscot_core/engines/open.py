"""``--model`` in, an engine out: a name or folder of this machine, or ``http://HOST/v1#NAME`` of a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viscot_core.boxes.formats import Codec
from viscot_core.engines.base import GREEDY, Engine, Sampling, Traits
from viscot_core.errors import UsageError, check_choice

if TYPE_CHECKING:
    from viscot_core.conversation import Message
    from viscot_core.openai_api.options import ApiOptions


ENGINES = ("transformers", "vllm")
"""What runs a model of this machine."""
_LOADING = ("base", "device", "dtype", "load_in", "attn", "engine", "tensor_parallel", "python")
"""How a model of this machine is loaded and run: a server has its own."""


@dataclass(frozen=True)
class EngineOptions:
    """Everything a user can say about an engine; what does not fit its kind is refused when it is opened."""

    model: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    load_in: str | None = None
    attn: str = "sdpa"
    batch_size: int = 8
    """0 finds what fits."""
    box_format: str | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    """Limits of what an image is resized to, where the model reads images of any size."""
    api: ApiOptions | None = None
    base: str | None = None
    """An adapter's base, instead of the one that its config names."""
    thinking: bool | None = None
    """Whether the model is to think before it answers; None: a local model is not, a server decides."""
    engine: str = "transformers"
    """What runs a model of this machine: one of `ENGINES`."""
    tensor_parallel: int = 1
    """GPUs that a model is cut over (vllm)."""
    python: str | None = None
    """The Python that has vLLM, if it is not this one."""

    @property
    def is_server(self) -> bool:
        return bool(self.model) and str(self.model).startswith(("http://", "https://"))

    @property
    def traits(self) -> Traits:
        """What the engine will be like, as far as it is known before it is opened."""
        if not self.is_server and self.engine == "vllm":
            from viscot_core.engines.vllm.traits import traits

            return traits(self.batch_size)
        if not self.is_server:
            return Traits(
                self.batch_size or 1, shares_images=True, logprobs=True, samples=True, attention=True
            )
        from viscot_core.openai_api.options import ApiOptions

        parallel = (self.api or ApiOptions()).concurrency
        return Traits(parallel=parallel, logprobs=True, samples=True, paid=True)

    def check(self) -> None:
        """Raise UsageError for an engine that is not there, or what is for one of another kind."""
        check_choice("--engine", self.engine, ENGINES)
        if self.is_server and (named := self._changed(*_LOADING)):
            raise UsageError(f"A server runs its model itself; leave out {' and '.join(named)}.")
        if self.is_server and (self.min_pixels is not None or self.max_pixels is not None):
            raise UsageError("A server resizes images itself; leave out --min-pixels and --max-pixels.")
        if self.engine != "vllm" and (named := self._changed("tensor_parallel", "python")):
            verb = "is" if len(named) == 1 else "are"
            raise UsageError(f"{' and '.join(named)} {verb} for --engine vllm; give both.")
        if not self.is_server and self.api is not None and self.api.is_special:
            raise UsageError(
                "--extra-body and --image-format are for a server; --model is one of this machine."
            )

    def _changed(self, *names: str) -> list[str]:
        """The options of these fields that were given: those that differ from what holds without a word."""
        usual = {each.name: each.default for each in fields(self)}
        return [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) != usual[name]]

    def address(self) -> tuple[str, str]:
        """``http://HOST:PORT/v1#NAME`` -> address and the model's name there.

        Raises:
            UsageError: the name is missing.
        """
        from viscot_core.addresses import without_password

        url, _, name = str(self.model).partition("#")
        if not name:
            shown = without_password(url)
            raise UsageError(f"Which model of {shown}? Write its name after #: {shown}#NAME.")
        return url, name


def codec_for(options: EngineOptions) -> Codec:
    """How the model writes boxes: as the user says, as its checkpoint says, or as its name makes certain.

    Raises:
        UsageError: an unknown format, or a server whose model's name tells no family.
    """
    from viscot_core.boxes.registry import codec, codec_of_model
    from viscot_core.models.zoo import resolve_answering

    if options.box_format is not None:
        return as_seen(codec(options.box_format), options)
    if options.is_server:
        return codec_of_model(options.address()[1])
    return as_seen(codec(_own_format(resolve_answering(options.model), options.base)), options)


def as_seen(found: Codec, options: EngineOptions) -> Codec:
    """``found`` for pixels of the size that the checkpoint's processor resizes an image to; as it is for a
    server's model."""
    from viscot_core.boxes.registry import QWEN_MAX_TOKENS, QWEN_MIN_TOKENS, limited
    from viscot_core.families.base import ImageLimits
    from viscot_core.models.checkpoint import image_limits
    from viscot_core.models.zoo import resolve_answering

    if options.is_server or found.resize is None or "@" in found.name:
        return found
    own = image_limits(resolve_answering(options.model), options.base)
    if own is None:
        return found
    # What a processor allows is more than most machines can read, so without a word it is the registry's. A
    # user's word counts whatever the processor's file says: it resizes to other limits where it is told.
    least = max(own.least, QWEN_MIN_TOKENS)
    usual = ImageLimits(least, max(least, min(own.most, QWEN_MAX_TOKENS)), own.step)
    wanted = usual.within(options.min_pixels, options.max_pixels)
    return limited(found, wanted.least, wanted.most)


def known_codec(options: EngineOptions) -> Codec | None:
    """`codec_for` where nothing will ask for a box: None where nothing says how the model writes boxes."""
    try:
        return codec_for(options)
    except UsageError:
        if options.box_format is not None:
            raise
        return None


def _own_format(path: Path, base: str | None) -> str:
    from viscot_core.models.checkpoint import own_box_format

    found = own_box_format(path, base)
    if found is None:
        raise UsageError(
            f"{path} does not say how its model writes boxes; name it with --box-format, or let "
            "'viscot bench calibrate' find out."
        )
    return found


def own_policy(options: EngineOptions) -> str | None:
    """How the model was made to look, as its checkpoint says; None where none does, and for a server's.

    What is wrong with a checkpoint is told by whoever opens it.
    """
    from viscot_core.errors import CheckpointError
    from viscot_core.families.manifest import Manifest
    from viscot_core.models.zoo import resolve_answering

    if options.is_server:
        return None
    try:
        manifest = Manifest.read(resolve_answering(options.model))
    except CheckpointError:
        return None
    return None if manifest is None else manifest.policy


def model_name(options: EngineOptions) -> str:
    """The engine's name, which records have, before it is opened. Raises UsageError, CheckpointError."""
    if options.is_server:
        return options.address()[1]
    from viscot_core.models.checkpoint import open_checkpoint
    from viscot_core.models.zoo import resolve_answering

    return open_checkpoint(resolve_answering(options.model), options.base).manifest.name


def weights_hash(options: EngineOptions) -> str | None:
    """The hash of the weights as the engine's identity has it, without loading them; None for a server's.

    Raises:
        CheckpointError: the model is no checkpoint of this machine.
    """
    if options.is_server:
        return None
    from viscot_core.models.checkpoint import open_checkpoint
    from viscot_core.models.zoo import resolve
    from viscot_core.tensors import hash_files

    return hash_files(open_checkpoint(resolve(options.model), options.base).files)


def recorded_prompt(identity: Mapping[str, Any]) -> Callable[[Sequence[Message]], str]:
    """``Engine.prompt`` of an engine that is known by its identity only, as run folders keep it.

    A model's own chat template is not on record, only its digest: then the messages are shown, each with its
    role.
    """
    from viscot_core.families.table import text_templates

    found = text_templates().get(str(identity.get("template", "vicuna_v1")))
    return _plain_text if found is None else found.prompt


def _plain_text(messages: Sequence[Message]) -> str:
    return "\n".join(f"{message.role}: {message.text}" for message in messages)


def open_engine(
    options: EngineOptions,
    sampling: Sampling | None = None,
    *,
    codec: Codec | None = None,
    fused: bool = False,
) -> Engine:
    """Load the model or reach the server; without ``sampling``, or at temperature 0, answers are greedy.

    ``codec`` (`codec_for`) gives the size that an image is sent in; without it images keep their size.
    ``fused`` is for many questions: seconds are spent on faster kernels, where ours run the model on a GPU.

    Raises:
        CheckpointError, EngineError, UsageError: as ``load_model`` and ``OpenAIEngine`` say.
    """
    resize = codec.resize if codec else None
    options.check()
    if options.is_server:
        from viscot_core.engines.canary import check_template
        from viscot_core.engines.openai import OpenAIEngine

        url, name = options.address()
        pixels = codec is not None and codec.scale is None
        if pixels and options.api is not None and options.api.images.max_side is not None:
            raise UsageError(
                "This box format counts pixels of the image as it is sent: --max-image-side would change "
                "what its numbers mean; leave it out."
            )
        engine = OpenAIEngine(
            url,
            name,
            options=options.api,
            resize=resize,
            sampling=sampling or GREEDY,
            thinking=options.thinking,
        )
        check_template(engine.url, name, engine.options)
        return engine
    if options.engine == "vllm":
        from viscot_core.engines.vllm.engine import open_vllm

        return open_vllm(options, sampling, resize)
    from viscot_core.engines.transformers.engine import LocalEngine
    from viscot_core.models.load import load_model

    loaded = load_model(
        options.model,
        device=options.device,
        dtype=options.dtype,
        load_in=options.load_in,
        attn=options.attn,
        base=options.base,
        min_pixels=options.min_pixels,
        max_pixels=options.max_pixels,
        thinking=bool(options.thinking),
    )
    return LocalEngine(loaded, batch_size=options.batch_size, sampling=sampling, resize=resize, fused=fused)
