"""LLaVA's files beside the weights: what other software needs to make viscot's pixels, ids and words.

In transformers' layout for vLLM, SGLang, llama.cpp and plain transformers, or in the original one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viscot_core.conversation import IMAGE
from viscot_core.errors import CheckpointError
from viscot_core.families.checkpoint import Checkpoint, Layout
from viscot_core.families.llava import layouts, original_config
from viscot_core.families.llava.template import EOS, TEMPLATES
from viscot_core.families.llava.tokenizer import (
    SENTENCEPIECE,
    keep_sentencepiece,
    load_tokenizer,
    state_portably,
    system_errors,
)
from viscot_core.tensor_writer import Planned, write_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def exported_rows(name: str, checkpoint: Checkpoint, layout: Layout) -> int | None:
    """Rows of a tensor that the layout keeps, where fewer: the original one has no image token."""
    cut = layout is Layout.LLAVA and name in (layouts.EMBEDDINGS, layouts.HEAD)
    return checkpoint.text_rows if cut else None


def write_files(
    checkpoint: Checkpoint, out: Path, layout: Layout, *, dtype: str, vision_tower: str | None
) -> None:
    """Everything beside the weights, for weights of ``dtype`` (torch's name).

    Raises:
        CheckpointError: the original layout needs a sentencepiece model, and there is none.
    """
    if layout is Layout.HF:
        _write_hf_files(checkpoint, out, dtype)
    else:
        _write_llava_files(checkpoint, out, dtype, vision_tower)


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
    images = image_processor(int(checkpoint.config.vision_config.image_size))
    images.save_pretrained(out)  # preprocessor_config.json: transformers 4 and the servers look for it
    full = checkpoint.config.vision_feature_select_strategy == "full"
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=int(checkpoint.config.vision_config.patch_size),
        vision_feature_select_strategy="full" if full else "default",
        # The class token: the processor counts it and, with "default", takes one off again (576 at 336 px).
        num_additional_image_tokens=1,
        chat_template=chat_template(checkpoint, tokenizer),
    )
    with system_errors(out):
        processor.save_pretrained(out)
    state_portably(out)
    keep_sentencepiece(checkpoint.tokenizer_folder, out)


def _write_llava_files(checkpoint: Checkpoint, out: Path, dtype: str, vision_tower: str | None) -> None:
    """Everything beside the weights that the original code reads."""
    original_config.require_original(checkpoint.config)
    if not keep_sentencepiece(checkpoint.tokenizer_folder, out):
        raise CheckpointError(
            f"{checkpoint.path} has no {SENTENCEPIECE}, the only tokenizer the original LLaVA code reads; "
            "use --layout hf, or copy the file from the base language model."
        )
    config = original_config.config_to_llava(checkpoint.config, checkpoint.text_rows, dtype, vision_tower)
    _write_json(out / "config.json", config)
    _write_json(out / "generation_config.json", _generation(checkpoint))
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
            # v4.31 is what the original code's transformers makes of legacy: false.
            "legacy": checkpoint.manifest.turn_tokens == "legacy",
            "model_max_length": length,
            "padding_side": "right",
            "tokenizer_class": "LlamaTokenizer",
        },
    )
    if config["mm_vision_tower"] == original_config.TOWER_FOLDER:
        _write_tower(checkpoint, out / original_config.TOWER_FOLDER)


def _write_tower(checkpoint: Checkpoint, folder: Path) -> None:
    """The CLIP folder that ``mm_vision_tower`` names where no public one has this shape."""
    folder.mkdir()
    config = checkpoint.config.vision_config.to_dict() | {"architectures": ["CLIPVisionModel"]}
    _write_json(folder / "config.json", config)
    image_processor(int(checkpoint.config.vision_config.image_size)).save_pretrained(folder)
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


def image_processor(side: int) -> Any:
    """transformers' processor with viscot's pixels: a square padded with the mean colour, then bicubic."""
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    return LlavaImageProcessorPil(
        do_pad=True, size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )


def portable_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    """The tokenizer for software that knows nothing of ``turn_tokens``.

    ``v4.31`` is made of ``plain`` by taking out the merge that joins ``US`` and ``ER``: at a turn's start
    ``USER`` then becomes the two ids the model was trained on, and `` USER`` elsewhere always was two.
    """
    turn_tokens = checkpoint.manifest.turn_tokens
    if turn_tokens != "v4.31" or (checkpoint.tokenizer_folder / "tokenizer.json").exists():
        return load_tokenizer(checkpoint.tokenizer_folder, turn_tokens)
    tokenizer = load_tokenizer(checkpoint.tokenizer_folder, "plain")
    _forget_merge(tokenizer, "USER")
    return tokenizer


def _forget_merge(tokenizer: PreTrainedTokenizerBase, piece: str) -> None:
    from tokenizers import Tokenizer

    content = json.loads(tokenizer.backend_tokenizer.to_str())
    merges = content["model"]["merges"]
    content["model"]["merges"] = [pair for pair in merges if "".join(pair) != piece]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))


# The loop is over `message['content']` by that name: vLLM and SGLang hand a template the parts of a message
# where they find such a loop in it. Else they write the image marks themselves, as text, and the template
# cannot put its space behind each.
_CHAT_TEMPLATE = """\
{%- for message in messages %}
  {%- set said = namespace(words='', images=0) %}
  {%- if message['content'] is string %}
    {%- set said.words = message['content'] %}
  {%- elif message['content'] %}
    {%- for part in message['content'] %}
      {%- if part['type'] == 'text' %}
        {%- set said.words = said.words + part['text'] %}
      {%- else %}
        {%- set said.images = said.images + 1 %}
      {%- endif %}
    {%- endfor %}
  {%- endif %}
  {%- if loop.first %}
    {{- (said.words if message['role'] == 'system' else system) + ' ' }}
  {%- endif %}
  {%- if message['role'] == 'user' %}
    {%- if strip %}
      {%- set said.words = said.words.rstrip() if said.images else said.words.strip() %}
    {%- endif %}
    {{- 'USER:' }}
    {%- if said.images or said.words %}
      {{- ' ' }}
      {%- for _ in range(said.images) %}
        {{- image }}
        {%- if said.words or not loop.last %}
          {{- '\\n' }}
        {%- endif %}
      {%- endfor %}
      {{- said.words + ' ' }}
    {%- endif %}
  {%- elif message['role'] == 'assistant' %}
    {{- 'ASSISTANT: ' + said.words + eos }}
  {%- elif message['role'] != 'system' or not loop.first %}
    {{- raise_exception('A system message may come first; all others are of user or assistant.') }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- 'ASSISTANT:' }}
{%- endif %}"""


def chat_template(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> str:
    """A Jinja chat template that renders messages as ``template.render`` does, a message's images first.

    LLaVA's own tokenization puts sentencepiece's dummy space after BOS and after every image. Where the
    tokenizer puts it before the whole text only (Metaspace), the template writes that space.
    """
    metaspace = type(tokenizer.backend_tokenizer.pre_tokenizer).__name__ == "Metaspace"
    template = TEMPLATES[checkpoint.manifest.template]
    bos = "{{- bos_token }}" if tokenizer.bos_token else ""
    bos += "{{- ' ' }}" if bos and metaspace else ""
    choices = {
        "system": template.system,
        "strip": template.strip,
        "image": IMAGE + (" " if metaspace else ""),
        "eos": EOS,
    }
    chosen = "".join(f"{{%- set {name} = {json.dumps(value)} %}}\n" for name, value in choices.items())
    return f"{bos}\n{chosen}{_CHAT_TEMPLATE}"
