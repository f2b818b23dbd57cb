"""Open a checkpoint folder: its family, its manifest, its adapter.

Reads headers only. What a folder holds is decided by its config and its tensors, never by its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from viscot_core.errors import CheckpointError, EngineError, UsageError
from viscot_core.families.base import Family, Files, ImageLimits
from viscot_core.families.checkpoint import Checkpoint, Delta, Source
from viscot_core.families.manifest import MANIFEST_NAME, Manifest
from viscot_core.families.table import family_of
from viscot_core.models import adapters, zoo
from viscot_core.tensors import Stored, open_weights, read_json
from viscot_core.torch_builds import misfit_behind


def open_checkpoint(path: Path, base: str | Path | None = None) -> Checkpoint:
    """Understand the checkpoint in ``path``; its adapter's base and its tower are looked up where needed.

    Args:
        base: an adapter's base, by name or folder, instead of the one that its config names.

    Raises:
        UsageError: a base for what is no adapter.
        CheckpointError: unreadable, of another kind, two tensors for one place; missing or mis-shaped tensors
            are listed in the result instead (``require_whole`` raises for them).
    """
    if base is not None and not adapters.is_adapter(path):
        raise UsageError(f"{path} is no adapter and needs no base; leave out --base.")
    with _named_in_errors(path):
        return _open(path, base)


def own_box_format(path: Path, base: str | Path | None = None) -> str | None:
    """How a checkpoint's model writes boxes, by its manifest or its family; None where not certain."""
    manifest = Manifest.read(path)
    if manifest is not None:
        return manifest.box_format
    if adapters.is_adapter(path):
        return own_box_format(_base_of(path, base))
    return _family_in(path).box_format


def image_limits(path: Path, base: str | Path | None = None) -> ImageLimits | None:
    """What its processor resizes images to; None where they get one size, or as many tiles as they need."""
    if adapters.is_adapter(path):
        return image_limits(_base_of(path, base))
    return _family_in(path).image_limits(path)


def _family_in(path: Path) -> Family:
    """The family of the model in a folder."""
    with _named_in_errors(path):
        return family_of(read_json(path / "config.json"))


@contextmanager
def _named_in_errors(path: Path) -> Iterator[None]:
    """What is wrong with a checkpoint, as a sentence that names its folder."""
    try:
        yield
    except CheckpointError as error:
        if str(path) in str(error):
            raise
        raise CheckpointError(f"{path}: {error}") from error
    except ImportError as error:
        if misfit := misfit_behind(error):
            raise EngineError(misfit) from error
        raise


def _base_of(path: Path, given: str | Path | None) -> Path:
    """The folder of an adapter's base: the given one, else the one that its config names."""
    return zoo.resolve(given) if given is not None else zoo.sibling(adapters.base_name(path), path)


def _open(path: Path, given: str | Path | None = None, above: tuple[Path, ...] = ()) -> Checkpoint:
    """``above`` are the adapters that stand on what is in ``path``."""
    if path.resolve() in above:
        raise CheckpointError(f"{path} is its own base ({adapters.CONFIG}); name the base with --base.")
    if not adapters.is_adapter(path):
        return _understand(path, None, {})
    base = _base_of(path, given)
    whole = adapters.whole_tensors(path)
    config = read_json(base / "config.json") if not adapters.is_adapter(base) else {}
    if whole and config and family_of(config).what_part(base, config):
        # Upstream's LoRA on a plain Vicuna: config, projector and tower are the adapter's own.
        return _with_adapter(_understand(path, base, whole), path, base)
    return _with_adapter(_open(base, None, (*above, path.resolve())), path, base)


def _understand(path: Path, base: Path | None, extra: dict[str, Stored]) -> Checkpoint:
    """The checkpoint in ``path``; with ``base``, weights and tokenizer are its own, and ``extra``."""
    config = read_json(path / "config.json")
    family = family_of(config)
    with blamed_on(path / "config.json"):
        if base is None:
            files = family.gather(path, config, zoo.sibling)
        else:
            files = Files(path, config, {**open_weights(base), **extra}, base)
        found = family.read(files, zoo.sibling)
    derived = found.manifest
    hub = zoo.hub_id(path)
    known = zoo.find(hub) if hub else None
    named = {"name": (hub or path.resolve().name).rpartition("/")[2]}
    if known is not None:
        # Only a hub id decides this, never a folder's name.
        named["turn_tokens"] = known.turn_tokens
    found.manifest = Manifest.read(path) or derived.model_copy(update=named)
    if (name := found.manifest.template) not in family.templates:
        names = ", ".join(family.templates)
        raise CheckpointError(
            f"{path / MANIFEST_NAME} is damaged (template: '{name}' is no template; known are {names}); "
            "delete it to let viscot derive one."
        )
    if found.manifest.image_side != derived.image_side:
        raise CheckpointError(
            f"{path / MANIFEST_NAME} says that images are {found.manifest.image_side} px and the vision "
            f"tower takes {derived.image_side}; correct it, or delete it to let viscot derive one."
        )
    return found


@contextmanager
def blamed_on(file: Path) -> Iterator[None]:
    """What transformers and torch raise over a config's values, as a sentence that names the file."""
    from huggingface_hub.errors import StrictDataclassError

    faults = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError)
    try:
        yield
    except (*faults, StrictDataclassError) as error:
        if misfit := misfit_behind(error):
            raise EngineError(misfit) from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{file} is damaged ({reason}); pull or copy it again.") from error


def _with_adapter(found: Checkpoint, path: Path, base: Path) -> Checkpoint:
    """``found``, read from ``base``, with the adapter in ``path`` merged while its tensors are read."""
    for name, change in adapters.changes(path, found.family).items():
        if not found.by_module:  # applied to the model in memory, which knows its parameters' shapes
            found.changes[name] = (*found.changes.get(name, ()), change)
            continue
        if name not in found.tensors:
            raise CheckpointError(f"the adapter in {path} changes '{name}', which its base {base} lacks.")
        source = found.tensors[name]
        if isinstance(change, Delta):
            change.require_fit(source.stored.shape)
            found.tensors[name] = replace(source, deltas=(*source.deltas, change))
        else:
            # A module that learned whole may have the rows that were added to the base, or not.
            found.tensors[name] = Source(change, rows=None if change.shape == source.shape else source.rows)
            if change.shape not in (source.shape, source.stored.shape):
                raise CheckpointError(
                    f"{change.file}: '{change.name}' has the shape {list(change.shape)} and its base "
                    f"{list(source.shape)}; the adapter belongs to another base model."
                )
    found.notes.append(f"adapter on {base}")
    found.manifest = Manifest.read(path) or found.manifest.model_copy(update={"name": path.name})
    found.path = path
    return found
