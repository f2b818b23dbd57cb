"""A checkpoint folder, understood: layout, config, and every tensor of the model with where it lies.

``open_checkpoint`` reads headers only. ``load`` builds a model from it, ``export`` writes it in the other
layout and ``inspect`` reports on it; all three see the same tensors and the same problems.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viscot_core.errors import CheckpointError
from viscot_core.families.llava import gather as parts
from viscot_core.families.llava import layouts
from viscot_core.families.llava.layouts import Layout, Shape
from viscot_core.families.llava.tokenizer import declared_turn_tokens, token_count
from viscot_core.models import adapters, zoo
from viscot_core.models.manifest import MANIFEST_NAME, Manifest, TurnTokens
from viscot_core.tensors import Stored, open_weights

if TYPE_CHECKING:
    import torch
    from transformers import LlavaConfig

EMBEDDINGS = "model.language_model.embed_tokens.weight"
HEAD = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class Source:
    """Where one tensor of the model comes from, and what is done to it while it is read."""

    stored: Stored
    rows: int | None = None
    """Rows the model wants where more than stored: the image token's and the padding after it."""
    delta: adapters.Delta | None = None
    """A LoRA's change to it."""

    @property
    def shape(self) -> Shape:
        return self.stored.shape if self.rows is None else (self.rows, *self.stored.shape[1:])

    @property
    def parts(self) -> tuple[Stored, ...]:
        """Every stored tensor that it is made of."""
        return (self.stored,) if self.delta is None else (self.stored, self.delta.a, self.delta.b)

    @property
    def count(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)

    def read(self) -> torch.Tensor:
        """The tensor as the model wants it; a view of the file where nothing is done to it."""
        import torch

        tensor = self.stored.read()
        if self.delta is not None:
            tensor = self.delta.add_to(tensor)
        if self.rows is None:
            return tensor
        # The mean of the real rows: as a row of the head its logit is the mean logit, never the largest.
        mean = tensor.float().mean(0, keepdim=True).to(tensor.dtype)
        return torch.cat([tensor, mean.expand(self.rows - tensor.shape[0], -1)])


@dataclass(slots=True)
class Checkpoint:
    """One model on disk, tensors by module name; the three problem lists are empty when it is whole."""

    path: Path
    layout: Layout
    raw_config: dict[str, Any]
    config: LlavaConfig
    manifest: Manifest
    tensors: dict[str, Source]
    text_rows: int
    """Embedding rows of real tokens; ids from here on (the image token, padding) are never generated."""
    tokenizer_folder: Path
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[Stored] = field(default_factory=list)
    misshaped: list[tuple[str, Source, Shape]] = field(default_factory=list)

    def require_whole(self) -> None:
        """Raise a ``CheckpointError`` that names the file and tensor of the first problem."""
        found = [*self._describe_problems()]
        if found:
            more = (
                f" (and {len(found) - 1} more: viscot models inspect {self.path})" if len(found) > 1 else ""
            )
            raise CheckpointError(f"{found[0]}{more}; pull or copy the checkpoint again.")

    def _describe_problems(self) -> list[str]:
        file = next(iter(self.tensors.values())).stored.file if self.tensors else self.path
        return [
            *(
                f"{source.stored.file}: '{source.stored.name}' has the shape {list(source.shape)} where "
                f"config.json asks for {list(wanted)}"
                for _, source, wanted in self.misshaped
            ),
            *(
                f"{file.parent} lacks the tensor '{layouts.stored_name(name, self.layout)}'"
                for name in self.missing
            ),
            *(f"{s.file}: '{s.name}' belongs to no part of this model" for s in self.unexpected),
        ]

    @property
    def files(self) -> list[Path]:
        """Every file a tensor comes from, an adapter's among them, sorted."""
        return sorted({stored.file for source in self.tensors.values() for stored in source.parts})

    @property
    def dtype(self) -> str:
        """torch's name of the dtype that most of the weights are stored in."""
        sizes: dict[str, int] = {}
        for source in self.tensors.values():
            sizes[source.stored.dtype] = sizes.get(source.stored.dtype, 0) + source.count
        return max(sizes, key=lambda name: sizes[name]) if sizes else "float32"


def open_checkpoint(path: Path) -> Checkpoint:
    """Understand the checkpoint in ``path``; its adapter's base and its tower are looked up where needed.

    Raises:
        CheckpointError: unreadable, of another kind, two tensors for one place; missing or mis-shaped tensors
            are listed in the result instead (``require_whole`` raises for them).
    """
    try:
        return _open(path)
    except CheckpointError as error:
        if str(path) in str(error):
            raise
        raise CheckpointError(f"{path}: {error}") from error


def _open(path: Path) -> Checkpoint:
    if not adapters.is_adapter(path):
        return _understand(path, *parts.gather(path, parts.read_json(path / "config.json")))
    folder = parts.neighbour(adapters.base_name(path), path)
    whole = adapters.whole_tensors(path)
    if whole and layouts.is_text_only(parts.read_json(folder / "config.json")):
        # Upstream's LoRA on a plain Vicuna: config, projector and tower are the adapter's own.
        raw, stored = parts.read_json(path / "config.json"), open_weights(folder) | whole
        return _with_adapter(_understand(path, raw, stored, folder), path)
    return _with_adapter(_open(folder), path)


