"""A small Qwen2.5-VL learns from nothing to name regions: its boxes are checked on truth, not on noise.

Run it: ``python tests/performance/foreign_eye.py OUT --template TEMPLATE --device cuda --minutes 4
--batch-size 48 --workers 12`` (needs torchvision; some hours on a CPU). Scenes are those of ``viscot data
synth``, seen at about 56 image tokens. What is learned is what
transformers' own classes make of it: the processor's resize, M-RoPE positions, boxes in pixels of the resized
image, Qwen's chat template. Score it with viscot itself::

    viscot data synth --out synth --train 1 --val 500 --seed 3
    viscot bench cot --data synth --model OUT --strategy cot --out run && viscot stats run

Throw-away linear heads tell colour and box of what lies under each image token, read from the second text
layer: the tower of a Qwen has no absolute positions, and the text model's layers are where they arise.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from viscot_core.boxes.registry import codec
from viscot_core.conversation import BOX_REQUEST, IMAGE, Message
from viscot_core.data.scenes import COLORS, NOUNS, Scene, draw_scene, make_scene
from viscot_core.data.synth import QUESTIONS
from viscot_core.families.generic.processor import GenericProcessor, load_processor
from viscot_core.policies.wording import Wording

FACTOR, MIN_PIXELS, MAX_PIXELS = 28, 28 * 28 * 16, 28 * 28 * 56
SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
]
SPECIAL += ["<|video_pad|>"]
NUMBERS = 320
"""Whole numbers that are one token each: coordinates of an image of at most this many pixels a side."""
READ_LAYER = 2
SEED = 70_000_000
_KEPT: list[Any] = []
FORMAT = "qwen2.5-vl"
REPLY = '[{{"bbox_2d": [{}, {}, {}, {}], "label": "region"}}]'


def declare_torchvision() -> None:
    """torchvision's two operators, which a build for CUDA does not declare beside a CPU torch."""
    if not torch.cuda.is_available():
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)


def make_model(folder: Path, template: str) -> None:
    """The untrained model with its tokenizer and processor, as a hub's folder holds them."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLVideoProcessor,
    )
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    words = [q.format(color=c, noun=n) for q in QUESTIONS for c in COLORS for n in NOUNS]
    wording = Wording(codec(FORMAT))
    texts = [turn.text for word in words for w in (word, word.lower()) for turn in wording.detection(w)]
    texts += [turn.text for turn in wording.refcoco("the red card")] * 20
    texts += ["system\nYou are a helpful assistant.", "user\n", "assistant\n"] * 20
    texts += [", "] * 50
    bpe.train_from_iterator(texts, trainer)
    # Each fixed sentence of the prompts and each number is one token: short rows are what a CPU can train.
    fixed = [
        BOX_REQUEST,
        codec(FORMAT).form,
        *(part for part in REPLY.format("|", "|", "|", "|").split("|") if part != ", "),
    ]
    fixed += ["Locate the region this sentence describes: ", " Please provide the bounding box coordinates."]
    fixed += ["system\nYou are a helpful assistant."]
    fixed += [str(n) for n in range(NUMBERS)]
    bpe.add_tokens([AddedToken(text, normalized=False) for text in fixed])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=SPECIAL[1:2] + SPECIAL[3:],
        model_max_length=2048,
    )
    token = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 256,
            "intermediate_size": 704,
            "num_hidden_layers": 5,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "max_position_embeddings": 2048,
            "vocab_size": len(tokenizer),
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
            "tie_word_embeddings": True,
            "eos_token_id": token["<|im_end|>"],
            "pad_token_id": token["<|endoftext|>"],
            "bos_token_id": None,
        },
        vision_config={
            "depth": 4,
            "hidden_size": 160,
            "intermediate_size": 448,
            "num_heads": 4,
            "out_hidden_size": 256,
            "window_size": 448,
            "fullatt_block_indexes": [1, 3],
            "patch_size": 14,
            "spatial_merge_size": 2,
        },
        tie_word_embeddings=True,
        image_token_id=token["<|image_pad|>"],
        video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"],
        vision_end_token_id=token["<|vision_end|>"],
    )
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = [token["<|im_end|>"], token["<|endoftext|>"]]
    size = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessorPil(size=size),
        tokenizer,
        Qwen2VLVideoProcessor(size=size),
        chat_template=template,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


@dataclass(frozen=True)
class Seen:
    """A scene as the model sees it: pixels ``uint8[H, W, 3]`` after its own resize."""

    scene: Scene
    pixels: Any

    @property
    def scale(self) -> tuple[float, float]:
        height, width = self.pixels.shape[:2]
        return width / self.scene.size[0], height / self.scene.size[1]

    def box(self, index: int) -> list[int]:
        """A thing's box in pixels of the seen image."""
        sx, sy = self.scale
        x0, y0, x1, y1 = self.scene.things[index].box
        return [round(x0 * sx), round(y0 * sy), round(x1 * sx), round(y1 * sy)]

    def cells(self) -> tuple[Any, Any]:
        """Per image token: colour class ``int64[n]`` (the last class: nothing) and box ``float32[n, 4]``."""
        rows, columns = self.pixels.shape[0] // FACTOR, self.pixels.shape[1] // FACTOR
        color = np.full((rows, columns), len(COLORS))
        box = np.zeros((rows, columns, 4), np.float32)
        names = list(COLORS)
        for index, thing in enumerate(self.scene.things):
            x0, y0, x1, y1 = self.box(index)
            top, bottom = round(y0 / FACTOR), max(round(y1 / FACTOR), round(y0 / FACTOR) + 1)
            left, right = round(x0 / FACTOR), max(round(x1 / FACTOR), round(x0 / FACTOR) + 1)
            color[top:bottom, left:right] = names.index(thing.color)
            box[top:bottom, left:right] = np.array([x0, y0, x1, y1]) / NUMBERS
        return color.ravel(), box.reshape(-1, 4)


