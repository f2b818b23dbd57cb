"""What other software needs beside the weights: pixels, ids and words as viscot makes them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from viscot_core.conversation import IMAGE
from viscot_core.families.checkpoint import Checkpoint
from viscot_core.families.llava.template import EOS, TEMPLATES
from viscot_core.families.llava.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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


_CHAT_TEMPLATE = """\
{%- set turns = messages %}
{%- if messages[0]['role'] == 'system' %}
  {%- set system = messages[0]['content'] %}
  {%- set turns = messages[1:] %}
{%- endif %}
{%- if system is not string %}
  {%- set system = system[0]['text'] %}
{%- endif %}
{{- system + ' ' }}
{%- for message in turns %}
  {%- set content = message['content'] or '' %}
  {%- set pictures = [] %}
  {%- set words = content %}
  {%- if content is not string %}
    {%- set pictures = content | rejectattr('type', 'equalto', 'text') | list %}
    {%- set words = content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join('') %}
  {%- endif %}
  {%- if message['role'] == 'user' %}
    {%- if strip %}
      {%- set words = words.rstrip() if pictures else words.strip() %}
    {%- endif %}
    {{- 'USER:' }}
    {%- if pictures or words %}
      {{- ' ' }}
      {%- for _ in pictures %}
        {{- picture }}
        {%- if words or not loop.last %}
          {{- '\\n' }}
        {%- endif %}
      {%- endfor %}
      {{- words + ' ' }}
    {%- endif %}
  {%- else %}
    {{- 'ASSISTANT: ' + words + eos }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- 'ASSISTANT:' }}
{%- endif %}"""


def chat_template(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> str:
    """A Jinja chat template that renders messages as ``prompts.render`` does, a message's images first.

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
        "picture": IMAGE + (" " if metaspace else ""),
        "eos": EOS,
    }
    chosen = "".join(f"{{%- set {name} = {json.dumps(value)} %}}\n" for name, value in choices.items())
    return f"{bos}\n{chosen}{_CHAT_TEMPLATE}"
