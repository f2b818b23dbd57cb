"""The Hugging Face tokenizer of a checkpoint: its ids as trained, plus ``<image>``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viscot_core.errors import CheckpointError
from viscot_core.models.manifest import TurnTokens
from viscot_core.prompts import IMAGE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SENTENCEPIECE = "tokenizer.model"
FAST = "tokenizer.json"


def declared_turn_tokens(path: Path, config: Mapping[str, Any]) -> TurnTokens:
    """How a checkpoint without a manifest tokenized a turn's start, by its own ``legacy`` flag and version.

    The reference was developed on transformers 4.31, whose legacy=False is a form of its own (``v4.31``);
    from 4.33 on legacy=False is ``plain``.
    """
    file = path / "tokenizer_config.json"
    declared = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if (path / FAST).exists() and "legacy" not in declared:
        return "plain"
    if declared.get("legacy") is not False:
        return "legacy"  # transformers took a missing flag for legacy=True in those years
    version = re.match(r"4\.(\d+)", str(config.get("transformers_version", "")))
    return "v4.31" if version and int(version.group(1)) < 33 else "plain"


def token_count(path: Path) -> int:
    """Ids of the checkpoint's own vocabulary, added tokens included, ``<image>`` left out.

    Raises:
        CheckpointError: no tokenizer in the folder, or a damaged one.
    """
    tokenizer = _read(path, "plain")
    return len(tokenizer) - (IMAGE in tokenizer.get_added_vocab())


def load_tokenizer(path: Path, turn_tokens: TurnTokens) -> PreTrainedTokenizerBase:
    """The tokenizer with ``<image>`` as its next free id where it has none; no other id changes."""
    tokenizer = _read(path, turn_tokens)
    if IMAGE not in tokenizer.get_vocab():
        from tokenizers import AddedToken

        tokenizer.add_tokens([AddedToken(IMAGE, normalized=False, special=True)], special_tokens=True)
    return tokenizer


def _read(path: Path, turn_tokens: TurnTokens) -> PreTrainedTokenizerBase:
    from transformers import LlamaTokenizer, PreTrainedTokenizerFast

    if not (path / FAST).exists() and not (path / SENTENCEPIECE).exists():
        raise CheckpointError(
            f"{path} has no tokenizer ({FAST} or {SENTENCEPIECE}); copy it from the model's source."
        )
    try:
        if (path / SENTENCEPIECE).exists() and not (path / FAST).exists():
            return LlamaTokenizer.from_pretrained(path, legacy=turn_tokens != "plain")
        return PreTrainedTokenizerFast.from_pretrained(path)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: its tokenizer is damaged ({reason}); copy it again.") from error
