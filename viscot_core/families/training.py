"""What training asks of a family beyond what asking does (``base.Family``).

A family that hands out a ``Training`` can be trained; one that hands out None cannot yet. ``train/`` and
``data/`` know a backbone only through these types.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from viscot_core.boxes.formats import Codec
from viscot_core.boxes.geometry import Size
from viscot_core.conversation import Message
from viscot_core.families.base import Parts, Processor, Spans
from viscot_core.families.compiling import Backend
from viscot_core.families.inputs import Rendered
from viscot_core.families.manifest import TurnTokens

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from viscot_core.families.checkpoint import Checkpoint
    from viscot_core.families.shapes import ModelShape


@dataclass(frozen=True, slots=True)
class RowInputs:
    """What a model reads of one row beside its ids.

    Attributes:
        tokens: a value for each token, ``[..., tokens]``: their kinds, their positions by images' grids.
        images: what the processor keeps of the row's images until a batch is made of rows.
    """

    tokens: Mapping[str, torch.Tensor]
    images: Any


class TrainingProcessor(Processor, Protocol):
    """A processor that also makes rows to learn from."""

    @property
    def wording(self) -> str:
        """The name of the wording, as a manifest's ``template`` has it."""
        ...

    @property
    def boxes(self) -> Codec:
        """How the model is to write boxes: rows say theirs in 0..1 of the padded square."""
        ...

    @property
    def image_side(self) -> int | None:
        """Side of the square that every image is resized to, pixels; None where sizes vary."""
        ...

    @property
    def image_tokens(self) -> int:
        """Tokens of an image, to estimate a row's length without opening its images."""
        ...

    @property
    def key(self) -> str:
        """Everything that the length of a row depends on: the vocabulary and the wording."""
        ...

    def under(self, template: str) -> TrainingProcessor:
        """The same vocabulary under another of the family's wordings: a stage may have its own."""
        ...

    def render(
        self, messages: Sequence[Message], sizes: Sequence[Size] | None, *, generate: bool = False
    ) -> Rendered:
        """As ``Processor.render``; without ``sizes`` every ``<image>`` is a slot of ``image_tokens``."""
        ...

    def cut(self, rendered: Rendered, max_length: int) -> Rendered:
        """At most ``max_length`` tokens of it; an image that would be cut in two goes as a whole."""
        ...

    def spans(self, rendered: Rendered) -> Spans:
        """What the ids say, split where supervision starts and ends; an image is ``<image>``."""
        ...

    def row_inputs(self, rendered: Rendered, images: Sequence[Image.Image]) -> RowInputs:
        """Of a row and the images of its slots."""
        ...

    def image_inputs(self, rows: Sequence[RowInputs]) -> dict[str, torch.Tensor]:
        """The model's inputs made of the images of ``rows``, in that order; {} without any image."""
        ...

    def save(self, folder: Path, source: Path | None) -> None:
        """Write the tokenizer's files, and what only the ``source`` folder it was read from has of it."""
        ...


# -- what a recipe says, and what a family makes of it ------------------------------------------------------


