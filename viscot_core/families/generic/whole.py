"""Whether a folder holds all of a model: transformers loads it without its numbers and says what is amiss.

Stored names are not those of the model in memory in half of the families; transformers translates them, so
it is asked, and the parameters of the parts are counted by the names in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from viscot_core.families.checkpoint import LOADING, Checkpoint, Source, in_whole_blocks


def compare_with_model(found: Checkpoint) -> None:
    """Fill the lists of problems and the sizes of the parts; reads headers and no tensor.

    Quantised weights are left to the package that reads them: their tensors have names of its own. A tensor
    that no module takes is a note: transformers leaves it out, and hubs hold such weights of other heads.
    """
    if found.raw_config.get("quantization_config"):
        return
    model, report = _without_numbers(found.path)
    found.missing = sorted(report["missing_keys"])
    anywhere = next(iter(found.tensors.values())).stored
    for name, shape, wanted in sorted(report["mismatched_keys"]):
        # Named as in memory: how it is called on disk is transformers' knowledge.
        stored = replace(anywhere, name=name, shape=tuple(shape))
        found.misshaped.append((name, Source(stored), tuple(wanted)))
    found.notes += [
        f"'{name}' is no part of this model and is left out" for name in report["unexpected_keys"]
    ]
    counts = ((name, parameter.numel()) for name, parameter in model.named_parameters())
    found.part_sizes = found.family.parts.sizes(counts)


def odd_matrices(folder: Path) -> list[str]:
    """The matrices that are no whole 4-bit blocks: the tower of Qwen2.5-VL has rows of 3420 numbers."""
    import torch

    model, _ = _without_numbers(folder)
    linear = ((name, each) for name, each in model.named_modules() if isinstance(each, torch.nn.Linear))
    return [name for name, each in linear if not in_whole_blocks(each.weight.shape)]


def _without_numbers(folder: Path) -> Any:
    from transformers import AutoModelForImageTextToText

    with LOADING, _silent():
        return AutoModelForImageTextToText.from_pretrained(
            folder,
            device_map="meta",
            ignore_mismatched_sizes=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )


@contextmanager
def _silent() -> Iterator[None]:
    """Without transformers' own table of what does not fit, and its progress bar."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