def see(seed: int) -> Seen:
    """Draw a scene and resize it as the processor does."""
    from PIL import Image
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    scene = make_scene(seed)
    width, height = scene.size
    height, width = smart_resize(height, width, FACTOR, MIN_PIXELS, MAX_PIXELS)
    return Seen(scene, np.asarray(draw_scene(scene).resize((width, height), Image.Resampling.BICUBIC)))


def conversation(seen: Seen, rng: random.Random, turns: int) -> list[Message]:
    """One image and requests for regions of it, worded as a benchmark words them, with the right boxes."""
    wording, said = Wording(codec(FORMAT)), []
    order = rng.sample(range(len(seen.scene.things)), len(seen.scene.things))
    for number, index in enumerate(order[:turns]):
        thing = seen.scene.things[index]
        question = rng.choice(QUESTIONS).format(color=thing.color, noun=thing.noun)
        asked = rng.choice(
            (
                lambda q=question: wording.detection(q),
                lambda q=question: wording.detection(q),
                lambda t=thing: wording.refcoco(t.expression),
            )
        )()[-1].text
        text = asked if number == 0 else asked.replace(f"{IMAGE}\n", "").replace(IMAGE, "")
        reply = REPLY.format(*seen.box(index))
        said += [Message("user", text), Message("assistant", reply)]
    return said


class Rows:
    """Batches of conversations about images of one grid."""

    def __init__(self, processor: GenericProcessor, scenes: list[Seen], turns: int) -> None:
        self.processor, self.turns = processor, turns
        self.hf = processor.hf
        self.buckets: dict[tuple[int, int], list[Seen]] = defaultdict(list)
        for seen in scenes:
            self.buckets[seen.pixels.shape[:2]].append(seen)
        tokenizer = self.hf.tokenizer
        self.start = tokenizer.convert_tokens_to_ids("<|im_start|>")
        self.end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        self.assistant = tokenizer.encode("assistant\n", add_special_tokens=False)
        self.image = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.numbers = tokenizer.convert_tokens_to_ids([str(number) for number in range(NUMBERS)])

    def batch(self, rng: random.Random, size: int) -> dict[str, torch.Tensor]:
        keys = list(self.buckets)
        key = rng.choices(keys, [len(self.buckets[k]) for k in keys])[0]
        seen = rng.choices(self.buckets[key], k=size)
        texts = [self.processor._text(conversation(each, rng, self.turns), False) for each in seen]
        slots = key[0] // FACTOR * (key[1] // FACTOR)
        texts = [text.replace("<|image_pad|>", "<|image_pad|>" * slots) for text in texts]
        tokens = self.hf.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
        ids = tokens["input_ids"]
        pixels = self.hf.image_processor(
            images=[each.pixels for each in seen], do_resize=False, return_tensors="pt"
        )
        cells = [each.cells() for each in seen]
        return {
            "input_ids": ids,
            "attention_mask": tokens["attention_mask"],
            "mm_token_type_ids": (ids == self.image).long(),
            "pixel_values": pixels["pixel_values"],
            "image_grid_thw": pixels["image_grid_thw"],
            "labels": torch.tensor([self._labels(row) for row in ids.tolist()]),
            "color": torch.from_numpy(np.stack([c for c, _ in cells])),
            "box": torch.from_numpy(np.stack([b for _, b in cells])),
        }

    def _labels(self, ids: list[int]) -> list[int]:
        """The assistant's tokens and the end of its turn; -100 elsewhere."""
        labels, mine = [-100] * len(ids), False
        for at, token in enumerate(ids):
            if token == self.start:
                mine = ids[at + 1 : at + 1 + len(self.assistant)] == self.assistant
                skip = at + len(self.assistant)
            elif mine and at > skip:
                labels[at] = token
                mine = token != self.end
        return labels


