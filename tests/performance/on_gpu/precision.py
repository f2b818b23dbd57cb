"""Section f: how far bf16, other attention kernels and quantised weights are from fp32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from on_gpu.bench import Bench, OutOfTime, short
from on_gpu.decoding import plain
from on_gpu.made import cast
from on_gpu.viscot_side import Asked, open_engine, pixels_of


def section_f(b: Bench) -> None:
    """bf16, other kernels and fewer bits beside fp32."""
    torch = b.torch
    model = b.loaded.model
    half = (b.size.lines + 1) // 2
    prompts = [*b.prompts("detect", half), *b.prompts("answer", b.size.lines - half)]
    new = min(18, b.given.box_tokens)
    with torch.no_grad():
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        cast(model, torch.float32)
        truth = _logits(b, prompts)
        texts = [ids for p in prompts for ids in plain(b, [p], new)]
        scale = float(torch.cat([t.flatten()[::97] for t in truth]).std())
        sharp = [t.topk(2, -1).values for t in truth]
        margin = float(torch.cat([(s[:, 0] - s[:, 1]) for s in sharp]).median())
        b.note(
            "f",
            "fp32 sdpa",
            {"logits_std": round(scale, 4), "median_margin": round(margin, 5), "prompts": len(prompts)},
        )

        def compare(name: str, *, texts_too: bool = True) -> None:
            try:
                mine = _logits(b, prompts)
                worst = max(float((a - t).abs().max()) for a, t in zip(mine, truth, strict=True))
                mean = sum(float((a - t).abs().mean()) for a, t in zip(mine, truth, strict=True)) / len(truth)
                tops = [(a.argmax(-1) == t.argmax(-1)).float() for a, t in zip(mine, truth, strict=True)]
                found: dict[str, Any] = {"max_abs": float(f"{worst:.3g}"), "mean_abs": float(f"{mean:.3g}"),
                         "same_top": round(float(torch.cat(tops).mean()), 4)}  # fmt: skip
                if texts_too:
                    said = [ids for p in prompts for ids in plain(b, [p], new)]
                    found["same_texts"] = (
                        f"{sum(a == t for a, t in zip(said, texts, strict=True))}/{len(texts)}"
                    )
                b.note("f", name, found)
            except OutOfTime:
                raise
            except Exception as error:
                b.note("f", name, {"error": short(error)})

        engine_texts(b, prompts, new, texts, "fp32 viscot engine")
        model.set_attn_implementation("eager")
        compare("fp32 eager", texts_too=False)
        model.set_attn_implementation("sdpa")
        cast(model, torch.bfloat16)
        compare("bf16 sdpa")
        engine_texts(b, prompts, new, texts, "bf16 viscot engine")
        for bits in (8, 4):
            if b.enough(15 if b.cuda else 1):
                try:
                    _quantise(b, bits)
                    compare(f"{bits} bit")
                except OutOfTime:
                    raise
                except Exception as error:
                    b.note("f", f"{bits} bit", {"error": short(error)})
                model = None
                b.unload()
        model = b.loaded.model
        cast(model, torch.bfloat16)
        model.set_attn_implementation("eager")
        compare("bf16 eager")
        model.set_attn_implementation("sdpa")
        from torch.nn.attention import SDPBackend, sdpa_kernel

        for kernel in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH"):
            if b.enough(10 if b.cuda else 0.5):
                with sdpa_kernel(getattr(SDPBackend, kernel)):
                    compare(f"bf16 sdpa {kernel.lower()}", texts_too=False)
        if b.enough(40) and b.cuda:
            b.loaded.model.set_attn_implementation("flex_attention")
            compare("bf16 flex", texts_too=False)
    b.unload()


def _logits(b: Bench, prompts: Sequence[Asked]) -> list[Any]:
    """Logits at the text positions of each prompt, one prompt at a time (no padding), fp32."""
    import numpy as np

    torch, model, found = b.torch, b.loaded.model, []
    for _, ids, images in prompts:
        shown = torch.from_numpy(np.stack([pixels_of(image, b.size.side) for image in images]))
        given = torch.tensor([ids], device=b.device)
        out = model(input_ids=given, pixel_values=shown.to(b.device, model.dtype), use_cache=False).logits[0]
        found.append(out[given[0] != b.loaded.processor.tokens.image_id].float())
    return found


def engine_texts(b: Bench, prompts: Sequence[Any], new: int, texts: Sequence[list[int]], name: str) -> None:
    """The engine's greedy texts, batched, against those of fp32 ``generate``, one by one."""
    try:
        said = open_engine(b.loaded, 8).generate([replace(r, max_new_tokens=new) for r, *_ in prompts])
        words = [b.loaded.processor.tokens.decode(ids) for ids in texts]
        same = sum(one.text == text for one, text in zip(said, words, strict=True))
        b.note("f", name, {"same_texts": f"{same}/{len(words)}"})
    except OutOfTime:
        raise
    except Exception as error:
        b.note("f", name, {"error": short(error)})


def _quantise(b: Bench, bits: int) -> None:
    """bitsandbytes' linear layers in the language model, as ``--load-in`` has them: tower and head stay."""
    import bitsandbytes as bnb

    torch = b.torch
    text = b.loaded.model.model.language_model
    if bits == 4 and b.size.width % 64:
        raise ValueError("rows are no whole number of blocks")
    cast(b.loaded.model, torch.bfloat16)
    for name, layer in list(text.layers.named_modules()):
        if not isinstance(layer, torch.nn.Linear):
            continue
        parent = text.layers.get_submodule(name.rpartition(".")[0])
        weight = layer.weight.data
        if bits == 8:
            with torch.device("meta"):  # else its random weights are drawn first
                new = bnb.nn.Linear8bitLt(
                    layer.in_features, layer.out_features, bias=False, has_fp16_weights=False
                )
            new.weight = bnb.nn.Int8Params(weight.cpu(), requires_grad=False, has_fp16_weights=False)
        else:
            with torch.device("meta"):
                new = bnb.nn.Linear4bit(layer.in_features, layer.out_features, bias=False, quant_type="nf4",
                                        compute_dtype=torch.bfloat16)  # fmt: skip
            new.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
        setattr(parent, name.rpartition(".")[2], new.to(b.device))
