"""Rows to learn from, through a model's own chat template and processor: ids, labels, images, positions.

The ids are the template's own for the whole conversation. Supervised is what the assistant says, from the
end of the prompt that asks for it to the token that ends its turn. Templates do not tell which words those
are (``{% generation %}`` stands in none of the checkpoints' own), so each reply is marked, rendered, and its
marks are taken out again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viscot_core.boxes.formats import Codec
from viscot_core.boxes.geometry import Size
from viscot_core.conversation import IMAGE, Message
from viscot_core.families.base import Spans
from viscot_core.families.generic.backbones import Backbone
from viscot_core.families.generic.processor import GenericProcessor, blank
from viscot_core.families.inputs import IGNORE, Rendered
from viscot_core.families.training import RowInputs

if TYPE_CHECKING:
    import torch
    from PIL import Image

BEGIN, END = "\ue000", "\ue001"
"""Marks around a reply: private characters, which no vocabulary has a token for."""
_MARKED = re.compile(f"[{BEGIN}{END}]")
USUAL_SIZE = (672, 448)
"""An image whose tokens stand for those of any, where lengths are estimated without opening images."""


class GenericTrainingProcessor(GenericProcessor):
    """A transformers processor that also makes rows to learn from."""

    image_side = None
    wording = "own"

    def __init__(self, hf: Any, config: Any, path: Path, backbone: Backbone, boxes: Codec) -> None:
        super().__init__(hf, config, path)
        self.boxes = boxes
        self._config, self._backbone = config, backbone
        special = {i for i, token in hf.tokenizer.added_tokens_decoder.items() if token.special}
        self._ends = special | self.stop_ids
        hf.tokenizer.padding_side = "right"

    @cached_property
    def image_tokens(self) -> int:
        """Tokens of an image of `USUAL_SIZE`."""
        return self.render([Message("user", IMAGE)], None).ids.count(self.image_id)

    @property
    def key(self) -> str:
        """What lengths depend on: the vocabulary, the template, the images' sizes."""
        vocabulary = hashlib.sha256(self.hf.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
        return f"{vocabulary} {self.image_tokens} {sorted(self.identity.items())}"

    def under(self, template: str) -> GenericTrainingProcessor:
        """Itself: a model's own chat template is the only wording there is."""
        return self

    # -- ids and labels -----------------------------------------------------------------------------------

    def render(
        self, messages: Sequence[Message], sizes: Sequence[Size] | None, *, generate: bool = False
    ) -> Rendered:
        """Ids as the processor makes them of the template's text, and what of them is supervised.

        Raises:
            ValueError: the template leaves out or changes what the assistant says.
        """
        count = sum(message.text.count(IMAGE) for message in messages if message.role == "user")
        sizes = [USUAL_SIZE] * count if sizes is None else sizes
        if generate:
            return super().render(messages, sizes, generate=True)
        if count != len(sizes):
            raise ValueError(f"the conversation has {count} <image> marks for {len(sizes)} images")
        text, spans = self._marked_text(messages)
        out = self.hf(
            text=[text],
            images=[[blank(size) for size in sizes]] if sizes else None,
            return_offsets_mapping=True,
            return_text_replacement_offsets=True,
            **self._first_token([text]),
        )
        ids, offsets = [int(i) for i in out["input_ids"][0]], out["offset_mapping"][0]
        replaced = (out.get("text_replacement_offsets") or [[]])[0]
        ids, spoken = self._with_ends(ids, _covered(offsets, _moved(spans, replaced)))
        labels = [token if said else IGNORE for token, said in zip(ids, spoken, strict=True)]
        images = [_covered(offsets, [one["new_span"]]) for one in replaced]
        places = tuple((one.index(True), len(one) - one[::-1].index(True)) for one in images)
        return Rendered(ids, labels, len(sizes), places)

    def _marked_text(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
        """The template's text, and where in it the assistant speaks (characters, end excluded)."""
        # Without the white space around a reply, as it is asked for: the turn's end follows the last word.
        bare = [replace(m, text=m.text.strip()) if m.role == "assistant" else m for m in messages]
        if any(m.role == "assistant" and not m.text for m in bare):
            raise ValueError("a turn of the assistant is empty; write its answer or remove the row")
        marked = [replace(m, text=f"{BEGIN}{m.text}{END}") if m.role == "assistant" else m for m in bare]
        plain, text = self._text(bare, False), self._text(marked, False)
        spans: list[tuple[int, int]] = []
        for taken_out, mark in enumerate(_MARKED.finditer(text)):
            # Marks before this one are gone from the plain text.
            place = mark.start() - taken_out
            if mark[0] == BEGIN:
                start = place - len(self._lead) if plain.endswith(self._lead, 0, place) else place
                spans.append((start, start))
            elif spans:
                spans[-1] = (spans[-1][0], place)
        replies = sum(m.role == "assistant" for m in messages)
        if _MARKED.sub("", text) != plain or text.count(BEGIN) != replies or text.count(END) != replies:
            raise ValueError(
                "the chat template leaves out or changes words of the assistant (a thought before the last "
                "turn, as a rule); take them out of the row"
            )
        return plain, spans

    @cached_property
    def _lead(self) -> str:
        """What stands between the prompt that asks and a reply (of SmolVLM a space): the model says it too.

        Nothing where a talk is not the prompt and what follows (LLaVA-OneVision: ``assistant 7``, though the
        prompt ends with a line break).
        """
        asked = [Message("user", "x")]
        prompt = self._text(asked, True)
        talk = self._text([*asked, Message("assistant", f"{BEGIN}x{END}")], False)
        before, found, _ = talk.partition(BEGIN)
        return before.removeprefix(prompt) if found and before.startswith(prompt) else ""

    def _with_ends(self, ids: list[int], spoken: list[bool]) -> tuple[list[int], list[bool]]:
        """The end of each turn is said too: the special token that follows what was said."""
        said = list(spoken)
        for place in range(1, len(ids)):
            said[place] |= spoken[place - 1] and not spoken[place] and ids[place] in self._ends
        end = self._backbone.end_of_turn
        if end is not None and said and said[-1]:  # the next role's token ends a turn, and none follows
            return [*ids, self.hf.tokenizer.convert_tokens_to_ids(end)], [*said, True]
        return ids, said

    def cut(self, rendered: Rendered, max_length: int) -> Rendered:
        """At most ``max_length`` tokens; an image that would be cut in two goes as a whole.

        Raises:
            ValueError: images would go, and those that stay would be read in another way.
        """
        if len(rendered.ids) <= max_length:
            return rendered
        kept = sum(end <= max_length for _, end in rendered.images)
        if kept < rendered.n_images and not self._backbone.keeps_features:
            raise ValueError(
                f"{len(rendered.ids)} tokens, and its images do not fit in {max_length}; shorten it or raise "
                "max_length"
            )
        end = max_length if kept == rendered.n_images else min(max_length, rendered.images[kept][0])
        return Rendered(rendered.ids[:end], rendered.labels[:end], kept, rendered.images[:kept])

    def spans(self, rendered: Rendered) -> Spans:
        """What the ids say, split where supervision starts and ends; an image is ``<image>``."""
        found: list[tuple[str, bool]] = []
        decode, at = self.hf.tokenizer.decode, 0
        for start, end in (*rendered.images, (len(rendered.ids),) * 2):
            pairs = zip(rendered.ids[at:start], rendered.labels[at:start], strict=True)
            for supervised, run in groupby(pairs, key=lambda pair: pair[1] != IGNORE):
                found.append((str(decode([token for token, _ in run])), supervised))
            found += [(IMAGE, False)] if end > start else []
            at = end
        return tuple(found)

    # -- images and positions -----------------------------------------------------------------------------

    def row_inputs(self, rendered: Rendered, images: Sequence[Image.Image]) -> RowInputs:
        """Tensors of the image processor, kinds of tokens, and positions where images' grids make them."""
        import torch

        made = self._pixels(images) if images else {}
        tokens: dict[str, torch.Tensor] = {}
        if self.kinds_name is not None:
            tokens[self.kinds_name] = torch.tensor(self.hf.create_mm_token_type_ids([rendered.ids])[0])
        if self._backbone.grid_positions:
            tokens["position_ids"] = self._positions(tokens, rendered.ids, made.get("image_grid_thw"))
        return RowInputs(tokens, made)

    def image_inputs(self, rows: Sequence[RowInputs]) -> dict[str, torch.Tensor]:
        """All rows' tensors joined, images in reading order; fewer tiles are filled up with zeros."""
        shown = [row.images for row in rows if row.images]
        return {name: _joined([one[name] for one in shown]) for name in (shown[0] if shown else ())}

    def black_image(self) -> dict[str, torch.Tensor]:
        """The model's inputs of one small black image."""
        return self._pixels([blank((56, 56))])

    def _pixels(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """Everything that the processor makes of images, its own settings included, and not of text."""
        import torch

        made = self.hf(text=[self.hf.image_token * len(images)], images=[list(images)], return_tensors="pt")
        return {
            name: value
            for name, value in made.items()
            if isinstance(value, torch.Tensor)
            and name not in ("input_ids", "attention_mask", self.kinds_name)
        }

    def _positions(
        self, tokens: Mapping[str, torch.Tensor], ids: Sequence[int], grids: torch.Tensor | None
    ) -> torch.Tensor:
        """``int64[3, tokens]``: time, height and width, as the model's own class counts them."""
        import torch

        if grids is None:
            return torch.arange(len(ids)).expand(3, -1)
        assert self.kinds_name is not None
        found: torch.Tensor = self._counter.get_rope_index(
            torch.tensor([list(ids)]), tokens[self.kinds_name][None], image_grid_thw=grids
        )[0]
        return found[:, 0]

    @cached_property
    def _counter(self) -> Any:
        """The model's class without layers or weights: positions depend on its config only."""
        from torch import nn
        from transformers import AutoModel

        kind = AutoModel._model_mapping[type(self._config)]
        found = kind.__new__(kind)
        nn.Module.__init__(found)
        found.config = self._config
        return found

    # -- on disk ------------------------------------------------------------------------------------------

    def save(self, folder: Path, source: Path | None) -> None:
        """The processor's files; those of the model itself go beside them."""
        self.hf.tokenizer.padding_side = "left"
        self.hf.save_pretrained(folder)
        self.hf.tokenizer.padding_side = "right"


def _moved(spans: Sequence[tuple[int, int]], replaced: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Spans of a text in that text with its image marks expanded."""

    def place(at: int) -> int:
        grown = (
            len(one["replacement"]) - (one["span"][1] - one["span"][0])
            for one in replaced
            if one["span"][1] <= at
        )
        return at + sum(grown)

    return [(place(start), place(end)) for start, end in spans]


def _covered(offsets: Sequence[Sequence[int]], spans: Sequence[tuple[int, int]]) -> list[bool]:
    """Which tokens stand for a character of a span; one that reaches over its border is part of it."""
    found = [False] * len(offsets)
    for low, high in spans:
        for place, (start, end) in enumerate(offsets):
            found[place] |= start < high and end > low
    return found


def _joined(pieces: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors one behind the other along the first axis; the others grow to the largest, with zeros."""
    import torch
    from torch.nn import functional as F

    sizes = [max(piece.shape[axis] for piece in pieces) for axis in range(1, pieces[0].ndim)]
    grown = []
    for piece in pieces:
        missing = [largest - own for largest, own in zip(sizes, piece.shape[1:], strict=True)]
        # torch pads the last axis first, in front of it and behind it.
        grown.append(
            F.pad(piece, [n for count in reversed(missing) for n in (0, count)]) if any(missing) else piece
        )
    return torch.cat(grown)
