"""What the commands of ``viscot bench`` share: their options, each written once (see ``grouped``)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from viscot_cli.model_options import (
    MAX_TRUNCATED,
    ExtraBody,
    ImageFormat,
    ImageQuality,
    MaxImageSide,
    MaxNew,
    MaxTruncated,
    SameEngine,
    WhoAnswers,
    WholeImages,
    image_form,
)
from viscot_cli.zoom_options import STRATEGY_OF, ZoomOptions

if TYPE_CHECKING:
    from viscot_core.boxes.geometry import CropPolicy
    from viscot_core.engines.open import EngineOptions
    from viscot_core.openai_api.budget import Price
    from viscot_core.openai_api.options import ApiOptions
    from viscot_core.policies.zoom_settings import ZoomSettings
    from viscot_core.tasks.loading import Selection

Data = Annotated[Path, typer.Option(help="The data root: benchmark/, benchmark_det/, refcoco/ and images.")]
Out = Annotated[Path | None, typer.Option(help="The run folder [results/MODEL-BENCHMARK].")]
SkipMissing = Annotated[bool, typer.Option("--skip-missing", help="Leave out questions without an image.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Prompts that run together in one batch.")]
AttentionLayer = Annotated[
    int | None,
    typer.Option(min=0, help="attention: the text model's layer that is read, from 0 [the model's own]."),
]
Concurrency = Annotated[int, typer.Option(min=1, help="Server: calls at the same time.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Server: seconds after which a call is tried again.")]
MaxRequests = Annotated[int | None, typer.Option(min=1, help="Server: stop after this many calls.")]


@dataclass(frozen=True)
class ServerOptions:
    """How a model on a server is asked."""

    concurrency: Concurrency = 8
    timeout: Timeout = 120.0
    max_requests: MaxRequests = None
    max_cost: Annotated[
        float | None,
        typer.Option(min=0, help="Server: stop before this many dollars; needs --price."),
    ] = None
    price: Annotated[str | None, typer.Option(help="INPUT,OUTPUT: dollars for a million tokens each.")] = None
    cache: Annotated[
        Path | None,
        typer.Option(help="Server: a folder for its replies, so that none is paid for twice."),
    ] = None
    extra_body: ExtraBody = None
    image_format: ImageFormat = "png"
    image_quality: ImageQuality = 90
    max_image_side: MaxImageSide = None
    whole_images: WholeImages = False
    same_engine: SameEngine = False

    def options(self) -> ApiOptions:
        """Raises UsageError for a price that cannot be read, or a limit of cost without a price."""
        from viscot_core.openai_api.options import ApiOptions, extra_body_of

        return ApiOptions(
            self.concurrency,
            self.timeout,
            max_requests=self.max_requests,
            max_cost=self.max_cost,
            price=None if self.price is None else price_of(self.price),
            cache=self.cache,
            extra_body=extra_body_of(self.extra_body),
            images=image_form(self.image_format, self.image_quality, self.max_image_side, self.whole_images),
            same_engine=self.same_engine,
        )


@dataclass(frozen=True)
class Running:
    """What ``bench cot`` and ``bench refcoco`` share, apart from the model."""

    data: Data = Path("data")
    out: Out = None
    limit: Annotated[
        int | None, typer.Option(min=1, help="Questions of each data set, drawn by --seed [all].")
    ] = None
    seed: Annotated[int, typer.Option(help="Seed of whatever is drawn: --limit, random boxes, sampling.")] = 0
    skip_missing: SkipMissing = False
    batch_size: Annotated[str, typer.Option(help="Prompts that run together; auto finds what fits.")] = "auto"
    max_new_tokens: MaxNew = 128
    max_truncated: MaxTruncated = MAX_TRUNCATED
    gpus: Annotated[
        int, typer.Option(min=1, help="Share the images among this many GPUs of this machine.")
    ] = 1
    export: Annotated[
        str | None,
        typer.Option(help="Also write RUN/upstream (the reference's own files) or RUN/coco (boxes as COCO)."),
    ] = None

    def check(self) -> None:
        """Raise UsageError for an export that does not exist, or that needs all questions."""
        from viscot_core.errors import UsageError

        check_export(self.export)
        if self.export == "upstream" and self.limit:
            raise UsageError("The reference reads boxes by line: --export upstream takes no --limit.")

    def selection(self) -> Selection:
        """Which questions are asked."""
        from viscot_core.tasks.loading import Selection

        return Selection(self.limit, self.seed, self.skip_missing)

    def folder(self, who: WhoAnswers, kind: str) -> Path:
        """The run folder; ``kind`` names the default one."""
        return self.out or default_out(who.model, kind)

    def engine(self, who: WhoAnswers, server: ServerOptions) -> EngineOptions:
        """Which model is asked, and how. Raises UsageError for a bad batch size or price."""
        from viscot_core.hardware import return_large_blocks

        return_large_blocks()
        return who.options(batch_size_of(self.batch_size), server.options())


def price_of(text: str) -> Price:
    """``INPUT,OUTPUT``: dollars for a million tokens of each."""
    from viscot_core.errors import UsageError
    from viscot_core.openai_api.budget import Price

    try:
        read, written = (float(part) for part in text.split(","))
    except ValueError:
        read = written = -1.0
    if not (0 <= read < math.inf and 0 <= written < math.inf):
        raise UsageError(f"--price is INPUT,OUTPUT like 0.15,0.60, not '{text}'.")
    return Price(read, written)


def check_export(to: str | None) -> None:
    """Raise UsageError for an unknown form of export."""
    from viscot_core.errors import UsageError

    if to not in (None, "upstream", "coco"):
        raise UsageError(
            "A run is exported as upstream (the reference's own result files) or as coco (its boxes), "
            f"not as '{to}'."
        )


def batch_size_of(text: str) -> int:
    """``auto`` is 0."""
    from viscot_core.errors import UsageError

    if text == "auto":
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--batch-size is auto or a number from 1, not '{text}'.")
    return int(text)


def policy_of(name: str) -> CropPolicy:
    from viscot_core.boxes.geometry import CropPolicy
    from viscot_core.errors import check_choice

    return CropPolicy(check_choice("--crop-policy", name, [policy.value for policy in CropPolicy]))


def strategies_of(
    given: tuple[str, ...], zoom: ZoomOptions, engine: EngineOptions, default: str
) -> tuple[tuple[str, ...], ZoomSettings]:
    """The strategies of a run, and its zoom loop; ``--policy zoom`` is the strategy zoom.

    Raises:
        UsageError: as ``ZoomOptions``; ``--policy`` names another strategy than ``--strategy``.
    """
    from viscot_core.errors import UsageError
    from viscot_core.policies.zoom_settings import ZoomSettings

    zoom = zoom if given else zoom.for_model(engine)
    named = STRATEGY_OF.get(str(zoom.policy), zoom.policy)
    # The loop's options are for the strategy as they are for the policy of that name.
    zoom = replace(zoom, policy="zoom") if "zoom" in given else zoom
    zooms = zoom.zooms
    if named is not None and given and named not in given:
        raise UsageError(f"--policy {named} is the strategy {named}, and --strategy leaves it out.")
    strategies = given or (named or default,)
    return strategies, zoom.settings(engine) if zooms else ZoomSettings()


def default_out(model: str | None, kind: str) -> Path:
    name = (model or "viscot-tiny").rstrip("/").replace("#", "/").rpartition("/")[2]
    return Path("results") / f"{name}-{kind}"
