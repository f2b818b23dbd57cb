"""What the commands that ask a model share: its options, opening it, and printing an answer."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated

import typer

from viscot_cli import console
from viscot_cli.zoom_options import ZoomOptions

if TYPE_CHECKING:
    from viscot_core.ask import VisualCoT
    from viscot_core.boxes.formats import Codec
    from viscot_core.engines.base import Sampling
    from viscot_core.engines.open import EngineOptions
    from viscot_core.infer.asking import InferResult
    from viscot_core.openai_api.options import ApiOptions, ImageForm
    from viscot_core.policies.base import Answer
    from viscot_core.policies.zoom_settings import ZoomSettings

Model = Annotated[
    str | None, typer.Option(help="A name of 'viscot models list', a folder, a hub id, http://HOST/v1#NAME.")
]
BoxFormat = Annotated[
    str | None, typer.Option(help="How the model writes boxes; 'viscot bench list' shows them.")
]
Base = Annotated[str | None, typer.Option(help="An adapter's base, if not the one that its config names.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Dtype = Annotated[str, typer.Option(help="auto, fp32, fp16 or bf16.")]
LoadIn = Annotated[str | None, typer.Option(help="4bit or 8bit (needs viscot[quant]).")]
Attn = Annotated[str, typer.Option(help="sdpa, flash (needs viscot[flash]) or eager.")]
_LEAST = "Least pixels an image is resized to (models of any image size)."
_MOST = "Most pixels an image is resized to (models of any image size)."
# `serve --max-pixels` limits what clients send: the names with "image" mean the same in every command.
MinPixels = Annotated[int | None, typer.Option("--min-pixels", "--image-min-pixels", min=1, help=_LEAST)]
MaxPixels = Annotated[int | None, typer.Option("--max-pixels", "--image-max-pixels", min=1, help=_MOST)]
Thinking = Annotated[
    bool | None,
    typer.Option("--thinking/--no-thinking", help="Let the model think first (a server decides itself)."),
]
Engine = Annotated[
    str, typer.Option(help="What runs a model of this machine: transformers or vllm (needs viscot[vllm]).")
]
TensorParallel = Annotated[
    int, typer.Option(min=1, help="GPUs that the model is cut over, with --engine vllm.")
]
Python = Annotated[
    str | None,
    typer.Option(help="The Python that has vLLM (bench general: lmms-eval), if it is not this one."),
]
Protocol = Annotated[
    str, typer.Option(help="Words of the prompts: paper (the reference's) or native (the model's own).")
]
MaxNew = Annotated[int, typer.Option(min=1, help="Longest box and answer, in tokens.")]

ExtraBody = Annotated[
    str | None, typer.Option(metavar="JSON", help="Server: fields for each request, over viscot's own.")
]
ImageFormat = Annotated[str, typer.Option(help="Server: images are sent as png, jpeg or webp.")]
ImageQuality = Annotated[int, typer.Option(min=1, max=100, help="Server: quality of jpeg and webp.")]
MaxImageSide = Annotated[
    int | None, typer.Option(min=28, help="Server: larger images are sent with this longer side, in pixels.")
]
WholeImages = Annotated[
    bool,
    typer.Option("--whole-images", help="Server: send images whole, also to models known to read a square."),
]
SameEngine = Annotated[
    bool, typer.Option("--same-engine", help="Continue although the same server has another address now.")
]
MaxTruncated = Annotated[
    float, typer.Option(min=0, max=1, help="Exit with 3 if the token limit cuts a larger share of replies.")
]
MAX_TRUNCATED = 0.05


@dataclass(frozen=True)
class WhichModel:
    """The model that is asked."""

    model: Model = None


@dataclass(frozen=True)
class HowLoaded:
    """How a model is loaded."""

    base: Base = None
    box_format: BoxFormat = None
    device: Device = "auto"
    dtype: Dtype = "auto"
    load_in: LoadIn = None
    attn: Attn = "sdpa"
    min_pixels: MinPixels = None
    max_pixels: MaxPixels = None
    thinking: Thinking = None
    engine: Engine = "transformers"
    tensor_parallel: TensorParallel = 1
    python: Python = None

    def options_for(
        self, model: str | None, batch_size: int = 8, api: ApiOptions | None = None
    ) -> EngineOptions:
        """``batch_size`` 0 finds what fits."""
        from viscot_core.engines.open import EngineOptions

        loaded = {each.name: getattr(self, each.name) for each in fields(HowLoaded)}
        return EngineOptions(model=model, batch_size=batch_size, api=api, **loaded)


@dataclass(frozen=True)
class WhoAnswers(HowLoaded, WhichModel):
    """The model that is asked, and how it is loaded."""

    def options(self, batch_size: int = 8, api: ApiOptions | None = None) -> EngineOptions:
        """``batch_size`` 0 finds what fits."""
        return self.options_for(self.model, batch_size, api)


@dataclass(frozen=True)
class WhoServes(WhoAnswers):
    """The same for a server, whose ``--max-pixels`` is another limit."""

    min_pixels: Annotated[int | None, typer.Option("--image-min-pixels", min=1, help=_LEAST)] = None
    max_pixels: Annotated[int | None, typer.Option("--image-max-pixels", min=1, help=_MOST)] = None


@dataclass(frozen=True)
class ModelOptions(WhoAnswers):
    """The model that is asked, how it is loaded, and how it chooses its words."""

    max_new_tokens: MaxNew = 128
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0
    top_p: Annotated[float, typer.Option(help="Nucleus of sampling, with a temperature.")] = 1.0
    seed: Annotated[int, typer.Option(help="Seed of sampling; each question draws apart.")] = 0
    extra_body: ExtraBody = None
    image_format: ImageFormat = "png"
    image_quality: ImageQuality = 90
    max_image_side: MaxImageSide = None
    whole_images: WholeImages = False
    protocol: Protocol = "paper"

    def open(
        self,
        batch_size: int = 8,
        *,
        boxes: bool = True,
        zoom: ZoomOptions | None = None,
        fused: bool = False,
    ) -> VisualCoT:
        """The model, ready to be asked; see ``open_model``."""
        from viscot_core.hardware import return_large_blocks

        return_large_blocks()
        options, sampling = self._asked(batch_size)
        return open_model(options, sampling, boxes=boxes, zoom=zoom, protocol=self.protocol, fused=fused)

    def check(self, *, boxes: bool = True, zoom: ZoomOptions | None = None) -> None:
        """Raise what ``open`` would raise of these options before it loads anything."""
        from viscot_core.policies.wording import protocol_of

        options, _ = self._asked()
        options.check()
        protocol_of(self.protocol)
        _looks(options, boxes, zoom)

    def _asked(self, batch_size: int = 8) -> tuple[EngineOptions, Sampling]:
        from viscot_core.engines.base import Sampling
        from viscot_core.openai_api.options import ApiOptions, extra_body_of

        api = ApiOptions(
            extra_body=extra_body_of(self.extra_body),
            images=image_form(self.image_format, self.image_quality, self.max_image_side, self.whole_images),
        )
        return self.options(batch_size, api), Sampling(self.temperature, self.top_p, self.seed)


def image_form(format: str, quality: int, max_side: int | None, whole: bool) -> ImageForm:
    """How images are sent to a server. Raises UsageError for an unknown format."""
    from viscot_core.openai_api.options import ImageForm

    return ImageForm(format, quality, max_side, whole)  # type: ignore[arg-type]  # checked there


def open_model(
    options: EngineOptions,
    sampling: Sampling | None = None,
    *,
    boxes: bool = True,
    zoom: ZoomOptions | None = None,
    protocol: str = "paper",
    fused: bool = False,
) -> VisualCoT:
    """Load a model, or reach its server; without a name the bundled one, with a line that says what it knows.

    With ``zoom`` the loop shows the model images of its own sizes, so the engine changes none. ``fused`` is
    for many questions, as ``open_engine`` says.

    Raises:
        UsageError: also where nothing says how the model writes boxes (``--box-format`` does), and it will be
            asked for ``boxes``.
        CheckpointError, EngineError: the model cannot be loaded, or its server cannot be used.
    """
    from viscot_core.models.known import BUNDLED
    from viscot_core.models.zoo import RECOMMENDED, resolve_answering

    if not options.is_server:
        resolve_answering(options.model)  # a wrong name is reported before torch is imported
    from viscot_core.ask import VisualCoT
    from viscot_core.engines.open import open_engine
    from viscot_core.policies.wording import Wording, protocol_of

    words = protocol_of(protocol)
    loop, codec = _looks(options, boxes, zoom)
    if options.model is None:
        console.say(
            f"No --model: using the bundled {BUNDLED}, which only knows viscot's synthetic images; "
            f"for real ones: --model {RECOMMENDED}"
        )
    engine = open_engine(options, sampling, codec=None if loop else codec, fused=fused)
    return VisualCoT(engine, wording=Wording(codec, words) if codec else None, zoom=loop)


def _looks(
    options: EngineOptions, boxes: bool, zoom: ZoomOptions | None
) -> tuple[ZoomSettings | None, Codec | None]:
    """The loop, and how the model writes boxes."""
    from viscot_core.engines.open import codec_for, known_codec

    loop = zoom.settings(options) if zoom is not None and zoom.zooms else None
    return loop, codec_for(options) if boxes and loop is None else known_codec(options)


def print_answer(result: InferResult, *, with_name: bool) -> None:
    """Print one answer for people."""
    answer = result.answer
    if answer is None:
        return
    if with_name:
        console.out(f"{result.item.name}: {result.item.question}")
    console.out(f"answer  {answer.text}{'  (cut off: see --max-new-tokens)' if answer.truncated else ''}")
    if answer.messages:
        _print_looks(answer)
    elif len(answer.looks) > 1:
        for number, each in enumerate(answer.looks, 1):
            pixels = ", ".join(f"{c:.0f}" for c in each.box_pixels.coords)
            console.out(f"look {number}  box {pixels}  crop {', '.join(map(str, each.crop or ()))}")
    elif (look := answer.look) is not None:
        pixels = ", ".join(f"{c:.0f}" for c in look.box_pixels.coords)
        told = look.named_by == "given" or look.status == "ok"
        status = "" if told else f"  ({look.status}: the model said {look.text!r})"
        console.out(f"box     {pixels}  (pixels: left, top, right, bottom){status}")
        console.out(f"crop    {', '.join(map(str, answer.crop))}  of {answer.size[0]} x {answer.size[1]}")


def _print_looks(answer: Answer) -> None:
    """The looks of a policy that may look often, numbered, and what was refused."""
    for number, look in enumerate(answer.looks, 1):
        box = ", ".join(f"{c:.0f}" for c in look.box_pixels.coords)
        crop = ", ".join(map(str, look.crop or ()))
        across, down = look.shown or (0, 0)
        console.out(f"look {number}  box {box}  crop {crop}  shown as {across} x {down}")
    for refusal in answer.refusals:
        console.out(f"refused {refusal.reason}  (turn {refusal.turn})")
    if answer.stop not in ("", "answer"):
        console.out(f"ended   without an answer ({answer.stop})")