Batch = dict[str, torch.Tensor]


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

    def forward(
        self, batch: dict[str, torch.Tensor], blur: float, auxiliary: float
    ) -> dict[str, torch.Tensor]:
        kept: dict[str, torch.Tensor] = {}
        text = self.model.model.language_model
        hooks = [
            text.layers[READ_LAYER - 1].register_forward_hook(
                lambda _m, _i, out: kept.update(deep=out if torch.is_tensor(out) else out[0])
            ),
            text.layers[0].register_forward_pre_hook(lambda _m, args: kept.update(first=args[0])),
        ]
        labels, color, box = batch["labels"], batch["color"], batch["box"]
        inputs = {k: v for k, v in batch.items() if k not in ("labels", "color", "box")}
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
            "off": numbers,
        }
        out["loss"] = out["text"] + auxiliary * (out["seen"] + out["color"] + out["box"])
        return out

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


class Batches(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Batch number ``n`` of a run; workers make them beside the training step."""

    def __init__(self, rows: Rows, batch_size: int, steps: int) -> None:
        self.rows, self.batch_size, self.steps = rows, batch_size, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        torch.set_num_threads(1)
        return self.rows.batch(random.Random(step), self.batch_size)


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


def train(given: argparse.Namespace) -> None:
    """Train until the time or the steps are over; the schedule follows whichever ends first."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    device = torch.device(given.device)
    processor = GenericProcessor(load_processor(given.out), AutoConfig.from_pretrained(given.out), given.out)
    model = AutoModelForImageTextToText.from_pretrained(
        given.out, dtype=torch.float32, attn_implementation="sdpa" if device.type == "cuda" else "eager"
    )
    with ProcessPoolExecutor(max(given.workers, 2)) as pool:
        seen = list(pool.map(see, range(SEED, SEED + given.scenes), chunksize=64))
    rows = Rows(processor, seen, given.turns)
    for block in model.model.visual.blocks:
        block.attn.forward = MethodType(attend_whole_images, block.attn)
    learner = Learner(model, rows.numbers).to(device)
    groups = [
        {"params": [p for p in learner.parameters() if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in learner.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=given.lr, betas=(0.9, 0.98))
    loader = torch.utils.data.DataLoader(
        Batches(rows, given.batch_size, given.steps), batch_size=None, num_workers=given.workers
    )
    print(json.dumps({"parameters": sum(p.numel() for p in model.parameters())}), flush=True)
    began, means = time.monotonic(), defaultdict(list)
    for step, batch in enumerate(loader):
        seconds = time.monotonic() - began
        share = min(1.0, max(step / given.steps, seconds / (given.minutes * 60)))
        for group in optimizer.param_groups:
            group["lr"] = given.lr * min(1, (step + 1) / 200) * (0.02 + 0.49 * (1 + np.cos(np.pi * share)))
        batch = {name: value.to(device) for name, value in batch.items()}
        with torch.autocast(device.type, torch.bfloat16):
            out = learner(batch, blur=max(0.6, 4 * (1 - 1.6 * share)), auxiliary=max(0.0, 1 - 1.4 * share))
        out["loss"].backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        for name, value in out.items():
            means[name].append(value.detach())
        over = share == 1.0 or step + 1 == given.steps
        if (step + 1) % 50 == 0 or over:
            line = {name: round(float(torch.stack(values).mean()), 3) for name, values in means.items()}
            print(json.dumps({"step": step + 1, "s": round(seconds), **line}), flush=True)
            means.clear()
        if (step + 1) % 500 == 0 or over:
            model.save_pretrained(given.save or given.out, max_shard_size="10MB")
        if over:
            break


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--template", type=Path, help="Qwen2.5-VL's chat template; needed at the first start")
    parser.add_argument("--make-only", action="store_true", help="write the untrained model and stop")
    parser.add_argument("--save", type=Path, help="where the trained weights go, if not into OUT")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--scenes", type=int, default=12000)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--workers", type=int, default=0, help="processes that make batches")
    given = parser.parse_args()
    declare_torchvision()
    if not (given.out / "config.json").exists():
        if given.template is None:
            parser.error("the first start needs --template FILE, the chat template of Qwen2.5-VL")
        make_model(given.out, given.template.read_text())
    if not given.make_only:
        train(given)


if __name__ == "__main__":
    main()
