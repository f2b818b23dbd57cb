"""The model of ``foreign_eye.py`` under its throw-away heads, and its losses."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from eye.model import NUMBERS
from eye.rows import Batch
from viscot_core.data.scenes import COLORS

READ_LAYER = 2
GUIDED = slice(0, 2)
"""The heads of two text layers that are shown where to look."""
NOT_READ = ("labels", "color", "box", "asked", "word")


class Learner(nn.Module):
    """The model under its throw-away heads."""

    def __init__(self, model: Any, numbers: list[int]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("numbers", torch.tensor(numbers))
        value_of = torch.full((model.config.get_text_config().vocab_size,), -1)
        value_of[numbers] = torch.arange(NUMBERS)
        self.register_buffer("value_of", value_of)
        width = model.config.get_text_config().hidden_size
        self.heads = nn.ModuleDict(
            {"seen": nn.Linear(width, len(COLORS) + 1), "color": nn.Linear(width, len(COLORS) + 1)}
        )
        self.box = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 4))

    def forward(self, batch: Batch, blur: float, auxiliary: float) -> dict[str, torch.Tensor]:
        kept: dict[str, torch.Tensor] = {}
        text = self.model.model.language_model
        hooks = [
            text.layers[READ_LAYER - 1].register_forward_hook(
                lambda _m, _i, out: kept.update(deep=out if torch.is_tensor(out) else out[0])
            ),
            text.layers[0].register_forward_pre_hook(lambda _m, args: kept.update(first=args[0])),
        ]
        for name, layer in zip(("word_map", "card_map"), text.layers[READ_LAYER - 1 :], strict=False):
            hooks.append(layer.self_attn.register_forward_hook(_keep(kept, name)))
        labels, color, box = batch["labels"], batch["color"], batch["box"]
        inputs = {k: v for k, v in batch.items() if k not in NOT_READ}
        hidden = self.model.model(**inputs, use_cache=False).last_hidden_state
        for hook in hooks:
            hook.remove()
        asked = labels[:, 1:] != -100
        logits = self.model.lm_head(hidden[:, :-1][asked]).float()
        losses, numbers = self._text_loss(logits, labels[:, 1:][asked], blur)
        slots = batch["mm_token_type_ids"].bool()
        deep = kept["deep"][slots].view(*color.shape, -1)
        first = kept["first"][slots].view(*color.shape, -1)
        covered = color != len(COLORS)
        out = {
            "text": losses,
            "seen": F.cross_entropy(self.heads["seen"](first).float().flatten(0, 1), color.flatten()),
            "color": F.cross_entropy(self.heads["color"](deep).float().flatten(0, 1), color.flatten()),
            "box": (self.box(deep).float()[covered] - box[covered]).abs().mean() * 10,
            "guide": self._guide(batch, kept, slots),
            "off": numbers,
        }
        out["loss"] = out["text"] + auxiliary * (out["seen"] + out["color"] + out["box"] + out["guide"])
        return out

    def _guide(self, batch: Batch, kept: dict[str, torch.Tensor], slots: torch.Tensor) -> torch.Tensor:
        """How far two heads are from looking at the colour's word, and two of the next layer at its region.

        Without it a model of this size names any region first and then follows it: the
        other numbers come from the first. ``kept``'s maps are ``[B, heads, T, T]``, ``slots`` ``bool[B, T]``.
        """
        labels = batch["labels"]
        rows, at = ((labels != -100) & (self.value_of[labels] >= 0)).nonzero(as_tuple=True)
        first = torch.cat((at.new_zeros(1), torch.bincount(rows, minlength=len(slots)).cumsum(0)))[rows]
        turn = (torch.arange(len(rows), device=rows.device) - first) // 4  # four numbers a turn
        region = torch.zeros_like(slots, dtype=torch.long) - 1
        region[slots] = batch["color"].flatten()
        places = torch.arange(slots.shape[1], device=slots.device)
        wanted = {
            "word_map": places == batch["word"][rows, turn][:, None],
            "card_map": region[rows] == batch["asked"][rows, turn][:, None],
        }
        losses = []
        for name, keys in wanted.items():
            seen = kept[name][rows, GUIDED, at - 1].float()  # a number is said where the token before it is
            losses.append(-(seen * keys[:, None]).sum(-1).clamp_min(1e-6).log().mean())
        return sum(losses) / len(losses)

    def _text_loss(
        self, logits: torch.Tensor, labels: torch.Tensor, blur: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy, a number's target being a bell ``blur`` pixels wide; and pixels the first is off."""
        number = self.value_of[labels] >= 0
        plain = F.cross_entropy(logits[~number], labels[~number])
        value = self.value_of[labels[number]]
        scale = torch.arange(NUMBERS, device=logits.device)
        bell = torch.softmax(-((scale - value[:, None]) ** 2) / (2 * blur**2), -1)
        logp = F.log_softmax(logits[number], -1)[:, self.numbers]
        guess = logp.argmax(-1)
        # A reply has four numbers. The first one chooses the region; the others follow from those before, and
        # teacher forcing makes them look better than they are.
        weight = torch.tensor([2.0, 1.4, 0.4, 0.4], device=logits.device).repeat(len(value) // 4)
        off = (guess - value).abs().float()
        return plain - (weight * (bell * logp).sum(-1)).mean(), off[::4].median()


def _keep(kept: dict[str, torch.Tensor], name: str) -> Any:
    """A hook that keeps an eager attention's probabilities ``[B, heads, T, T]``."""
    return lambda _module, _inputs, out: kept.update({name: out[1]})


def attend_whole_images(self: Any, hidden_states: Any, cu_seqlens: Any, **given: Any) -> Any:
    """The tower's attention for images of one grid and windows that hold them whole: one product for all.

    transformers' own way loops over images in Python, which takes three quarters of a step.
    """
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

    tokens, images = hidden_states.shape[0], len(cu_seqlens) - 1
    q, k, v = self.qkv(hidden_states).reshape(tokens, 3, self.num_heads, -1).unbind(1)
    q, k = apply_rotary_pos_emb_vision(q, k, *given["position_embeddings"])
    q, k, v = (x.view(images, tokens // images, self.num_heads, -1).transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v)
    return self.proj(out.transpose(1, 2).reshape(tokens, -1))
