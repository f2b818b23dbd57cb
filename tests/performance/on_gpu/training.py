"""Section e: steps of stage 2, full and with LoRA, padded, packed and in one row."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Sequence
from typing import Any

from on_gpu import limits
from on_gpu.batches import micro_batches, training_rows
from on_gpu.bench import Bench, OutOfTime, short
from on_gpu.made import cast, make_model
from on_gpu.variants import COMPILED, OLD, SHIPPED, Masters, Variant
from on_gpu.viscot_side import (
    compile_parts,
    encode_rows,
    loaded_model,
    memory_estimate,
    prepare_training,
    shape_of,
    stage_two,
    token_losses,
    trainers_loss,
    use_attention,
)


class Trained:
    """A model in training, the steps of one kind of fine-tuning on it, and their figures."""

    def __init__(self, b: Bench, layers: int, lora: int) -> None:
        self.b, self.lora, self.compiled = b, lora, False
        b.forget_peak()
        base = make_model(b.size, b.tokenizer, b.device, b.dtype, layers)
        loaded = loaded_model(base, b.tokenizer)
        b.train_tokens, self.text_rows = loaded.processor.tokens, loaded.processor.text_rows
        self.base = base
        self.samples = encode_rows(training_rows(b.size.samples), loaded)
        self.longest = max(len(s.encoded.ids) for s in self.samples)
        self.stage = stage_two(lora, 1, self.longest)
        self.model = prepare_training(base, self.stage)
        self.trainers = trainers_loss(self.text_rows, self.stage)
        cast(self.model, b.dtype)
        self.model.train()
        base.enable_input_require_grads()
        learning = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = Masters(learning, b.device)
        learns = limits.Learns(tower=not lora, lora=lora)
        flop = 0.0
        for sample in self.samples:
            said = len(sample.encoded.labels) - sample.encoded.labels.count(-100)
            flop += limits.training_flop(
                shape_of(base.config), len(sample.encoded.ids), len(sample.images), learns, said
            )
        self.tokens = sum(len(s.encoded.ids) for s in self.samples)
        self.flop = flop
        b.sync()
        facts = {
            "layers": layers, "lora_rank": lora, "learning": sum(p.numel() for p in learning),
            "samples": len(self.samples), "tokens": self.tokens, "longest": self.longest,
            "tflop_a_step": round(flop / 1e12, 2), "state_gib": b.peak(),
        }  # fmt: skip
        b.note("e", self.kind, facts)

    @property
    def kind(self) -> str:
        return "lora" if self.lora else "full"

    def set_up(self, variant: Variant) -> None:
        """Recomputation, attention and compilation as the variant wants them."""
        base = self.base
        if variant.recompute:
            base.activation_checkpointing_enable({"use_reentrant": False}, every_n_layers=variant.recompute)
        else:
            base.activation_checkpointing_disable()
        use_attention(base, variant.rows == "one")
        if variant.compiled and not self.compiled:
            compile_parts(base, "inductor" if self.b.cuda else "eager")
            self.compiled = True
        # Variants that are not compiled may come after those that are.
        self.b.torch.compiler.set_stance("default" if variant.compiled else "force_eager")

    def loss(self, batch: dict[str, Any], variant: Variant, words: float) -> Any:
        b = self.b
        moved = {k: v.to(b.device, non_blocking=True) if hasattr(v, "to") else v for k, v in batch.items()}
        if variant.rows == "one":
            return self.trainers(self.model, moved, words)
        labels = moved.pop("labels")
        logits = self.model(**moved, use_cache=False).logits[..., : self.text_rows]
        return token_losses(logits, labels).sum() / words

    def step(self, batches: Sequence[dict[str, Any]], variant: Variant) -> Any:
        words = sum(int((batch["labels"] != -100).sum()) for batch in batches)
        total = 0.0
        for batch in batches:
            loss = self.loss(batch, variant, words)
            loss.backward()
            total = total + loss.detach()
        self.optimizer.step()
        return total

    def measure(self, variant: Variant) -> dict[str, Any]:
        """Tokens/s, MFU and memory; the micro-batch is halved while it does not fit."""
        b = self.b
        per_device, start = len(self.samples), time.perf_counter()
        self.set_up(variant)
        while True:
            try:
                return self._measure(variant, per_device, start)
            except b.torch.cuda.OutOfMemoryError:
                if per_device == 1:
                    return {"error": "out of memory with one sample"}
            per_device //= 2
            self.drop_gradients()
            b.clean()

    def drop_gradients(self) -> None:
        for parameter in self.model.parameters():
            parameter.grad = None

    def _measure(self, variant: Variant, per_device: int, start: float) -> dict[str, Any]:
        """``start``: when the variant was begun, so that compilation in a batch that did not fit counts."""
        b = self.b
        batches = micro_batches(b, self.samples, variant, per_device)
        b.forget_peak()
        losses: list[float] = []
        with b.untimed() if variant.compiled else contextlib.nullcontext():
            first = b.clocked(lambda: losses.append(float(self.step(batches, variant))))
        ready = time.perf_counter() - start
        times = []
        for _ in range(5 if b.cuda else 2):
            times.append(b.clocked(lambda: self.step(batches, variant)))
            if sum(times) > 4 and len(times) >= 2:
                break
        seconds = sorted(times)[len(times) // 2]
        places = sum(int(batch["labels"].numel()) for batch in batches)
        # The plan divides state over processes and counts activations of ``max_length`` tokens a sample.
        stage = stage_two(self.lora, variant.recompute, max(1, places // len(self.samples)))
        peak, rate = b.peak(), self.flop / seconds / 1e12
        estimate = memory_estimate(self.base.config, stage, per_device)
        return {
            "tokens_s": round(self.tokens / seconds), "mfu": round(rate / b.card_tflops(), 4),
            "of_measured": round(rate / b.measured["tflops"], 4), "step_s": round(seconds, 3),
            "spread": round(max(times) / min(times) - 1, 3), "first_s": round(first, 2),
            "ready_s": round(ready, 2),
            "micro_batch": per_device, "non_padding": round(self.tokens / places, 3),
            "loss": round(losses[0], 4),
            "peak_gib": peak, "estimate_gib": round(estimate, 2),
            "estimate_ratio": round(estimate / peak["device"], 3) if peak["device"] else None,
        }  # fmt: skip


def section_e(b: Bench) -> None:
    b.measured  # noqa: B018 - before the memory is full
    b.unload()
    if b.cuda:
        with contextlib.suppress(Exception):
            b.torch.cuda.memory._set_allocator_settings("expandable_segments:True")
    few, full, deep = b.size.train_layers, 0, b.size.lora
    # The most telling first: the best step of each kind, and the same one compiled.
    groups = (
        (b.size.layers, deep, (SHIPPED[0], COMPILED[0])),
        (few, full, (SHIPPED[0], COMPILED[0])),
        (b.size.layers, deep, (*SHIPPED[1:], OLD[0], COMPILED[1])),
        (few, full, (*SHIPPED[1:], *OLD)),
    )
    for layers, rank, variants in groups:
        if not b.enough(20 if b.cuda else 1):
            continue
        try:
            _trained(b, layers, rank, variants)
        finally:
            b.torch.compiler.set_stance("default")
        b.torch._dynamo.reset()
        b.clean()


def _trained(b: Bench, layers: int, rank: int, variants: Sequence[Variant]) -> None:
    """The variants of one kind of fine-tuning, on one model."""
    try:
        trained = Trained(b, layers, rank)
    except OutOfTime:
        raise
    except Exception as error:
        traceback.print_exc()
        b.note("e", "lora" if rank else "full", {"error": short(error)})
        return
    for variant in variants:
        name = f"{trained.kind}: {variant.name}"
        if not b.enough(10 if b.cuda else 1):
            b.note("e", name, {"skipped": "no time left"})
            continue
        b.tried("e", name, lambda: trained.measure(variant))  # noqa: B023
        trained.drop_gradients()
