"""``--model`` in, an engine out: a name or folder of this machine, or ``http://HOST/v1#NAME`` of a server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from viscot_core.boxes.formats import Codec
from viscot_core.engines.base import Engine
from viscot_core.errors import UsageError

if TYPE_CHECKING:
    from viscot_core.engines.openai import ApiOptions
    from viscot_core.engines.transformers.engine import Sampling


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
    api: ApiOptions | None = None

    @property
    def is_server(self) -> bool:
        return bool(self.model) and str(self.model).startswith(("http://", "https://"))

    def address(self) -> tuple[str, str]:
        """``http://HOST:PORT/v1#NAME`` -> address and the model's name there.

        Raises:
            UsageError: the name is missing.
        """
        url, _, name = str(self.model).partition("#")
        if not name:
            raise UsageError(f"Which model of {url}? Write its name after #: {url}#NAME.")
        return url, name


def codec_for(options: EngineOptions) -> Codec:
    """How the model writes boxes: as the user says, as its checkpoint says, or as its name makes certain.

    Raises:
        UsageError: an unknown format, or a server whose model's name tells no family.
    """
    from viscot_core.boxes.registry import codec, codec_of_model
    from viscot_core.models.manifest import Manifest
    from viscot_core.models.zoo import resolve

    if options.box_format is not None:
        return codec(options.box_format)
    if options.is_server:
        return codec_of_model(options.address()[1])
    manifest = Manifest.read(resolve(options.model))
    return codec(manifest.box_format if manifest else "viscot")


def open_engine(options: EngineOptions, sampling: Sampling | None = None) -> Engine:
    """Load the model or reach the server; without ``sampling``, or at temperature 0, answers are greedy.

    Raises:
        CheckpointError, EngineError, UsageError: as ``load_model`` and ``ApiEngine`` say.
    """
    if options.is_server:
        from viscot_core.engines.openai import ApiEngine

        if sampling is not None and sampling.temperature > 0:
            raise UsageError("A server decides how tokens are chosen; leave out --temperature.")
        url, name = options.address()
        return ApiEngine(url, name, options=options.api, resize=codec_for(options).resize)
    from viscot_core.engines.transformers.engine import LocalEngine
    from viscot_core.models.load import load_model

    loaded = load_model(
        options.model, device=options.device, dtype=options.dtype, load_in=options.load_in, attn=options.attn
    )
    return LocalEngine(loaded, batch_size=options.batch_size, sampling=sampling)
