"""A checkpoint as vLLM and lmms-eval load it: as it is where they can, else exported once into a cache."""

from __future__ import annotations

import hashlib
from pathlib import Path

from viscot_core.families.checkpoint import Checkpoint, Layout
from viscot_core.families.manifest import OWN_TEMPLATE
from viscot_core.files import cache_folder, taking_turns
from viscot_core.models.export import export

_READ_BY_OTHERS = ("chat_template.jinja", "processor_config.json", "tokenizer_config.json")
_FORM = 2
"""Counted up when exports are written otherwise, so that no older one is taken."""


def is_read_by_others(checkpoint: Checkpoint) -> bool:
    """Whether servers and plain transformers read the folder as it is.

    A model with a chat template of its own comes with all they need, under names that changed over the years.
    """
    own = checkpoint.manifest.template == OWN_TEMPLATE
    complete = own or all((checkpoint.path / name).exists() for name in _READ_BY_OTHERS)
    return checkpoint.layout is Layout.HF and complete


def exported(checkpoint: Checkpoint, weights: str, cache: Path | None = None) -> Path:
    """The checkpoint as other software reads it: itself if it is complete, else an export in ``cache``.

    An export stays for the next time; its folder is named by a digest of all it is made of. Of two processes
    that want it at the same time, one writes it and the other waits.
    """
    if is_read_by_others(checkpoint):
        return checkpoint.path
    made_of = f"{weights} {checkpoint.manifest.model_dump_json()} {_FORM}"
    digest = hashlib.sha256(made_of.encode()).hexdigest()[:16]
    folder = cache or cache_folder("exports")
    out = folder / f"{checkpoint.manifest.name}-{digest}"
    with taking_turns(out):
        return out if (out / "config.json").exists() else export(checkpoint, out, Layout.HF)