@contextmanager
def _blamed_on(file: Path) -> Iterator[None]:
    """What transformers and torch raise over a config's values, as a sentence that names the file."""
    from huggingface_hub.errors import StrictDataclassError

    faults = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError)
    try:
        yield
    except (*faults, StrictDataclassError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{file} is damaged ({reason}); pull or copy it again.") from error


def _understand(path: Path, raw: dict[str, Any], stored: Mapping[str, Stored], tokenizer: Path) -> Checkpoint:
    """The checkpoint of these tensors under the config ``raw``, with the tokenizer of that folder."""
    with _blamed_on(path / "config.json"):
        found = _assemble(path, raw, stored, tokenizer)
        compare(found, expected_shapes(found.config))
    side = found.config.vision_config.image_size
    if found.manifest.image_side != side:
        raise CheckpointError(
            f"{path / MANIFEST_NAME} says that images are {found.manifest.image_side} px and the vision "
            f"tower takes {side}; correct it, or delete it to let viscot derive one."
        )
    return found


def _assemble(path: Path, raw: dict[str, Any], stored: Mapping[str, Stored], tokenizer: Path) -> Checkpoint:
    """``_understand`` before anything is compared."""
    layout = layouts.detect(raw, stored)
    tensors = _by_module(stored, layout)
    notes: list[str] = []
    if layout is Layout.HF:
        config, rows = _hf_config(raw)
    else:
        shapes = {key: source.shape for key, source in tensors.items()}
        vision, added, note = parts.tower(path, raw, shapes)
        tensors |= {name: Source(tensor) for name, tensor in added.items()}
        notes += [note] if note else []
        rows = int(raw["vocab_size"])
        config = layouts.config_from_llava(raw, vision, image_id=token_count(tokenizer))
        for name in (EMBEDDINGS, HEAD):
            wanted = config.text_config.vocab_size
            if name in tensors and tensors[name].shape[0] == rows < wanted:
                tensors[name] = Source(tensors[name].stored, rows=wanted)
    manifest = Manifest.read(path) or _derived_manifest(path, raw, config, tokenizer)
    return Checkpoint(path, layout, raw, config, manifest, tensors, rows, tokenizer, notes)


def expected_shapes(config: LlavaConfig) -> dict[str, Shape]:
    """Shape of every tensor that a model of this config keeps, by module name; allocates nothing."""
    import torch
    from transformers import LlavaForConditionalGeneration

    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        shapes.pop(HEAD, None)
    return shapes


def _by_module(stored: Mapping[str, Stored], layout: Layout) -> dict[str, Source]:
    """Sources by module name; refuses two stored tensors for one place (two projectors, two towers)."""
    tensors: dict[str, Source] = {}
    for name, tensor in stored.items():
        module = layouts.module_name(name, layout)
        if module is None:
            continue
        if module in tensors:
            first = tensors[module].stored
            raise CheckpointError(
                f"'{first.name}' in {first.file} and '{name}' in {tensor.file} are one part of the model "
                "twice; remove one of them."
            )
        tensors[module] = Source(tensor)
    return tensors


def compare(found: Checkpoint, expected: Mapping[str, Shape]) -> None:
    """Fill the three lists of problems; what belongs to no module moves from tensors to unexpected."""
    for name in [n for n in found.tensors if n not in expected]:
        found.unexpected.append(found.tensors.pop(name).stored)
    found.missing = [name for name in expected if name not in found.tensors]
    found.misshaped = [
        (name, source, expected[name])
        for name, source in found.tensors.items()
        if source.shape != expected[name]
    ]


def _hf_config(raw: dict[str, Any]) -> tuple[LlavaConfig, int]:
    from transformers import LlavaConfig

    config = LlavaConfig.from_dict(raw)
    original = raw.get(layouts.ORIGINAL_CONFIG)
    if original:
        return config, int(original["vocab_size"])
    rows, image_id = int(config.text_config.vocab_size), int(config.image_token_id)
    # An image token that was added later is followed by padding only; one inside the vocabulary is not.
    return config, image_id if rows - image_id <= layouts.ROW_MULTIPLE else rows


def _with_adapter(base: Checkpoint, path: Path) -> Checkpoint:
    """``base`` with the adapter in ``path`` merged while its tensors are read."""
    for name, change in adapters.changes(path).items():
        if name not in base.tensors:
            raise CheckpointError(
                f"the adapter in {path} changes '{name}', which its base {base.path} lacks."
            )
        source = base.tensors[name]
        if isinstance(change, Stored):
            base.tensors[name] = Source(change, rows=source.rows)
        else:
            base.tensors[name] = Source(source.stored, rows=source.rows, delta=change)
    base.notes.append(f"adapter on {adapters.base_name(path)}")
    base.manifest = Manifest.read(path) or base.manifest.model_copy(update={"name": path.name})
    base.path = path
    return base


def _derived_manifest(path: Path, raw: Mapping[str, Any], config: LlavaConfig, tokenizer: Path) -> Manifest:
    hub = zoo.hub_id(path)
    known = zoo.find(hub) if hub else None
    turn_tokens: TurnTokens = known.turn_tokens if known else declared_turn_tokens(tokenizer, raw)
    return Manifest(
        name=(hub or path.resolve().name).rpartition("/")[2],
        turn_tokens=turn_tokens,
        image_side=int(config.vision_config.image_size),
    )
