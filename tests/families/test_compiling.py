"""Compiled layers: one program for all layers and all lengths, and the same step as without."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from viscot_core.data.encode import Sample, collate
from viscot_core.data.packing import collate_one_row
from viscot_core.families.inputs import IGNORE, Rendered
from viscot_core.families.llava.scratch import build_model, train_tokenizer
from viscot_core.families.table import family_of, training_from_parts
from viscot_core.train.loop.stage import _prepared
from viscot_core.train.loop.trainable import add_adapters, freeze_for
from viscot_core.train.objectives import varlen
from viscot_core.train.objectives.base import TrainStep
from viscot_core.train.objectives.sft import Sft
from viscot_core.train.recipe.load import load_recipe
from viscot_core.train.recipe.schema import LoraSpec
from viscot_core.train.recipe.tiny_specs import ScratchSpec

SHAPE = ScratchSpec(
    image_side=28, patch=14, vision_width=24, vision_layers=3, vision_heads=2, vision_mlp=48,
    llm_width=24, llm_layers=4, llm_heads=2, llm_mlp=48, max_positions=256, vocab_size=300,
)  # fmt: skip
IMAGE = 3
TOWER = 3
"""Programs of a layer of the tower: before its attention, the attention, and behind it, where transformers'
hooks that collect outputs cannot be compiled."""
LENGTHS = ((9, 5, 3), (20, 7), (3, 30, 8), (12, 14), (40, 6, 5, 4), (11, 11), (2, 60), (25, 9, 1))
"""Words of the samples of eight batches: other numbers of samples, tokens and longest."""


@torch.library.custom_op("viscot_test::varlen", mutates_args=())
def kernel(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, ends: torch.Tensor, longest: int
) -> torch.Tensor:
    """``[tokens, heads, dim]`` as torch's kernel of a GPU takes them: an opaque operation of a program."""
    assert longest == int(ends.diff().max())
    rows = [t.transpose(0, 1)[None] for t in (q, k, v)]
    out, _ = varlen.attention(None, *rows, None, cu_seq_lens_q=ends)  # type: ignore[misc]
    return out[0].contiguous()


@kernel.register_fake
def _(q: torch.Tensor, *_: Any) -> torch.Tensor:
    return torch.empty_like(q)


@torch.library.custom_op("viscot_test::varlen_backward", mutates_args=())
def kernel_backward(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, ends: torch.Tensor
) -> list[torch.Tensor]:
    """Of softmax attention, a sample at a time."""
    found = [torch.empty_like(t) for t in (q, k, v)]
    for first, last in pairwise(ends.tolist()):
        a, b, c, d = (t[first:last].transpose(0, 1) for t in (q, k, v, grad))
        later = torch.ones(last - first, last - first, dtype=torch.bool).triu(1)
        weights = (a @ b.mT * a.shape[-1] ** -0.5).masked_fill(later, -torch.inf).softmax(-1)
        back = d @ c.mT
        scores = weights * (back - (back * weights).sum(-1, keepdim=True)) * a.shape[-1] ** -0.5
        for into, part in zip(found, (scores @ b, scores.mT @ a, weights.mT @ d), strict=True):
            into[first:last] = part.transpose(0, 1)
    return found


@kernel_backward.register_fake
def _(_: torch.Tensor, *rows: torch.Tensor) -> list[torch.Tensor]:
    return [torch.empty_like(t) for t in rows[:3]]


