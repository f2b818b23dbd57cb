"""Put a checkpoint on the hub: its own files and a model card in one commit, there whole or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

from viscot_core.addresses import check_proxies, without_password
from viscot_core.errors import CheckpointError, UsageError
from viscot_core.models import adapters
from viscot_core.models.card import MARK, card, without_folders
from viscot_core.models.checkpoint import open_checkpoint
from viscot_core.models.pull import second_copies

CARD = "README.md"
_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_KEPT = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "viscot.json",
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "spiece.model",
    "*preprocessor_config.json", "processor_config.json", "chat_template.*", "adapter_config.json",
    "*projector.bin", "non_lora_trainables.bin", "adapter_model.bin",
    "pytorch_model*.bin", "pytorch_model*.bin.index.json",
)  # fmt: skip
"""A checkpoint's own files. A run folder also holds recipes, plans, logs and checkpoints: they stay here."""


def require_pushable(name: str) -> None:
    """Before hours of work: the name is the hub's, and there is a token that the hub knows.

    Raises:
        UsageError: another name, or no token.
        CheckpointError: the hub refuses the token, or cannot be reached.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"'{name}' is no name on the hub; write ORG/NAME.")
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise UsageError("To push to the hub, set HF_TOKEN to a token that may write.")
    check_proxies()
    try:
        HfApi().whoami()
    except _refusals() as error:
        raise _refused(name, error) from error


def push(
    name: str, folder: Path, *, public: bool = False, say: Callable[[str], None] = lambda _: None
) -> str:
    """Upload the checkpoint in ``folder`` as ``name``; the address of the model.

    A repository that is not there yet is made, private unless ``public``. A card that somebody else wrote is
    left as it is.

    Raises:
        UsageError: another name than ORG/NAME, or no token.
        CheckpointError: the checkpoint is not whole, or the hub refuses or cannot be reached.
    """
    if not adapters.is_adapter(folder):
        open_checkpoint(folder).require_whole()
    require_pushable(name)
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()
    files = _files(folder)
    size = sum(path.stat().st_size for path in files)
    say(f"{len(files)} files, {size / 1e9:.2f} GB, to {name}")
    operations = [
        CommitOperationAdd(path.relative_to(folder).as_posix(), _content(path, say)) for path in files
    ]
    api = HfApi()
    try:
        address = api.create_repo(name, private=not public, exist_ok=True)
        if _may_write_card(name):
            operations.append(CommitOperationAdd(CARD, card(name, folder).encode()))
        else:
            say(f"{name} has a card of its own, which stays as it is.")
        api.create_commit(name, operations, commit_message="Upload a checkpoint with viscot")
    except _refusals() as error:
        raise _refused(name, error) from error
    return without_password(str(address))


def _files(folder: Path) -> list[Path]:
    """A checkpoint's own files; of an adapter also those of a base that lies inside its folder."""
    folders = [folder]
    if adapters.is_adapter(folder) and (inside := folder / Path(adapters.base_name(folder)).name).is_dir():
        folders.append(inside)
    found = []
    for each in folders:
        names = {path.name for pattern in _KEPT for path in each.glob(pattern) if path.is_file()}
        again = second_copies(names)
        found += [each / name for name in sorted(names) if not any(fnmatch(name, skip) for skip in again)]
    return found


def _content(path: Path, say: Callable[[str], None]) -> Path | bytes:
    """The file, or its content with last names where it names models by folders of this machine."""
    if path.name not in ("config.json", adapters.CONFIG):
        return path
    config = json.loads(path.read_text(encoding="utf-8"))
    texts = {key: value for key, value in config.items() if isinstance(value, str)}
    there = {key: short for key, value in texts.items() if (short := without_folders(value)) != value}
    if not there:
        return path
    for key, value in there.items():
        say(
            f"{path.name}, {key}: a folder of this machine; on the hub it says '{value}', for others to have."
        )
    return json.dumps(config | there, indent=2).encode()


def _may_write_card(name: str) -> bool:
    """Whether the hub has no card of this model yet, or one that viscot wrote."""
    from huggingface_hub import HfApi, hf_hub_download

    if not HfApi().file_exists(name, CARD):
        return True
    return MARK.encode() in Path(hf_hub_download(name, CARD)).read_bytes()


def _refusals() -> tuple[type[Exception], ...]:
    """How it shows that the hub refuses, cannot be reached, or is none (its words are not JSON)."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx

    # A large file that fails on its way is a RuntimeError with the cause behind it.
    return HfHubHTTPError, httpx.HTTPError, OSError, ValueError, RuntimeError


def _refused(name: str, error: Exception) -> CheckpointError:
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    # The first line only: what follows may quote headers. It may name the signed address of an upload.
    reason = without_password((str(error) or type(error).__name__).splitlines()[0])
    return CheckpointError(
        f"{name} could not be pushed ({reason}); HF_TOKEN must be a token that may write there, HF_ENDPOINT "
        "names another hub."
    )
