"""Hand a model on: transformers' layout for vLLM, SGLang, llama.cpp and plain transformers, or the original.

Tensors go from the old files to the new ones a tensor at a time, in the old files' order. The new folder is
built beside its place and appears there whole or not at all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viscot_core.errors import CheckpointError, UsageError
from viscot_core.families.llava import layouts
from viscot_core.families.llava.handover import chat_template, image_processor, portable_tokenizer
from viscot_core.families.llava.layouts import Layout
from viscot_core.families.llava.tokenizer import SENTENCEPIECE
from viscot_core.files import atomic_folder
from viscot_core.models.checkpoint import EMBEDDINGS, HEAD, Checkpoint, Source
from viscot_core.models.load import DTYPES
from viscot_core.models.writing import SHARD_BYTES, WRITTEN, Planned, write_file, write_sharded

if TYPE_CHECKING:
    import torch

Progress = Callable[[int], None]
TOWER_FOLDER = "vision_tower"


def export(
    checkpoint: Checkpoint,
    out: Path,
    layout: Layout,
    *,
    dtype: str = "keep",
    vision_tower: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    advance: Progress = lambda _: None,
) -> Path:
    """Write ``checkpoint`` into the new folder ``out`` in ``layout``.

    Args:
        dtype: ``keep`` (each tensor's own), ``fp32``, ``fp16`` or ``bf16``.
        vision_tower: what ``mm_vision_tower`` says in the original layout.
        advance: told the bytes written, for a progress bar (``planned_bytes`` gives the total).

    Raises:
        CheckpointError: the checkpoint is not whole, or has no sentencepiece model (original layout).
        UsageError: ``out`` holds something already, or an unknown dtype.
    """
    checkpoint.require_whole()
    if dtype != "keep" and dtype not in DTYPES:
        raise UsageError(f"--dtype is keep, {', '.join(DTYPES)}, not '{dtype}'.")
    with atomic_folder(out) as building:
        plan = planned(checkpoint, layout, dtype)
        if layout is Layout.HF:
            _write_hf_files(checkpoint, building, _main_dtype(plan))
        else:
            _write_llava_files(checkpoint, building, _main_dtype(plan), vision_tower)
        checkpoint.manifest.save(building)
        write_sharded(building, plan, shard_bytes=shard_bytes, advance=advance)
    return out


def planned(checkpoint: Checkpoint, layout: Layout, dtype: str = "keep") -> list[Planned]:
    """The tensors of an export with their new names, shapes and dtypes, in the order of the old files."""
    sources = sorted(checkpoint.tensors.items(), key=lambda item: item[1].stored.file)
    return [
        Planned(
            layouts.stored_name(name, layout),
            _shape(name, source, checkpoint, layout),
            DTYPES.get(dtype, source.stored.dtype if source.stored.dtype in WRITTEN else "float32"),
            _maker(name, source, checkpoint, layout),
        )
        for name, source in sources
    ]


def _shape(name: str, source: Source, checkpoint: Checkpoint, layout: Layout) -> tuple[int, ...]:
    if layout is Layout.LLAVA and name in (EMBEDDINGS, HEAD):
        return (checkpoint.text_rows, *source.shape[1:])
    return source.shape


def _maker(name: str, source: Source, checkpoint: Checkpoint, layout: Layout) -> Callable[[], torch.Tensor]:
    if layout is Layout.LLAVA and name in (EMBEDDINGS, HEAD):
        return lambda: source.read()[: checkpoint.text_rows]
    return source.read


def _main_dtype(plan: list[Planned]) -> str:
    """The dtype of the most bytes: what ``config.json`` states."""
    sizes: dict[str, int] = {}
    for tensor in plan:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
    return max(sizes, key=lambda name: sizes[name])


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _generation(checkpoint: Checkpoint) -> dict[str, Any]:
    text = checkpoint.config.text_config
    ids = {key: getattr(text, key, None) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {"_from_model_config": True, **{key: value for key, value in ids.items() if value is not None}}


def _write_hf_files(checkpoint: Checkpoint, out: Path, dtype: str) -> None:
    """Everything beside the weights that plain transformers and the servers read."""
    from transformers import LlavaProcessor

    config = checkpoint.config.to_dict() | {
        "architectures": ["LlavaForConditionalGeneration"],
        "dtype": dtype,
    }
    _write_json(out / "config.json", config)
    rows = int(checkpoint.config.text_config.vocab_size)
    never = sorted({int(checkpoint.config.image_token_id), *range(checkpoint.text_rows, rows)})
    _write_json(
        out / "generation_config.json",
        _generation(checkpoint) | {"do_sample": False, "max_new_tokens": 128, "suppress_tokens": never},
    )
    tokenizer = portable_tokenizer(checkpoint)
    images = image_processor(checkpoint.manifest.image_side)
    images.save_pretrained(out)  # preprocessor_config.json: transformers 4 and the servers look for it
    full = checkpoint.config.vision_feature_select_strategy == "full"
    LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=int(checkpoint.config.vision_config.patch_size),
        vision_feature_select_strategy="full" if full else "default",
        num_additional_image_tokens=1,
        chat_template=chat_template(checkpoint, tokenizer),
    ).save_pretrained(out)
    source = checkpoint.tokenizer_folder / SENTENCEPIECE
    if source.exists():  # the way back to the original layout needs it
        shutil.copyfile(source, out / SENTENCEPIECE)


def _write_llava_files(checkpoint: Checkpoint, out: Path, dtype: str, vision_tower: str | None) -> None:
    """Everything beside the weights that the original code reads."""
    source = checkpoint.tokenizer_folder / SENTENCEPIECE
    if not source.exists():
        raise CheckpointError(
            f"{checkpoint.path} has no {SENTENCEPIECE}, the only tokenizer the original LLaVA code reads; "
            "use --layout hf."
        )
    config = layouts.config_to_llava(checkpoint.config, checkpoint.text_rows, dtype, vision_tower)
    _write_json(out / "config.json", config)
    _write_json(out / "generation_config.json", _generation(checkpoint))
    shutil.copyfile(source, out / SENTENCEPIECE)
    length = int(checkpoint.config.text_config.max_position_embeddings)
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    _write_json(out / "special_tokens_map.json", special)
    _write_json(
        out / "tokenizer_config.json",
        special
        | {
            "add_bos_token": True,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "legacy": checkpoint.manifest.turn_tokens == "legacy",
            "model_max_length": length,
            "padding_side": "right",
            "tokenizer_class": "LlamaTokenizer",
        },
    )
    if config["mm_vision_tower"] == TOWER_FOLDER:
        _write_tower(checkpoint, out / TOWER_FOLDER)


def _write_tower(checkpoint: Checkpoint, folder: Path) -> None:
    """The CLIP folder that ``mm_vision_tower`` names where no public one has this shape."""
    folder.mkdir()
    config = checkpoint.config.vision_config.to_dict() | {"architectures": ["CLIPVisionModel"]}
    _write_json(folder / "config.json", config)
    image_processor(checkpoint.manifest.image_side).save_pretrained(folder)
    write_file(
        folder / "model.safetensors",
        [
            Planned(
                name.replace(layouts.TOWER, "vision_model."),
                source.shape,
                source.stored.dtype,
                source.read,
            )
            for name, source in checkpoint.tensors.items()
            if name.startswith(layouts.TOWER)
        ],
    )
