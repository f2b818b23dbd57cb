"""Estimates against what is measured or published: activations, peaks of GPUs, padding, remedies, keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from viscot_core.errors import RecipeError
from viscot_core.families.generic.backbones import backbone_of
from viscot_core.families.generic.shapes import shape_of_config
from viscot_core.families.llava.scratch import build_model, train_tokenizer
from viscot_core.families.table import training_from_parts
from viscot_core.gpus import PEAK_TFLOPS, peak_tflops
from viscot_core.train.loop.throughput import Meter
from viscot_core.train.plan import estimates
from viscot_core.train.plan.make_plan import make_plan
from viscot_core.train.plan.padding import filled_share, is_packed
from viscot_core.train.plan.plan_types import Machine, Split
from viscot_core.train.plan.problems import _missing_key
from viscot_core.train.recipe.load import load_recipe
from viscot_core.train.recipe.schema import StageSpec
from viscot_core.train.recipe.tiny_specs import ScratchSpec
from viscot_core.train.state.initial import weights_dtype

SHAPE = ScratchSpec(
    image_side=112, patch=14, vision_width=128, vision_layers=2, vision_heads=4, vision_mlp=512,
    llm_width=128, llm_layers=2, llm_heads=4, llm_mlp=344, max_positions=512, vocab_size=300,
    tie_embeddings=False,
)  # fmt: skip
LENGTH = 400


def stage_of(**fields: Any) -> StageSpec:
    usual = {"kind": "finetune", "train": ["projector", "llm", "vision_tower"], "epochs": 1}
    return StageSpec.model_validate({**usual, "global_batch_size": 8, "learning_rate": 1, **fields})


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_activations_are_those_that_autograd_keeps(precision: str, dtype: torch.dtype) -> None:
    """Without gradient checkpointing the estimate was 26 % low."""
    tokenizer = train_tokenizer(["x"], vocab_size=300, max_positions=512)
    model = build_model(SHAPE, tokenizer, feature_layer=-1, attention="sdpa", seed=0).to(dtype).train()
    training = training_from_parts()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = training.gets_gradient(name, model.config)
    kept: dict[int, torch.Tensor] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in own:
            kept[place] = tensor
        return tensor

    ids = torch.randint(5, 250, (1, LENGTH), generator=torch.Generator().manual_seed(0))
    ids[0, 1:129] = tokenizer.convert_tokens_to_ids("<image>")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=ids, pixel_values=torch.zeros(2, 3, 112, 112, dtype=dtype), use_cache=False)
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    stage = stage_of(max_length=LENGTH, precision=precision, zero_stage=2)
    shape = training.shape_of_config(model.config)
    logits = LENGTH * estimates.logits_bytes(shape, stage)
    assert estimates._sample_bytes(shape, stage) - logits == pytest.approx(measured, rel=0.08)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA A100 80GB PCIe", 312), ("A100", 312), ("a100-40g", 312),
        ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989), ("NVIDIA H800", 989), ("NVIDIA H20", 148), ("NVIDIA B200", 2250),
        ("Tesla T4", 65), ("Tesla V100-SXM2-32GB", 125), ("NVIDIA GeForce RTX 3090", 71),
        ("NVIDIA GeForce RTX 4090", 165.2), ("NVIDIA A10", 125), ("NVIDIA L4", 121), ("NVIDIA L40S", 362),
        ("NVIDIA RTX A6000", 154.8), ("NVIDIA RTX 6000 Ada Generation", 364), ("NVIDIA GH200 480GB", 989),
        ("NVIDIA GeForce RTX 3090 Ti", None), ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None), ("NVIDIA GeForce GTX 1080", None),
        ("Quadro RTX 6000", None), ("NVIDIA A10G", None), ("", None),
    ],
)  # fmt: skip
def test_peaks_of_gpus(name: str, peak: float | None) -> None:
    assert peak_tflops(name) == peak


def test_every_gpu_of_the_table_is_found_by_its_name() -> None:
    assert all(peak_tflops(f"NVIDIA {name.upper()}") == peak for name, peak in PEAK_TFLOPS.items())


def test_a_card_that_is_not_known_has_no_mfu_and_no_hours() -> None:
    for gpu, known in (("NVIDIA H100 80GB HBM3", True), ("NVIDIA X999", False)):
        meter = Meter(8, 2, flops_per_token=1e12, gpu=gpu)
        meter.start(0)
        meter.add(950, 1000, 0)
        assert ("mfu" in meter.read(1)) == known
        machine = Machine(gpus=8, gpu_memory_gib=80, gpu_name=gpu)
        plan = make_plan(load_recipe("7b-336"), machine, run="r", data="nowhere")
        assert (plan.stage("finetune").hours is not None) == known


def test_packing_saves_planned_hours() -> None:
    machine = Machine(gpus=8, gpu_memory_gib=80)
    ungrouped, rows = "stages.finetune.group_by=none", "stages.finetune.packing=false"
    padded, grouped, packed = (
        make_plan(load_recipe("7b-336", sets), machine, run="r", data="nowhere").stage("finetune").hours
        for sets in ([ungrouped, rows], [rows], [ungrouped])
    )
    assert padded and grouped and packed
    assert packed < 0.9 * padded and grouped < padded


def test_the_share_of_padding() -> None:
    split, rows = Split(4, 1, 2), [100.0] * 50 + [300.0] * 50
    stage = stage_of(max_length=512, group_by="none")
    assert filled_share(rows, stage, Split(1, 8, 1), packed=False) == 1.0
    assert filled_share(rows, stage, split, packed=True) == 1.0
    assert 0.6 < filled_share(rows, stage, split, packed=False) < 0.8
    assert filled_share([100.0], stage, split, packed=False) == 1.0


def test_what_cannot_pack_is_planned_with_padding() -> None:
    """``packing: null`` counted as full also where the loop pads."""
    machine = Machine(gpus=8, gpu_memory_gib=80)
    packed, eager, flash, padded = (
        make_plan(load_recipe("7b-336", sets), machine, run="r", data="nowhere").stage("finetune").hours
        for sets in (
            [],
            ["model.attention=eager"],
            ["model.attention=flash_attention_2"],
            ["stages.finetune.packing=false"],
        )
    )
    assert packed and padded and eager == flash == padded and packed < padded
    assert is_packed(stage_of(packing=True), "eager", packs=True)
    assert not is_packed(stage_of(), "sdpa", packs=False) and not is_packed(
        stage_of(kind="dpo"), "sdpa", True
    )


@pytest.mark.parametrize("kind", ["qwen3_5", "gemma3", "qwen3_vl"])
def test_a_shape_knows_whether_its_family_packs(kind: str) -> None:
    shape = shape_of_config(AutoConfig.for_model(kind))
    assert shape.packs == (kind == "qwen3_vl") == backbone_of({"model_type": kind}).packs


def test_remedies_are_tried_and_named_with_their_figures(tmp_path: Path) -> None:
    lora = ["stages.finetune.lora.rank=128", "stages.finetune.train=[projector, llm]"]
    machine = Machine(gpus=1, gpu_memory_gib=24)
    recipe = load_recipe("7b-336", lora)
    recipe = recipe.model_copy(update={"stages": (recipe.stage("finetune"),)})
    with pytest.raises(RecipeError) as refused:
        make_plan(recipe, machine, run=tmp_path, data=tmp_path)
    told = str(refused.value)
    for option in ("offload=optimizer", "offload=all", "--load-in 8bit", "--load-in 4bit", "--gpus 2"):
        assert f"{option} (" in told
    assert "--lora 128" not in told and "zero_stage=3 (" not in told, "given already, or no help"
    small = Machine(gpus=1, gpu_memory_gib=4)
    with pytest.raises(RecipeError, match="no option makes it fit; the nearest is"):
        make_plan(recipe, small, run=tmp_path, data=tmp_path)
    # What is named does fit: the plan agrees.
    changed = load_recipe("7b-336", [*lora, "stages.finetune.offload=optimizer"])
    changed = changed.model_copy(update={"stages": (changed.stage("finetune"),)})
    assert make_plan(changed, machine, run=tmp_path, data=tmp_path).stage("finetune").memory_gib


def test_wandb_without_a_key_is_told_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = load_recipe("tiny", ["report_to=[wandb]"])
    assert "wandb login" in next(_missing_key(recipe))
    assert not [*_missing_key(load_recipe("tiny"))]
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert not [*_missing_key(recipe)]
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    (tmp_path / ".netrc").unlink()
    assert [*_missing_key(recipe)]
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert not [*_missing_key(recipe)]


@pytest.mark.parametrize("fields", [
    {}, {"zero_stage": 2}, {"precision": "fp32", "zero_stage": 2}, {"precision": "fp32", "lora": {"rank": 4}},
    {"lora": {"rank": 4}}, {"lora": {"rank": 4}, "precision": "fp16", "zero_stage": 1},
])  # fmt: skip
def test_weights_are_planned_as_they_are_loaded(fields: dict[str, Any]) -> None:
    stage = stage_of(**{"train": ["projector", "llm"], **fields})
    assert estimates.loaded_bytes(stage) == weights_dtype(stage).itemsize
