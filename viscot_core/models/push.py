"""Put a checkpoint on the hub: its own files and a model card in one commit, there whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from viscot_core.errors import CheckpointError, UsageError
from viscot_core.models import adapters
from viscot_core.models.card import MARK, card
from viscot_core.models.checkpoint import open_checkpoint

CARD = "README.md"
_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_KEPT = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "viscot.json",
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "spiece.model",
    "*preprocessor_config.json", "processor_config.json", "chat_template.*", "adapter_config.json",
    "*projector.bin", "non_lora_trainables.bin",
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
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx

    if get_token() is None:
        raise UsageError("To push to the hub, set HF_TOKEN to a token that may write.")
    try:
        HfApi().whoami()
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
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
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx, logging

    logging.set_verbosity_error()
    files = sorted({path for pattern in _KEPT for path in folder.glob(pattern) if path.is_file()})
    size = sum(path.stat().st_size for path in files)
    say(f"{len(files)} files, {size / 1e9:.2f} GB, to {name}")
    operations = [CommitOperationAdd(path.name, path) for path in files]
    api = HfApi()
    try:
        address = api.create_repo(name, private=not public, exist_ok=True)
        if _may_write_card(name):
            operations.append(CommitOperationAdd(CARD, card(name, folder).encode()))
        else:
            say(f"{name} has a card of its own, which stays as it is.")
        api.create_commit(name, operations, commit_message="Upload a checkpoint with viscot")
    except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:
        raise _refused(name, error) from error
    return str(address)


def _may_write_card(name: str) -> bool:
    """Whether the hub has no card of this model yet, or one that viscot wrote."""
    from huggingface_hub import HfApi, ModelCard

    if not HfApi().file_exists(name, CARD):
        return True
    return MARK in ModelCard.load(name).content


def _refused(name: str, error: Exception) -> CheckpointError:
    # The first line only: what follows may quote headers.
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return CheckpointError(
        f"{name} could not be pushed ({reason}); HF_TOKEN must be a token that may write there, HF_ENDPOINT "
        "names another hub."
    )
