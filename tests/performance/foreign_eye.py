"""A small Qwen2.5-VL learns from nothing to name regions: its boxes are checked on truth, not on noise.

Run it: ``python tests/performance/foreign_eye.py OUT --template TEMPLATE --device cuda --minutes 4
--batch-size 48 --workers 12`` (needs torchvision; some hours on a CPU). Scenes are those of ``viscot data
synth``, seen at about 56 image tokens. What is learned is what
transformers' own classes make of it: the processor's resize, M-RoPE positions, boxes in pixels of the resized
image, Qwen's chat template. Score it with viscot itself::

    viscot data synth --out synth --train 1 --val 500 --seed 3
    viscot bench cot --data synth --model OUT --strategy cot --out run && viscot stats run

Throw-away linear heads tell colour and box of what lies under each image token, read from the second text
layer: the tower of a Qwen has no absolute positions, and the text model's layers are where they arise. Two
heads of a layer are guided to the word that names the colour, two of the next to the region of that colour,
as in the tiny recipe; all of it fades before the end, and none of it is in the weights.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import MethodType

import numpy as np
import torch
from eye.learner import Learner, attend_whole_images
from eye.model import declare_torchvision, make_model
from eye.rows import Batches, Rows, see
from torch import nn

from viscot_core.families.generic.processor import GenericProcessor, load_processor

SEED = 70_000_000


def train(given: argparse.Namespace) -> None:
    """Train until the time or the steps are over; the schedule follows whichever ends first."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    device = torch.device(given.device)
    processor = GenericProcessor(load_processor(given.out), AutoConfig.from_pretrained(given.out), given.out)
    model = AutoModelForImageTextToText.from_pretrained(
        given.out, dtype=torch.float32, attn_implementation="eager"
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
