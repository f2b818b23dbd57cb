"""LLaVA's conversations as token ids, the same for training and for asking.

Each text chunk between images is tokenized whole, as the reference does; a token is supervised when it covers
a spoken character, which the tokenizer's own offsets tell. ``<image>`` becomes as many image ids as the tower
gives features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from viscot_core.boxes.formats import Codec
from viscot_core.boxes.geometry import Size
from viscot_core.boxes.registry import codec
from viscot_core.conversation import IMAGE, Message
from viscot_core.families.base import Spans
from viscot_core.families.inputs import IGNORE, Rendered
from viscot_core.families.llava.pixels import normalise_all, quick_square_pixels, square_image
from viscot_core.families.llava.template import EOS, TEMPLATES, Chunk, Chunks, Template, render
from viscot_core.families.llava.tokenizer import keep_sentencepiece, state_portably, system_errors
from viscot_core.families.manifest import TurnTokens
from viscot_core.families.training import RowInputs

if TYPE_CHECKING:
    import torch

_SPACE = "\u2581"
_NO_LETTER = "\ufffd"
"""What decoding makes of bytes that are no letter, or not yet one."""
KEPT_CHUNKS = 256
"""Texts whose ids are remembered: the words before an image and after it are the same in most prompts."""


class ChatTokenizer:
    """A Hugging Face tokenizer with viscot's rules for images and turn starts.

    ``turn_tokens`` names how the text after ``</s>`` begins, for LLaMA's vocabulary: ``legacy`` ``▁US ER``,
    ``plain`` ``USER``, ``v4.31`` ``US ER`` (what transformers 4.31 gave with legacy=False, which the released
    weights were trained with). The tokenizer must put a space after every special token for ``legacy`` and
    ``v4.31`` (``models/tokenizer.py`` does).
    """

    def __init__(self, tokenizer: Any, *, image_tokens: int, turn_tokens: TurnTokens = "plain") -> None:
        self.hf = tokenizer
        self.image_tokens = image_tokens
        self.turn_tokens = turn_tokens
        self.image_id: int = tokenizer.convert_tokens_to_ids(IMAGE)
        self.eos_id: int = tokenizer.convert_tokens_to_ids(EOS)
        self.bos_id: int | None = tokenizer.bos_token_id
        pad = tokenizer.pad_token_id
        self.pad_id: int = self.eos_id if pad is None else pad
        self._pieces: dict[int, str] = {}
        self._encoded: dict[Chunk, tuple[list[int], list[int]]] = {}
        # After a token that is a byte, or that decoding leaves out, a byte may follow and change the letter.
        raw_bytes = {tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in range(256)}
        self._unsettled = raw_bytes | set(tokenizer.all_special_ids)
        # "<image>" said in words must not become an image: it is spelled with these ids instead.
        self._spelled: list[int] = [
            i for part in ("<", "image", ">") for i in tokenizer(part, add_special_tokens=False)["input_ids"]
        ]
        self._backend = tokenizer.backend_tokenizer  # the same ids in half the time of the wrapper's call
        # sentencepiece puts a space before every text, even one that begins with a space; Metaspace does not.
        self._doubles_space = type(self._backend.pre_tokenizer).__name__ == "Metaspace"

    def encode(self, rendered: Chunks, image_tokens: int | None = None) -> Rendered:
        """Ids and labels of a whole conversation, beginning with BOS where the vocabulary has one.

        ``image_tokens`` stand for each image, without a word as many as the tower gives features.
        """
        of_image = self.image_tokens if image_tokens is None else image_tokens
        ids: list[int] = [] if self.bos_id is None else [self.bos_id]
        labels: list[int] = [IGNORE] * len(ids)
        for number, chunk in enumerate(rendered.chunks):
            if number:
                ids += [self.image_id] * of_image
                labels += [IGNORE] * of_image
            if (encoded := self._encoded.get(chunk)) is None:
                if len(self._encoded) >= KEPT_CHUNKS:
                    self._encoded.clear()
                chunk_ids, spoken = self._encode_chunk(chunk)
                learned = [i if said else IGNORE for i, said in zip(chunk_ids, spoken, strict=True)]
                encoded = self._encoded[chunk] = (chunk_ids, learned)
            ids += encoded[0]
            labels += encoded[1]
        return Rendered(ids, labels, rendered.n_images)

    def _encode_chunk(self, chunk: Chunk) -> tuple[list[int], list[bool]]:
        if not chunk.text:
            return [], []
        added = " " if self._doubles_space and chunk.text.startswith(" ") else ""
        out = self._backend.encode(added + chunk.text, add_special_tokens=False)
        ids: list[int] = out.ids
        spoken = _spoken(out.offsets, chunk.spoken, shift=len(added))
        if self.image_id in ids:
            ids, spoken = self._spell_images(ids, spoken)
        if self.turn_tokens == "v4.31":
            return self._split_turn_starts(ids, spoken)
        return ids, spoken

    def _spell_images(self, ids: list[int], spoken: list[bool]) -> tuple[list[int], list[bool]]:
        pairs = [
            (new, said)
            for token, said in zip(ids, spoken, strict=True)
            for new in (self._spelled if token == self.image_id else [token])
        ]
        return [token for token, _ in pairs], [said for _, said in pairs]

    def _split_turn_starts(self, ids: list[int], spoken: list[bool]) -> tuple[list[int], list[bool]]:
        """Take the space mark off the first token after each special token: ``▁US`` -> ``US``."""
        special = {self.eos_id, self.bos_id, self.hf.unk_token_id}
        kept_ids: list[int] = []
        kept_spoken: list[bool] = []
        for position, (token, said) in enumerate(zip(ids, spoken, strict=True)):
            if position and ids[position - 1] in special:
                piece = self.hf.convert_ids_to_tokens(token)
                if piece == _SPACE:
                    continue
                if piece.startswith(_SPACE):
                    bare = self.hf.convert_tokens_to_ids(piece[1:])
                    if bare is not None and bare != self.hf.unk_token_id:
                        token = bare
            kept_ids.append(token)
            kept_spoken.append(said)
        return kept_ids, kept_spoken

    def piece(self, token: int) -> str:
        """The text of one token, remembered: rows are looked through token by token."""
        if token not in self._pieces:
            self._pieces[token] = str(self.hf.decode([token]))
        return self._pieces[token]

    def decode(self, ids: Sequence[int]) -> str:
        """Words of generated ids, special tokens left out, surrounding white space stripped."""
        return self.text(ids).strip()

    def text(self, ids: Sequence[int]) -> str:
        """As ``decode``, with surrounding white space."""
        return str(self.hf.decode(list(ids), skip_special_tokens=True))

    def settled_text(self, ids: Sequence[int]) -> str:
        """The beginning of ``text(ids)`` that stays, whatever tokens follow: no half of a letter."""
        count = len(ids)
        while count and ids[count - 1] in self._unsettled:
            count -= 1
        return self.text(ids[:count]).rstrip(_NO_LETTER)


class ChatProcessor:
    """``tokens`` under ``template``; ids from ``text_rows`` on (image token, padding) are never said."""

    def __init__(self, tokens: ChatTokenizer, template: Template, config: Any, text_rows: int) -> None:
        self.tokens = tokens
        self.template = template
        self.text_rows = text_rows
        self._config = config
        self.image_side = int(config.vision_config.image_size)
        self.context = int(config.text_config.max_position_embeddings)
        self.stop_ids = frozenset({tokens.eos_id})
        self.pad_id = tokens.pad_id
        self.image_id = tokens.image_id
        rows = int(config.text_config.vocab_size)
        self.suppress_tokens = sorted({tokens.image_id, *range(text_rows, rows)})
        self.identity = {"turn_tokens": tokens.turn_tokens, "template": template.name}
        self.image_tokens = tokens.image_tokens
        self.thinks = False
        self.typical_prompt = 2 * tokens.image_tokens + 256

    def render(
        self, messages: Sequence[Message], sizes: Sequence[Size] | None, *, generate: bool = False
    ) -> Rendered:
        """Ids and labels; every image is a square of as many tokens, whatever its size."""
        chunks = render(messages, self.template, generate=generate)
        if sizes is not None and chunks.n_images != len(sizes):
            raise ValueError(f"the prompt has {chunks.n_images} <image> marks for {len(sizes)} images")
        return self.tokens.encode(chunks)

    def slot_ids(self, messages: Sequence[Message]) -> list[int]:
        """One id an image."""
        return self.tokens.encode(render(messages, self.template, generate=True), image_tokens=1).ids

    def shown(self, image: Image.Image) -> Image.Image:
        """The square in the tower's size: nothing is left to do but to normalise it."""
        return square_image(image, self.image_side)

    def prompt(self, messages: Sequence[Message]) -> str:
        """The template's text, images as ``<image>``."""
        return self.template.prompt(messages)

    def text(self, ids: Sequence[int]) -> str:
        """Words of generated ids, special tokens left out."""
        return self.tokens.text(ids)

    def settled_text(self, ids: Sequence[int]) -> str:
        """The beginning of ``text(ids)`` that stays, whatever tokens follow."""
        return self.tokens.settled_text(ids)

    # -- for training -------------------------------------------------------------------------------------

    @property
    def wording(self) -> str:
        """The template's name."""
        return self.template.name

    @property
    def boxes(self) -> Codec:
        """Visual CoT's own."""
        return codec("viscot")

    @property
    def key(self) -> str:
        """What lengths depend on: the vocabulary, tokens of an image, turn starts, the template."""
        vocabulary = hashlib.sha256(self.tokens.hf.backend_tokenizer.to_str().encode()).hexdigest()
        return f"{vocabulary} {self.image_tokens} {self.tokens.turn_tokens} {self.template!r}"

    def under(self, template: str) -> ChatProcessor:
        """The same vocabulary under another template, by its name."""
        return ChatProcessor(self.tokens, TEMPLATES[template], self._config, self.text_rows)

    def cut(self, rendered: Rendered, max_length: int) -> Rendered:
        """At most ``max_length`` tokens; an image that would be cut in two goes as a whole."""
        if len(rendered.ids) <= max_length:
            return rendered
        end, image = max_length, self.tokens.image_id
        kept = rendered.ids[:end]
        # An image is a run of ``image_tokens`` equal ids, so the remainder is how many ids of a last,
        # incomplete image would stay. Go back until all of them are dropped; whole images before it stay.
        partial = kept.count(image) % self.image_tokens
        while partial:
            end -= 1
            partial -= kept[end] == image
        kept = kept[:end]
        return Rendered(kept, rendered.labels[:end], kept.count(image) // self.image_tokens)

    def spans(self, rendered: Rendered) -> Spans:
        """What the ids say, split where supervision starts and ends; an image is ``<image>``."""
        found: list[tuple[str, bool]] = []
        pairs = zip(rendered.ids, rendered.labels, strict=True)
        runs = groupby(pairs, key=lambda pair: (pair[0] == self.tokens.image_id, pair[1] != IGNORE))
        for (image, supervised), run in runs:
            ids = [token for token, _ in run]
            if image:
                found += [(IMAGE, False)] * (len(ids) // self.image_tokens)
            else:
                found.append((str(self.tokens.hf.decode(ids)), supervised))
        return tuple(found)

    def row_inputs(self, rendered: Rendered, images: Sequence[Image.Image]) -> RowInputs:
        """Images as ``uint8[side, side, 3]``, as `quick_square_pixels` makes them."""
        return RowInputs({}, tuple(quick_square_pixels(image, self.image_side) for image in images))

    def image_inputs(self, rows: Sequence[RowInputs]) -> dict[str, torch.Tensor]:
        """``pixel_values float[images, 3, side, side]``."""
        import torch

        kept: list[NDArray[np.uint8]] = [pixels for row in rows for pixels in row.images]
        return {"pixel_values": torch.from_numpy(normalise_all(kept))} if kept else {}

    def save(self, folder: Path, source: Path | None) -> None:
        """The tokenizer's files, with the sentencepiece model of ``source``."""
        with system_errors(folder):
            self.tokens.hf.save_pretrained(folder)
        state_portably(folder)
        if source is not None:
            keep_sentencepiece(source, folder)


def _spoken(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]], shift: int) -> list[bool]:
    """Which tokens cover a spoken character; ``shift`` characters stand before the text in ``offsets``.

    A token of nothing but those counts with the text's first character.
    """
    found = [False] * len(offsets)
    for low, high in ((low + shift, high + shift) for low, high in spans):
        for position, (start, end) in enumerate(offsets):
            if end <= shift:
                start, end = shift, shift + 1
            if start < high and end > low:
                found[position] = True
    return found