class ScratchSizes(Protocol):
    """The sizes of a model from nothing (``ScratchSpec`` of a recipe): pixels, widths, layers, heads."""

    @property
    def image_side(self) -> int: ...
    @property
    def patch(self) -> int: ...
    @property
    def vision_width(self) -> int: ...
    @property
    def vision_layers(self) -> int: ...
    @property
    def vision_heads(self) -> int: ...
    @property
    def vision_mlp(self) -> int: ...
    @property
    def llm_width(self) -> int: ...
    @property
    def llm_layers(self) -> int: ...
    @property
    def llm_heads(self) -> int: ...
    @property
    def llm_kv_heads(self) -> int | None: ...
    @property
    def llm_mlp(self) -> int: ...
    @property
    def max_positions(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def tie_embeddings(self) -> bool: ...


class ModelChoice(Protocol):
    """What a recipe says of its model (``ModelSpec``): a checkpoint, sizes from nothing, or parts."""

    @property
    def checkpoint(self) -> str | None: ...
    @property
    def scratch(self) -> ScratchSizes | None: ...
    @property
    def base_llm(self) -> str | None: ...
    @property
    def vision_tower(self) -> str | None: ...
    @property
    def projector(self) -> str | None: ...
    @property
    def projector_type(self) -> str: ...
    @property
    def feature_layer(self) -> int: ...
    @property
    def template(self) -> str: ...
    @property
    def box_format(self) -> str | None: ...
    @property
    def min_pixels(self) -> int | None: ...
    @property
    def max_pixels(self) -> int | None: ...
    @property
    def turn_tokens(self) -> TurnTokens: ...


class Training(Protocol):
    """A family's model as training handles it: what learns, what a batch holds, how it is put together."""

    @property
    def parts(self) -> Parts: ...

    @property
    def model_inputs(self) -> tuple[str, ...]:
        """What of a batch the model takes; the rest is for the loss and the log."""
        ...

    @property
    def lora_targets(self) -> str:
        """A regular expression for the names of the linear layers that adapters change."""
        ...

    @property
    def packs(self) -> bool:
        """Whether samples of one row can be kept from seeing each other; each model has to prove it."""
        ...

    def trained_whole(self, part: str, model: Any) -> list[str]:
        """Names of the modules of a part that learn whole beside adapters."""
        ...

    def processor(self, checkpoint: Checkpoint, choice: ModelChoice | None = None) -> TrainingProcessor:
        """As ``Family.processor``, with what the recipe says of boxes and of images' sizes."""
        ...

    def shape(self, choice: ModelChoice) -> ModelShape | None:
        """The shape of a recipe's model; None where it is neither published nor on this machine."""
        ...

    def shape_of_config(self, config: Any) -> ModelShape:
        """The shape of a model in memory, from its config."""
        ...

    def from_parts(self, choice: ModelChoice, find: Callable[[str], Path]) -> Checkpoint:
        """A language model, a tower and a projector as one checkpoint; headers only are read.

        ``find`` gives the folder of a hub name or path; a projector that is not given is not missed.

        Raises:
            CheckpointError: one of them is of another kind or width.
        """
        ...

    def text_width(self, config: Any) -> int:
        """Hidden width of the language model."""
        ...

    def gets_gradient(self, name: str, config: Any) -> bool:
        """Whether the loss reaches a parameter at all: DDP and ZeRO would wait for the others in vain."""
        ...

    def tower_layer(self, name: str) -> int:
        """Layer of a tower's parameter, from 0; -1 for what comes before the first."""
        ...

    def without_weights(self, config: Any, dtype: torch.dtype, attention: str) -> Any:
        """A model of this config, its parameters read from no file (ZeRO-3 fills them, share by share)."""
        ...

    def allow_text_only_batches(self, model: Any, processor: TrainingProcessor) -> None:
        """Let training batches lack images on some processes; the weights stay."""
        ...

    def use_attention(self, model: Any, name: str) -> None:
        """Let the language model of ``model`` (no adapters around it) use an attention of transformers."""
        ...

    def compile_parts(self, model: Any, *, language_model: bool, backend: Backend = "inductor") -> None:
        """``torch.compile`` of the layers of the tower and, where it runs, of the language model."""
        ...

    def tied_tensors(self, config: Any) -> frozenset[str]:
        """Tensors that are the same as another one in memory, and are not saved twice."""
        ...

    def stored_name(self, module: str) -> str:
        """A tensor's name in the folder of a saved model, as servers read it."""
        ...

    def module_name(self, stored: str) -> str | None:
        """The name in memory of a tensor of such a folder; None for what the model computes itself."""
        ...

    def save_projector(self, state: Mapping[str, torch.Tensor], folder: Path) -> None:
        """Write the projector of a state dict (peft's names too), for viscot and for other readers."""
        ...

    def saved_projector(self, folder: Path) -> dict[str, torch.Tensor] | None:
        """What `save_projector` wrote, by module name; None where the folder holds none."""
        ...

    def projector_config(self, config: Any, text_rows: int, base: str) -> dict[str, Any]:
        """``config.json`` of a folder with only a projector: it names the base."""
        ...
