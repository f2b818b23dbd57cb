"""Names of models: the bundled one, the released ones, and where they lie on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from viscot_core.errors import CheckpointError, nearest
from viscot_core.files import expanded
from viscot_core.models.known import BUNDLED, BUNDLED_ZOOM, ZOO, ZooModel

BUNDLED_FOLDER = Path(__file__).resolve().parent / "viscot_tiny"
BUNDLED_FOLDERS = {BUNDLED: BUNDLED_FOLDER, BUNDLED_ZOOM: BUNDLED_FOLDER.parent / "viscot_tiny_zoom"}
"""Where the models lie that come with viscot; the first answers where none is named."""
RECOMMENDED = "VisCoT-7b-336"
_GIVE = " Give a folder, a hub id that was pulled, or a name of 'viscot models list'."


def find(name: str) -> ZooModel | None:
    """The zoo's model of this short name or hub id, whatever the case."""
    wanted = name.lower()
    return next((m for m in ZOO.values() if wanted in (m.name.lower(), (m.hub or "").lower())), None)


def answering() -> dict[str, ZooModel]:
    """The known models that can answer: all but the towers."""
    return {name: model for name, model in ZOO.items() if model.kind != "tower"}


def families() -> list[str]:
    """Families of the known models, in the order of the list."""
    return list(dict.fromkeys(model.family for model in answering().values()))


def hub_cache() -> Path | None:
    """``VISCOT_CACHE`` where set; None means huggingface_hub's own cache (HF_HOME, HF_HUB_CACHE)."""
    value = os.environ.get("VISCOT_CACHE")
    return expanded(value) if value else None


def cached(hub: str) -> Path | None:
    """The snapshot folder of a pulled hub model, or None; asks no network."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(hub, "config.json", cache_dir=hub_cache())
    return Path(config).parent if isinstance(config, str) else None


def absent(name: str) -> str | None:
    """The sentence that says how to get a hub's model that is not on this machine.

    None for a model that is here, for a path and for a name that is nearer to a known one.
    """
    hub = _hub(name)
    if hub is None or expanded(name).exists() or cached(hub) is not None:
        return None
    if known := find(name):
        name, size = known.name, "" if known.disk_gb is None else f" ({known.disk_gb:g} GB)."
    elif Path(name).parent.is_dir() or nearest(name.rpartition("/")[2], _same_owner(name)):
        return None
    else:
        size = ""  # and no full stop: it would be copied with the command
    return f"{name} is not on this machine; get it with: viscot models pull {name}{size}"


def _hub(name: str) -> str | None:
    """The hub id that a name stands for; None for what can be a path only, and for the bundled model."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if known := find(name):
        return known.hub
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name if "/" in name else None


def _same_owner(hub: str) -> list[str]:
    owner = hub.partition("/")[0] + "/"
    return [model.name for model in ZOO.values() if (model.hub or "").startswith(owner)]


def hub_id(folder: Path) -> str | None:
    """``ORG/NAME`` of a snapshot in a Hugging Face cache (``models--ORG--NAME/snapshots/SHA``), else None."""
    if folder.parent.name != "snapshots":
        return None
    kind, _, name = folder.parent.parent.name.partition("--")
    return name.replace("--", "/", 1) if kind == "models" and name else None


def location(model: ZooModel) -> Path | None:
    """Where a known model lies on this machine, or None."""
    if model.hub is None:
        folder = BUNDLED_FOLDERS[model.name]
        return folder if (folder / "config.json").exists() else None
    return cached(model.hub)


def hint_about(name: str | Path | None) -> str:
    """What everybody who reads this model's answers must know; empty where it is not a bundled one.

    ``name`` is as ``resolve`` takes it, or the address of a server.
    """
    text = BUNDLED if name is None else str(name)
    folder = expanded(text).resolve()
    bundled = (n for n, own in BUNDLED_FOLDERS.items() if n == text.rpartition("#")[2] or own == folder)
    if (found := next(bundled, None)) is None:
        return ""
    return f"{found} only knows viscot's synthetic images: about any other image its answer means nothing."


def require_answering(name: str | Path | None) -> None:
    """Raise a ``CheckpointError`` for the name of a vision tower."""
    known = None if name is None else find(str(name))
    if known is not None and known.kind == "tower":
        raise CheckpointError(f"{known.name} is a vision tower and cannot answer; try --model {RECOMMENDED}.")


def resolve_answering(name: str | Path | None = None) -> Path:
    """``resolve`` for a model that is to answer: a vision tower is refused before it is looked for."""
    require_answering(name)
    return resolve(name)


def resolve(name: str | Path | None = None) -> Path:
    """The folder of a model: a path, a zoo name, a pulled hub id, or (without a name) the bundled model.

    Raises:
        CheckpointError: unknown (with the nearest names), or not pulled yet.
    """
    name = BUNDLED if name is None else name
    if (own := BUNDLED_FOLDERS.get(str(name))) is not None:
        if (own / "config.json").exists():
            return own
        raise CheckpointError(f"The bundled {name} is not in this installation; name one with --model.")
    if not str(name).strip():
        raise CheckpointError(f"The model's name is empty.{_GIVE}")
    path = expanded(name)
    if path.is_dir():
        return path
    if path.is_file():
        raise CheckpointError(f"{path} is a file; give the folder of a checkpoint.")
    text = str(name)
    hub = _hub(text)
    if hub and (folder := cached(hub)):
        return folder
    if hub is None and find(text) is None and "/" in text:  # a path that no hub id can be
        raise CheckpointError(f"There is no folder '{name}'.{_beside(text) or ' Check the path.'}")
    raise CheckpointError(absent(text) or f"There is no model '{name}'.{_hint(text)}")


def _hint(name: str) -> str:
    near = nearest(name.rsplit("/", 1)[-1], ZOO) or nearest(name, [m.hub for m in ZOO.values() if m.hub])
    return near or _beside(name) or _GIVE


def _beside(name: str) -> str:
    """The nearest folders of those in the same place."""
    parent = expanded(name).parent
    beside = [p.name for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
    return nearest(Path(name).name, beside)


def sibling(name: str, path: Path) -> Path:
    """The folder that a checkpoint's config names: as it is, beside the checkpoint, or pulled.

    Raises:
        CheckpointError: it is not on this machine.
    """
    for folder in (Path(name), path / name, path.parent / name, path.parent / Path(name).name):
        # An adapter in a folder that is called like its base is not that base.
        if _is_model(folder) and folder.resolve() != path.resolve():
            return folder
    last = Path(name).name
    try:
        return resolve(name)
    except CheckpointError:
        if find(last) is None and not Path(last).is_dir():
            raise
        return resolve(last)  # another machine's absolute path often ends in a public name


def _is_model(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("config.json", "adapter_config.json"))
