"""Exact lengths in tokens, images included, for `viscot data mix` and `viscot data stats`.

Training groups rows by an estimate from their bytes instead (``train/loop/mixture_dataset.py``): it takes no
pass of the tokenizer over millions of rows, and is the same on every machine.
"""

from __future__ import annotations

import hashlib
from functools import partial

import numpy as np
from numpy.typing import NDArray

from viscot_core.data.annotations import Conversation
from viscot_core.data.encode import training_turns
from viscot_core.data.mixture import Mixture, Progress
from viscot_core.families.llava.processor import ChatTokenizer
from viscot_core.families.llava.template import Template, render


def token_lengths(
    mixture: Mixture,
    tokens: ChatTokenizer,
    template: Template,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> NDArray[np.int32]:
    """Tokens of every row as training renders it, ``int32[len]``; computed once and cached in the mixture."""
    return mixture.lengths(
        partial(row_length, tokens, template),
        tokenizer_key(tokens, template),
        workers=workers,
        progress=progress,
    )


def row_length(tokens: ChatTokenizer, template: Template, row: Conversation) -> int:
    """Tokens of one row before any cut, image tokens included."""
    rendered = render(training_turns(row.turns, plain=template.plain), template)
    return len(tokens.encode(rendered).ids)


def tokenizer_key(tokens: ChatTokenizer, template: Template) -> str:
    """Everything lengths depend on: the tokenizer, tokens per image, turn starts, the template's words."""
    vocabulary = hashlib.sha256(tokens.hf.backend_tokenizer.to_str().encode()).hexdigest()
    return f"{vocabulary} {tokens.image_tokens} {tokens.turn_tokens} {template!r}"