kernel.register_autograd(
    lambda ctx, grad: (*kernel_backward(grad, *ctx.saved_tensors), None, None),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs[:4]),
)


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of a GPU through `varlen`, with `kernel` in place of torch's."""

    def run(q: Any, k: Any, v: Any, ends: Any, _: Any, longest: int, __: int, **options: Any) -> torch.Tensor:
        assert options["window_size"] == (-1, 0)
        return torch.as_tensor(kernel(q, k, v, ends, longest))

    def attention(module: Any, q: Any, k: Any, v: Any, mask: Any, **named: Any) -> tuple[torch.Tensor, None]:
        ends, longest = named["cu_seq_lens_q"], named["max_length_q"]
        return varlen._on_gpu(q, k, v, named["scaling"], ends, longest), None

    varlen.register()
    assert varlen._kernel is not None, "this torch has a kernel for samples of different lengths"
    monkeypatch.setattr(varlen, "_kernel", replace(varlen._kernel, run=run))
    AttentionInterface.register(varlen.VARLEN, attention)
    before = torch.get_autocast_dtype("cuda")
    torch.set_autocast_dtype("cuda", torch.float32)
    yield
    torch.set_autocast_dtype("cuda", before)
    varlen.register()


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No program of another test, and no trace of each: pytest would keep it, and take ten times as long."""
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


class Step:
    """A small model as the trainer prepares it, and its steps."""

    def __init__(self, *, lora: float | None, recompute: int, one_row: bool) -> None:
        """``lora``: the dropout of its adapters."""
        tokenizer = train_tokenizer(["x"], vocab_size=300, max_positions=256)
        self.own = build_model(SHAPE, tokenizer, feature_layer=-2, attention="sdpa", seed=0)
        self.training, self.one_row = training_from_parts(), one_row
        stage = load_recipe("7b-336").stage("finetune")
        if lora is not None:
            adapters = LoraSpec(rank=4, dropout=lora)
            stage = stage.model_copy(update={"lora": adapters, "train": ("projector", "llm")})
        freeze_for(self.training, self.own, stage)
        self.model = self.own
        if recompute:
            self.own.activation_checkpointing_enable({"use_reentrant": False}, every_n_layers=recompute)
            self.own.enable_input_require_grads()
        if stage.lora:
            self.model = add_adapters(self.training, self.own, stage.lora, stage)
            draws = torch.Generator().manual_seed(0)
            for name, one in self.model.named_parameters():
                if "lora_B" in name:  # zeros would let no gradient through, large ones enlarge roundings
                    one.data.normal_(0, 0.01, generator=draws)
        self.model.train()
        if one_row:
            self.training.use_attention(self.own, varlen.VARLEN)
        run: Any = type("Run", (), {"text_rows": 290, "training": self.training})
        self.objective = Sft(run, stage)

    def batch(self, words: Sequence[int]) -> dict[str, Any]:
        draws = torch.Generator().manual_seed(sum(words))
        samples = []
        for count in words:
            said = torch.randint(5, 250, (count,), generator=draws).tolist()
            before = [1] + [IMAGE] * 4
            samples.append(Sample(Rendered(before + said, [IGNORE] * 5 + said, 1), ("a",)))
        made = collate_one_row(samples, pad_id=0) if self.one_row else collate(samples, {}, pad_id=0)
        return {**made, "pixel_values": torch.randn(len(words), 3, 28, 28, generator=draws)}

    def __call__(self, words: Sequence[int]) -> tuple[float, torch.Tensor]:
        """The loss and all gradients in one vector."""
        torch.manual_seed(1)
        self.model.zero_grad()
        batch = self.batch(words)
        tokens = self.objective.loss_tokens(batch)
        loss, _ = self.objective.loss(self.model, batch, TrainStep(tokens, 1, 1, 0, 1))
        loss.backward()
        grads = [p.grad.flatten() for p in self.model.parameters() if p.grad is not None]
        return float(loss.detach()), torch.cat(grads)


def programs_of(step: Step, backend: str, relative: float) -> int:
    """Programs that all batches take; loss and gradients are within ``relative`` of those before."""
    before = [step(words) for words in LENGTHS]
    step.training.compile_parts(step.own, language_model=True, backend=backend)
    for words, (loss, grad) in zip(LENGTHS, before, strict=True):
        found, gradient = step(words)
        assert found == pytest.approx(loss, rel=relative)
        assert gradient.shape == grad.shape, "the same parameters get a gradient"
        assert float((gradient - grad).norm() / grad.norm()) < relative
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@pytest.mark.usefixtures("on_gpu")
def test_one_row_with_adapters_and_recomputation_compiles_two_layers() -> None:
    programs = programs_of(Step(lora=0.0, recompute=2, one_row=True), "eager", 1e-6)
    assert programs == 2 + TOWER, "a layer that is recomputed, and one that is not"


@pytest.mark.slow
def test_padded_rows_of_all_lengths_compile_one_layer() -> None:
    programs = programs_of(Step(lora=None, recompute=0, one_row=False), "eager", 1e-6)
    assert programs == 2 + 2 * TOWER, "with a mask and without; a layer of the tower that is not read"


@pytest.mark.slow
def test_on_a_cpu_the_attention_of_one_row_stays_outside() -> None:
    varlen.register()
    programs = programs_of(Step(lora=0.0, recompute=0, one_row=True), "eager", 1e-6)
    assert programs <= 5 + TOWER, "the pieces of a layer before and behind it"


@pytest.mark.slow
@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize(
    ("lora", "recompute", "wanted"),
    [
        (None, 0, 1 + 2 * TOWER), (0.0, 0, 1 + TOWER),  # its first layer's input needs no gradient
        (None, 1, 1), (0.0, 1, 1),  # a layer of the tower that is recomputed is not compiled
        (None, 2, 2 + TOWER), (0.0, 2, 2 + TOWER),
    ],
)  # fmt: skip
def test_the_real_compiler_gives_the_same_step(lora: float | None, recompute: int, wanted: int) -> None:
    # Weights changed by their last bit (6e-8) move gradients as far as 3e-6.
    programs = programs_of(Step(lora=lora, recompute=recompute, one_row=True), "inductor", 1e-4)
    assert programs == wanted


@pytest.mark.slow
@pytest.mark.usefixtures("on_gpu")
def test_what_is_recomputed_drops_the_same_values_again() -> None:
    # The compiler draws its own numbers: compared are compiled steps, whose forward draws the same.
    found = []
    for recompute in (0, 1):
        torch._dynamo.reset()
        step = Step(lora=0.5, recompute=recompute, one_row=True)
        step.training.compile_parts(step.own, language_model=True)
        found.append([step(words) for words in LENGTHS[:3]])
    for (loss, grad), (again, gradient) in zip(*found, strict=True):
        assert again == pytest.approx(loss, rel=1e-6)
        assert float((gradient - grad).norm() / grad.norm()) < 1e-5


@pytest.mark.slow
def test_layers_of_another_family_compile_once_for_all_lengths() -> None:
    text = {
        "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 200, "intermediate_size": 96,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]},
    }  # fmt: skip
    vision = {"hidden_size": 32, "depth": 1, "num_heads": 2, "intermediate_size": 48, "out_hidden_size": 64}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    model = Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="sdpa").train()
    model.activation_checkpointing_enable({"use_reentrant": False}, every_n_layers=2)
    model.enable_input_require_grads()

    def step(rows: int, length: int) -> tuple[float, torch.Tensor]:
        ids = torch.randint(5, 190, (rows, length), generator=torch.Generator().manual_seed(length))
        mask = torch.ones_like(ids)
        mask[0, -2:] = 0
        model.zero_grad()
        loss = model(input_ids=ids, attention_mask=mask, labels=ids, use_cache=False).loss
        loss.backward()
        return float(loss.detach()), torch.cat(
            [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        )

    shapes = [(2, 12), (3, 30), (4, 17), (2, 50), (5, 21), (3, 9)]
    before = [step(*shape) for shape in shapes]
    training = family_of(config.to_dict()).training
    assert training is not None
    training.compile_parts(model, language_model=True, backend="aot_eager")
    for shape, (loss, grad) in zip(shapes, before, strict=True):
        found, gradient = step(*shape)
        assert found == pytest.approx(loss, rel=1e-6)
        assert float((gradient - grad).norm() / grad.norm()) < 1e-6
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2, "with recomputation, and without"


@pytest.mark.parametrize("compiler", ["/none/g++", "backend"])
def test_where_nothing_can_be_compiled_a_stage_trains_without(
    compiler: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Found before step 0: the recipe of the bundled model, which a laptop trains, compiles its layers."""
    compiled: list[Any] = []
    training = SimpleNamespace(compile_parts=lambda own, language_model: compiled.append(own))
    stage = load_recipe("tiny").stage("finetune").model_copy(update={"gradient_checkpointing": False})
    run = SimpleNamespace(model=torch.nn.Linear(1, 1), training=training)
    objective: Any = SimpleNamespace(stage=stage, run=run, reads_text=True)
    assert stage.compile
    works = compiler == "backend"
    if works:
        monkeypatch.setattr(torch, "compile", lambda function: function)
    else:
        monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, compiler))
        monkeypatch.setattr("torch._inductor.config.force_disable_caches", True)
    assert _prepared(objective, run.model) is run.model
    assert compiled == [run.model] * works
    said = [record.getMessage() for record in caplog.records if record.name.startswith("viscot")]
    assert len(said) == (not works)
    assert works or ("No working C++ compiler" in said[0] and "\n" not in said[0])
