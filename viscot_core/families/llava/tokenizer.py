"""The Hugging Face tokenizer of a checkpoint: its ids as trained, plus ``<image>``."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viscot_core.conversation import IMAGE
from viscot_core.errors import CheckpointError
from viscot_core.families.manifest import TurnTokens
from viscot_core.files import atomic_write
from viscot_core.tensors import require_no_pointer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SENTENCEPIECE = "tokenizer.model"
FAST = "tokenizer.json"
CONFIG = "tokenizer_config.json"
_OF_THIS_LOAD = ("backend", "is_local", "local_files_only")
SPACE = "\u2581"
"""sentencepiece's mark of a space."""


def declared_turn_tokens(path: Path, config: Mapping[str, Any]) -> TurnTokens:
    """How a checkpoint without a manifest tokenized a turn's start, by its own ``legacy`` flag and version.

    The reference was developed on transformers 4.31, whose legacy=False is a form of its own (``v4.31``);
    from 4.33 on legacy=False is ``plain``.
    """
    declared = _declared(path)
    if (path / FAST).exists() and "legacy" not in declared:
        return "plain"
    if declared.get("legacy") is not False:
        return "legacy"  # transformers took a missing flag for legacy=True in those years
    version = re.match(r"4\.(\d+)", str(config.get("transformers_version", "")))
    return "v4.31" if version and int(version.group(1)) < 33 else "plain"


def _declared(path: Path) -> dict[str, Any]:
    """``tokenizer_config.json``, empty where there is none."""
    file = path / CONFIG
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged ({error}); copy it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} holds no JSON object; copy it again.")
    return content


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


def keep_sentencepiece(source: Path, out: Path) -> bool:
    """Copy the sentencepiece model, which transformers does not save; the original layout needs it.

    False where ``source`` has none.
    """
    if not (source / SENTENCEPIECE).exists():
        return False
    shutil.copyfile(source / SENTENCEPIECE, out / SENTENCEPIECE)
    return True


def state_portably(folder: Path) -> None:
    """Let ``tokenizer_config.json``, as transformers 5 writes it, be read by transformers 4.57 too.

    4.57 has no class TokenizersBackend, and takes a mapping only as ``extra_special_tokens``; 5 reads the
    older names as well. Nor does 4.57 leave out token types, which Llama refuses, where nothing says so. What
    tells how this process loaded its files is left out.
    """
    kept = {name: value for name, value in _declared(folder).items() if name not in _OF_THIS_LOAD}
    extra = kept.pop("extra_special_tokens", None)
    if extra:
        kept["additional_special_tokens"] = extra
    kept["tokenizer_class"] = "PreTrainedTokenizerFast"
    kept["model_input_names"] = ["input_ids", "attention_mask"]
    with atomic_write(folder / CONFIG) as file:
        json.dump(kept, file, indent=2, ensure_ascii=False)
        file.write("\n")


def _read(path: Path, turn_tokens: TurnTokens) -> PreTrainedTokenizerBase:
    from transformers import PreTrainedTokenizerFast

    if not (path / FAST).exists() and not (path / SENTENCEPIECE).exists():
        raise CheckpointError(
            f"{path} has no tokenizer ({FAST} or {SENTENCEPIECE}); copy it from the model's source."
        )
    for name in (FAST, SENTENCEPIECE):
        require_no_pointer(path / name)
    try:
        if (path / FAST).exists():
            fast = PreTrainedTokenizerFast.from_pretrained(path)
            if not isinstance(fast.model_max_length, (int, float)):
                raise ValueError(f"model_max_length is {fast.model_max_length!r}")
            return fast
        return _from_sentencepiece(path, turn_tokens)
    except CheckpointError:
        raise
    except Exception as error:  # the tokenizers package raises nothing narrower
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: its tokenizer is damaged ({reason}); copy it again.") from error


def _from_sentencepiece(path: Path, turn_tokens: TurnTokens) -> PreTrainedTokenizerBase:
    """LLaMA's ``tokenizer.model`` with its pieces merged by score, as sentencepiece merges them.

    (transformers 5.23 orders the merges by id, which joins runs of spaces first: `` ASSISTANT`` after a
    image then gets other ids than the released models were trained on.) ``plain`` puts the dummy space
    before the text only, the other two also after every special token.
    """
    from sentencepiece import SentencePieceProcessor
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = SentencePieceProcessor(model_file=str(path / SENTENCEPIECE))
    vocabulary = {pieces.id_to_piece(i): i for i in range(pieces.get_piece_size())}
    backend = Tokenizer(
        models.BPE(
            vocabulary, _merges(pieces, vocabulary), unk_token="<unk>", fuse_unk=True, byte_fallback=True
        )
    )
    if turn_tokens == "plain":
        backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="first", split=False)
    else:
        # A normalizer runs on every piece between special tokens, so each gets the mark; Metaspace's "first"
        # gives it to the beginning of the text only.
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
        )
    # Strip takes off the one dummy space that encoding put before the text.
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", pieces.bos_id())]
    )
    declared = _declared(path)
    pad = declared.get("pad_token")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token=pad if isinstance(pad, str) else "<unk>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=int(declared.get("model_max_length", 2048)),
    )
    tokenizer.add_tokens(
        [AddedToken(token, normalized=False) for token in _added(path, declared) if token not in vocabulary]
    )
    return tokenizer


def _merges(pieces: Any, vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    """Every pair that makes a piece, the best-scored piece first."""
    found = [
        (-pieces.get_score(number), -left, left - len(piece), piece[:left], piece[left:])
        for piece, number in vocabulary.items()
        for left in range(1, len(piece))
        if piece[:left] in vocabulary and piece[left:] in vocabulary
    ]
    # Best score first; among equal scores the longer left half, then the longer right one.
    found.sort(key=lambda merge: merge[:3])
    return [(left, right) for *_, left, right in found]


def _added(path: Path, declared: Mapping[str, Any]) -> list[str]:
    """Tokens beyond the sentencepiece model, in the order of their ids."""
    by_id = {int(i): entry["content"] for i, entry in declared.get("added_tokens_decoder", {}).items()}
    file = path / "added_tokens.json"
    if file.exists():
        by_id |= {int(i): token for token, i in json.loads(file.read_text(encoding="utf-8")).items()}
    # The tokenizer gives each the next free id, so this order keeps the ids that were trained.
    return [by_id[i] for i in sorted(by_id)]


@contextmanager
def system_errors(folder: Path) -> Iterator[None]:
    """A full disk or a limit of file size as an OSError: tokenizers' own writer raises a bare Exception."""
    try:
        yield
    except Exception as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None or isinstance(error, OSError):
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(folder)) from error
