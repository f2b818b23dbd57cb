"""viscot: a multimodal model names the region that matters, looks at its crop, then answers.

from viscot_core import load

answer = load("VisCoT-7b-336").ask("receipt.jpg", "What is the total?")
answer.text, answer.box, answer.crop, answer.status
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from viscot_core.ask import VisualCoT

__version__ = "0.2.0"
__all__ = ["__version__", "load"]


def load(
    name: str | Path | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    load_in: str | None = None,
    attn: str = "sdpa",
    box_format: str | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    base: str | Path | None = None,
    thinking: bool | None = None,
    engine: str = "transformers",
    tensor_parallel: int = 1,
    python: str | None = None,
    protocol: str = "paper",
) -> VisualCoT:
    """A model ready to be asked: a name of the zoo, a checkpoint folder, or (without a name) the bundled one.

    ``box_format`` says how a model of another family writes boxes, where its kind does not make that certain;
    ``min_pixels`` and ``max_pixels`` limit what an image is resized to, where a model reads any size.
    ``base`` is an adapter's base, where its config does not name the right one. ``thinking`` lets a model
    think before it answers, where its chat template leaves the choice. ``engine="vllm"`` runs the model in a
    vLLM process of the Python ``python`` (this one), over ``tensor_parallel`` GPUs. ``protocol`` is ``paper``
    (the reference's prompts) or ``native`` (the family's own).

    Nothing heavy is imported before this is called. Raises ``CheckpointError`` where the model is unknown or
    damaged.
    """
    from viscot_core.ask import VisualCoT
    from viscot_core.engines.open import EngineOptions, codec_for, open_engine, own_policy
    from viscot_core.families.checkpoint import LOADING
    from viscot_core.policies.wording import Wording, protocol_of
    from viscot_core.policies.zoom_settings import ZoomSettings, dialect_for

    model = None if name is None else str(name)
    options = EngineOptions(
        model,
        device,
        dtype,
        load_in,
        attn,
        box_format=box_format,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        base=None if base is None else str(base),
        thinking=thinking,
        engine=engine,
        tensor_parallel=tensor_parallel,
        python=python,
    )
    words = protocol_of(protocol)
    with LOADING:
        codec = codec_for(options)
        cot = VisualCoT(open_engine(options, codec=codec), wording=Wording(codec, words))
    own = own_policy(options)
    if own == "zoom":
        cot.strategy, cot.zoom = "zoom", ZoomSettings(dialect_for(model, codec))
    elif own == "direct":
        cot.strategy = "direct"
    return cot
