"""Sections c and d: a decoding step beside the bandwidth's floor, and transformers' own ``generate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from on_gpu import limits
from on_gpu.bench import Bench
from on_gpu.viscot_side import Asked, open_engine, pixels_of, shape_of
from viscot_core.engines.base import Request


def section_c(b: Bench) -> None:
    """A decoding step at several numbers of rows, each way beside the floor."""
    llm = shape_of(b.loaded.model.config).llm
    steps = 32 if b.cuda else 4
    lengths = b.lengths()
    prefix = lengths["before"] + b.loaded.processor.tokens.image_tokens
    own = lengths["refer"] + steps / 2
    first, *others = b.given.ways
    middle = b.size.rows[1]
    cases = [(rows, rows, first) for rows in b.size.rows] + [(middle, 1, first)]
    cases += [(middle, images, way) for way in others for images in (middle, 1)]
    for rows, images, way in cases:
        if not b.enough(4 if b.cuda else 1):
            break
        name = f"{rows} rows, {images} images, {way}"
        b.tried("c", name, lambda: _decode_step(b, llm, rows, images, steps, prefix, own, way))  # noqa: B023


def _decode_step(
    b: Bench, llm: Any, rows: int, images: int, steps: int, prefix: int, own: float, way: str
) -> dict[str, float]:
    """Seconds a step: what more tokens cost more, the prefix being kept from the first call on."""
    asked = [r for r, *_ in b.prompts("refer", rows, images)]
    few, many = ([replace(r, max_new_tokens=n) for r in asked] for n in (2, 2 + steps))
    with b.untimed():
        engine = open_engine(b.loaded, rows, way)
        engine.generate(many)
    short, long = b.timed(lambda: engine.generate(few)), b.timed(lambda: engine.generate(many))
    step = (long - short) / steps
    # Rows about different images read their own keys, those of one image its one copy.
    bandwidth = b.measured["copy_tb_s"] * 1e12
    floor = limits.decode_step_seconds(llm, rows, own, bandwidth=bandwidth, shared=prefix, images=images)
    return {
        "ms": round(1000 * step, 3), "floor_ms": round(1000 * floor, 3), "ratio": round(step / floor, 2),
        "tokens_s": round(rows / step, 1), "prefill_ms": round(1000 * (short - step), 2),
    }  # fmt: skip


def plain(b: Bench, prompts: Sequence[Asked], new: int) -> list[list[int]]:
    """New ids of ``generate`` for one left-padded batch; images are prepared here, as a script would."""
    import numpy as np

    torch, model, tokens = b.torch, b.loaded.model, b.loaded.processor.tokens
    ids = [ids for _, ids, _ in prompts]
    longest = max(map(len, ids))
    padded = torch.tensor([[tokens.pad_id] * (longest - len(one)) + one for one in ids], device=b.device)
    mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in ids], device=b.device)
    shown = np.stack([pixels_of(image, b.size.side) for _, _, images in prompts for image in images])
    rows = int(model.config.text_config.vocab_size)
    with torch.inference_mode():
        out = model.generate(
            input_ids=padded,
            attention_mask=mask,
            pixel_values=torch.from_numpy(shown).to(b.device, model.dtype),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            eos_token_id=tokens.eos_id,
            pad_token_id=tokens.pad_id,
            suppress_tokens=sorted({tokens.image_id, *range(b.loaded.processor.text_rows, rows)}),
        )
    return [row[longest:].tolist() for row in out]


def section_d(b: Bench) -> None:
    """transformers' own ``generate`` against the engine: same prompts, same batch, and the engine's own."""
    box, answer = b.given.box_tokens, b.given.answer_tokens
    count, batch = b.size.plain, min(16, b.size.plain)
    first, second = b.prompts("detect", count), b.prompts("answer", count)
    asked = [
        [replace(r, max_new_tokens=new) for r, *_ in some] for some, new in ((first, box), (second, answer))
    ]

    def both(size: int, items: int) -> None:
        for start in range(0, items, size):
            plain(b, first[start : start + size], box)
            plain(b, second[start : start + size], answer)

    def ours(size: int) -> tuple[float, int]:
        """Items/s with ``size`` prompts together (0: what fits), nothing kept of the images."""
        with b.untimed():
            engine = open_engine(b.loaded, size, b.given.ways[0])
            for some in asked:
                engine.generate(some)
        engine.inputs.clear()
        if engine.prefix is not None:
            engine.prefix.store.clear()
        return count / b.clocked(lambda: [engine.generate(some) for some in asked]), engine.batch_size

    with b.untimed():
        plain(b, first[:batch], 2)
    batched = count / b.clocked(lambda: both(batch, count))
    for name, size in (("same batch", batch), ("auto batch", 0)):
        rate, used = ours(size)
        b.note("d", name, {
            "items": count, "batch": used, "transformers_batch": batch, "viscot_items_s": round(rate, 2),
            "transformers_items_s": round(batched, 2), "ratio": round(rate / batched, 2),
        })  # fmt: skip
        b.clean()
    if b.enough(3 if b.cuda else 1):
        _same(b, [r for r, *_ in first[:batch]], plain(b, first[:batch], box), box)
    if b.enough(8 if b.cuda else 1):
        few = min(2, count)
        alone = few / b.clocked(lambda: both(1, few))
        b.note("d", "one by one", {"transformers_items_s": round(alone, 2)})
    for name in ("vllm", "flash_attn", "liger_kernel"):
        b.record.setdefault("installed", {})[name] = find_spec(name) is not None


def _same(b: Bench, requests: Sequence[Request], ids: Sequence[list[int]], new: int) -> None:
    """How many texts, and how many first tokens, are those of ``generate``; random weights part early."""
    with b.untimed():
        engine = open_engine(b.loaded, len(requests), b.given.ways[0])
    decode = b.loaded.processor.tokens.decode
    found: dict[str, str] = {}
    for name, tokens in (("first_token", 1), ("first_four", 4), ("all", new)):
        said = engine.generate([replace(r, max_new_tokens=tokens) for r in requests])
        same = sum(one.text == decode(row[:tokens]) for one, row in zip(said, ids, strict=True))
        found[name] = f"{same}/{len(said)}"
    b.note("d", "same texts", found)
    whole = [replace(r, max_new_tokens=new) for r in requests]
    said = [one.text for one in engine.generate(whole)]
    for way in b.given.ways[1:]:
        others = open_engine(b.loaded, len(requests), way).generate(whole)
        same = sum(one.text == text for one, text in zip(others, said, strict=True))
        b.note("d", f"{b.given.ways[0]} and {way}", {"same_texts": f"{same}/{len(said)}"})
