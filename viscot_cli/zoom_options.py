"""The options of the zoom loop, which all commands that ask a model share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from viscot_core.ask import Strategy, VisualCoT
    from viscot_core.engines.open import EngineOptions
    from viscot_core.policies.zoom_settings import ZoomSettings

POLICIES = ("two-turn", "direct", "zoom")
STRATEGY_OF = {"two-turn": "cot", "two_turn": "cot"}
"""What `bench` calls a policy; every other one has its own name there."""


@dataclass(frozen=True)
class ZoomOptions:
    """How to look, and how often."""

    policy: Annotated[
        str | None,
        typer.Option(
            help="How to look: two-turn, direct, or zoom (as often as it takes) [as the model does]."
        ),
    ] = None
    dialect: Annotated[
        str | None,
        typer.Option(
            help="zoom: how the model calls the tool: viscot, qwen3-vl, qwen3.5, deepeyes, mini-o3, "
            "pixel-reasoner or openai-tools [as its name says]."
        ),
    ] = None
    max_looks: Annotated[
        int | None, typer.Option(min=1, help="zoom: most crops of a question [as the dialect's authors].")
    ] = None
    crop_from: Annotated[
        str, typer.Option(help="zoom: crops have the pixels of the original, or of what was seen.")
    ] = "original"
    zoom_pixels: Annotated[
        int | None, typer.Option(min=1024, help="zoom: most pixels of an image or crop as it is shown.")
    ] = None

    def for_model(self, engine: EngineOptions) -> ZoomOptions:
        """With the policy that the model was made for, where the user names none."""
        if self.policy is not None:
            return self
        from viscot_core.engines.open import own_policy

        return replace(self, policy=own_policy(engine))

    @property
    def zooms(self) -> bool:
        """Whether the loop was asked for. Raises UsageError for its options without it."""
        from viscot_core.errors import UsageError, check_choice

        if self.policy is not None:
            check_choice("--policy", self.policy, POLICIES)
        if self.policy == "zoom":
            return True
        given = {
            "--dialect": self.dialect is not None,
            "--max-looks": self.max_looks is not None,
            "--crop-from": self.crop_from != "original",
            "--zoom-pixels": self.zoom_pixels is not None,
        }
        if alone := [name for name, is_given in given.items() if is_given]:
            raise UsageError(f"{', '.join(alone)} is for the zoom loop; add --policy zoom.")
        return False

    def settings(self, engine: EngineOptions) -> ZoomSettings:
        """The loop for this model.

        Raises:
            UsageError: an unknown dialect, or none that the model's name makes certain; an option of the
                engine that would change what the numbers of a call mean.
        """
        from viscot_core.engines.open import known_codec
        from viscot_core.errors import UsageError
        from viscot_core.policies.dialects.known import dialect
        from viscot_core.policies.zoom_settings import ZoomSettings, dialect_for

        if engine.api is not None and engine.api.images.max_side is not None:
            raise UsageError(
                "--max-image-side would change the images behind the loop's back; --zoom-pixels limits them."
            )
        name = self.dialect or dialect_for(engine.model, known_codec(engine))
        if dialect(name).tools and not engine.is_server:
            raise UsageError(f"--dialect {name} needs a server; a model of this machine has another one.")
        return ZoomSettings(
            name,
            self.max_looks,
            self.crop_from,  # type: ignore[arg-type]  # checked there
            most_pixels=self.zoom_pixels,
        )


def strategy_of(zoom: ZoomOptions) -> Strategy:
    """The strategy behind ``--policy``. Raises UsageError as ``ZoomOptions.zooms``."""
    if zoom.zooms:
        return "zoom"
    return "direct" if zoom.policy == "direct" else "cot"


def loop_beside_cot(zoom: ZoomOptions, cot: VisualCoT) -> ZoomSettings | None:
    """The loop of a server that answers in two turns as well; None where questions are not to be zoomed.

    Raises:
        UsageError: boxes of two turns count pixels of a size that the loop does not show.
    """
    from viscot_core.errors import UsageError

    if not zoom.zooms:
        return None
    if cot.wording.codec.resize is not None:
        raise UsageError(
            f"The box format {cot.wording.codec.name} counts pixels of resized images, which the zoom loop "
            "does not show; zoom with infer, chat or bench, or answer in two turns with --policy two-turn."
        )
    return cot.zoom
