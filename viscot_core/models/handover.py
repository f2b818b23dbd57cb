"""What other software needs beside the weights: pixels, ids and words as viscot makes them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from viscot_core.models.checkpoint import Checkpoint
from viscot_core.models.tokenizer import load_tokenizer
from viscot_core.prompts import EOS, IMAGE, TEMPLATES

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


def chat_template(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> str:
    """A Jinja chat template that renders messages as ``prompts.render`` does, a message's pictures first.

    LLaVA's own tokenization puts sentencepiece's dummy space after BOS and after every picture. Where the
    tokenizer puts it before the whole text only (Metaspace), the template writes that space.
    """
    metaspace = type(tokenizer.backend_tokenizer.pre_tokenizer).__name__ == "Metaspace"
    template = TEMPLATES[checkpoint.manifest.template]
    bos = "{{- bos_token }}" if tokenizer.bos_token else ""
    bos += "{{- ' ' }}" if bos and metaspace else ""
    picture = IMAGE + (" " if metaspace else "")
    trim = " | trim" if template.strip else ""
    return (
        bos
        + "{%- if messages[0]['role'] == 'system' %}"
        + "{%- set system = messages[0]['content'] %}{%- set turns = messages[1:] %}"
        + "{%- else %}{%- set system = "
        + json.dumps(template.system)
        + " %}{%- set turns = messages %}{%- endif %}"
        + "{%- if system is not string %}{%- set system = system[0]['text'] %}{%- endif %}"
        + "{{- system + ' ' }}"
        + "{%- for message in turns %}"
        + "{{- 'USER:' if message['role'] == 'user' else 'ASSISTANT:' }}"
        + "{%- if message['content'] is string %}{{- ' ' + (message['content']"
        + trim
        + ") }}"
        + "{%- elif message['content'] %}{{- ' ' }}"
        + "{%- set words = message['content'] | selectattr('type', 'equalto', 'text') | map(attribute='text')"
        + " | join('')"
        + trim
        + " %}"
        + "{%- for part in message['content'] | rejectattr('type', 'equalto', 'text') %}"
        + "{{- '"
        + picture
        + "' }}{%- if words or not loop.last %}{{- '\\n' }}{%- endif %}{%- endfor %}"
        + "{{- words }}{%- endif %}"
        + "{{- ' ' if message['role'] == 'user' else '"
        + EOS
        + "' }}"
        + "{%- endfor %}"
        + "{%- if add_generation_prompt %}{{- 'ASSISTANT:' }}{%- endif %}"
    )
