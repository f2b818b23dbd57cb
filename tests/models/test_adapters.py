"""LoRA adapters, upstream's and peft's, merged while they are read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from made_checkpoints import refused, save, tensors_of

from viscot_core.errors import UsageError
from viscot_core.models.checkpoint import open_checkpoint
from viscot_core.models.load import load_model


def test_upstream_lora(copy: Path) -> None:
    """Upstream's adapter: LLaVA names, and the projector whole in non_lora_trainables.bin."""
    target = "model.layers.1.self_attn.q_proj"
    a, b = torch.randn(4, 64), torch.randn(64, 4)
    adapter = copy.parent / "adapter"
    adapter.mkdir()
    torch.save(
        {
            f"base_model.model.{target}.lora_A.weight": a,
            f"base_model.model.{target}.lora_B.weight": b,
        },
        adapter / "adapter_model.bin",
    )
    bias = torch.randn(64)
    torch.save({"base_model.model.model.mm_projector.0.bias": bias}, adapter / "non_lora_trainables.bin")
    _adapter_config(adapter, r=4, lora_alpha=8)
    found = open_checkpoint(adapter)
    found.require_whole()
    base = open_checkpoint(copy)
    name = "model.language_model.layers.1.self_attn.q_proj.weight"
    assert torch.allclose(found.tensors[name].read(), base.tensors[name].read() + 2.0 * (b @ a), atol=1e-5)
    assert torch.equal(found.tensors["model.multi_modal_projector.linear_1.bias"].read(), bias)
    assert load_model(adapter, device="cpu").manifest.name == "adapter"


def test_upstream_lora_on_a_plain_vicuna(copy: Path, golden: Path) -> None:
    """As upstream's LoRA training leaves it: the base knows no images, the adapter brings the rest."""
    tensors = tensors_of(copy)
    whole = {name: tensors.pop(name) for name in list(tensors) if "mm_projector" in name or "vision" in name}
    adapter = copy.parent / "adapter"
    adapter.mkdir()
    shutil.copy(copy / "config.json", adapter)
    save(copy, tensors)
    plain = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    fields = json.loads((copy / "config.json").read_text())
    fields = {key: value for key, value in fields.items() if not key.startswith("mm_")} | plain
    (copy / "config.json").write_text(json.dumps(fields))
    torch.save({f"base_model.model.{n}": t for n, t in whole.items()}, adapter / "non_lora_trainables.bin")
    a, b = torch.randn(4, 64), torch.randn(64, 4)
    target = "base_model.model.model.layers.0.mlp.gate_proj"
    b = torch.randn(tensors["model.layers.0.mlp.gate_proj.weight"].shape[0], 4)
    torch.save({f"{target}.lora_A.weight": a, f"{target}.lora_B.weight": b}, adapter / "adapter_model.bin")
    _adapter_config(adapter, r=4, lora_alpha=4)
    found, wanted = open_checkpoint(adapter), open_checkpoint(golden / "tiny_llava")
    found.require_whole()
    changed = "model.language_model.layers.0.mlp.gate_proj.weight"
    assert found.tensors.keys() == wanted.tensors.keys()
    for name, source in found.tensors.items():
        expected = wanted.tensors[name].read()
        assert torch.allclose(source.read(), expected + b @ a if name == changed else expected, atol=1e-5)
    assert found.manifest.turn_tokens == wanted.manifest.turn_tokens == "plain"
    assert load_model(adapter, device="cpu").manifest.name == "adapter"


def test_the_weights_hash_knows_the_adapter(copy: Path) -> None:
    """A run folder of one adapter is not continued with another."""
    adapter = copy.parent / "adapter"
    adapter.mkdir()
    _adapter_config(adapter, r=2, lora_alpha=2)
    target = "base_model.model.model.layers.0.self_attn.q_proj"
    hashes = set()
    for value in (0.0, 1.0):
        pair = {
            f"{target}.lora_A.weight": torch.full((2, 64), value),
            f"{target}.lora_B.weight": torch.ones(64, 2),
        }
        torch.save(pair, adapter / "adapter_model.bin")
        hashes.add(load_model(adapter, device="cpu").weights_hash)
    assert len(hashes) == 2


def _adapter_config(folder: Path, **fields: Any) -> None:
    content = {"peft_type": "LORA", "base_model_name_or_path": "model", **fields}
    (folder / "adapter_config.json").write_text(json.dumps(content))


def _trained(model: Any, adapter: Path, seed: int, **fields: Any) -> Any:
    """A peft adapter on ``model`` with random weights, saved in ``adapter``; returns the peft model."""
    from peft import LoraConfig, get_peft_model

    tuned = get_peft_model(model, LoraConfig(r=4, lora_alpha=16, **fields))
    torch.manual_seed(seed)
    for name, parameter in tuned.named_parameters():
        if parameter.requires_grad and "lora_A" not in name:
            parameter.data.normal_(std=0.1)
    tuned.save_pretrained(adapter)
    return tuned


def _on(adapter: Path, base: str) -> None:
    content = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(content | {"base_model_name_or_path": base}))


def _same_weights(adapter: Path, merged: dict[str, torch.Tensor]) -> None:
    ours = load_model(adapter, device="cpu").model.state_dict()
    for name, tensor in merged.items():
        assert torch.allclose(ours[name], tensor, atol=1e-6), name


TEXT = r".*language_model.*\.(q_proj|up_proj)"


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": TEXT},
        {"target_modules": TEXT, "modules_to_save": ["multi_modal_projector"]},
        {"target_modules": TEXT, "use_rslora": True},
        {"target_modules": TEXT, "init_lora_weights": "gaussian"},
        {"target_modules": TEXT, "layers_to_transform": [1], "layers_pattern": "layers"},
        {"target_modules": r".*(vision_tower|projector).*\.(q_proj|linear_1)", "bias": "all"},
        {"target_modules": r".*(vision_tower|projector).*\.(q_proj|linear_1)", "bias": "lora_only"},
    ],
    ids=["plain", "modules to save", "rslora", "gaussian", "layers", "all biases", "own biases"],
)
def test_every_adapter_that_is_taken_equals_peft_s_own_merge(copy: Path, fields: dict[str, Any]) -> None:
    if "layers_to_transform" in fields:
        fields = fields | {"target_modules": ["q_proj", "up_proj"]}
    tuned = _trained(load_model(copy, device="cpu").model, copy.parent / "peft", 0, **fields)
    _on(copy.parent / "peft", "model")
    _same_weights(copy.parent / "peft", tuned.merge_and_unload().state_dict())


def test_an_adapter_on_an_adapter_keeps_the_first(copy: Path) -> None:
    """The second change took the place of the first."""
    first, second = copy.parent / "first", copy.parent / "second"
    merged = _trained(load_model(copy, device="cpu").model, first, 1, target_modules=TEXT).merge_and_unload()
    merged = _trained(merged, second, 2, target_modules=TEXT, use_rslora=True).merge_and_unload()
    _on(first, "model")
    _on(second, "first")
    _same_weights(second, merged.state_dict())
    found = open_checkpoint(second)
    assert len({path for path in found.files if path.name.startswith("adapter_model")}) == 2
    assert found.notes[-2:] == [f"adapter on {copy}", f"adapter on {first}"]
    _on(first, "second")
    assert "is its own base (adapter_config.json); name the base with --base" in refused(second)


def test_the_base_that_the_user_names(copy: Path) -> None:
    """The adapter's config names a folder of another machine."""
    adapter = copy.parent / "peft"
    tuned = _trained(load_model(copy, device="cpu").model, adapter, 0, target_modules=TEXT)
    _on(adapter, "/data/models/somebody-s-base")
    assert "no folder '/data/models/somebody-s-base'" in refused(adapter)
    loaded = load_model(adapter, device="cpu", base=copy).model.state_dict()
    for name, tensor in tuned.merge_and_unload().state_dict().items():
        assert torch.allclose(loaded[name], tensor, atol=1e-6), name
    with pytest.raises(UsageError, match="is no adapter and needs no base; leave out --base"):
        load_model(copy, device="cpu", base=copy)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"r": 4, "lora_alpha": 8, "use_dora": True}, "use_dora"),
        ({"r": 4, "lora_alpha": 8, "peft_type": "IA3"}, "IA3"),
        ({"r": 4, "lora_alpha": 8, "init_lora_weights": "pissa"}, "began as pissa, which changes the base"),
        ({"r": 4, "lora_alpha": 8, "init_lora_weights": "pissa_niter_16"}, "began as pissa_niter_16"),
        ({"r": 4, "lora_alpha": 8, "init_lora_weights": "olora"}, "began as olora"),
        ({"r": 4, "lora_alpha": 8, "init_lora_weights": "lora_ga"}, "began as lora_ga"),
        ({"r": 4, "lora_alpha": 8, "init_lora_weights": "of next year"}, "began as of next year"),
        (
            {"r": 4, "lora_alpha": 8, "rank_pattern": {"q_proj": 8}},
            "uses rank_pattern, which",
        ),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"q_proj": 8}}, "uses alpha_pattern"),
        ({"r": 4, "lora_alpha": 8, "fan_in_fan_out": True}, "uses fan_in_fan_out"),
        ({"r": 4, "lora_alpha": 8, "kasa_config": {"beta": 1}}, "uses kasa_config"),
        ({"r": 4, "lora_alpha": 8, "of_next_year": True}, "uses of_next_year"),
        ({"r": 4, "lora_alpha": 8, "lora_bias": True}, "lora_bias"),
        ({"r": 4, "lora_alpha": 8, "layer_replication": [[0, 2]]}, "layer_replication"),
        ({"r": 4, "lora_alpha": 8, "base_model_name_or_path": None}, "names no base model"),
        ({"r": 4, "lora_alpha": 8}, "holds no adapter weights"),
        ({"r": 0, "lora_alpha": 8}, "does not state the rank"),
        ({"lora_alpha": 8}, "does not state the rank"),
    ],
)
def test_adapters_that_are_not_merged(copy: Path, fields: dict[str, Any], said: str) -> None:
    adapter = copy.parent / "adapter"
    adapter.mkdir()
    _adapter_config(adapter, **fields)
    assert said in refused(adapter)


def test_an_adapter_of_another_size(copy: Path) -> None:
    adapter = copy.parent / "adapter"
    adapter.mkdir()
    target = "base_model.model.model.layers.0.self_attn.q_proj"
    torch.save(
        {f"{target}.lora_A.weight": torch.ones(4, 32), f"{target}.lora_B.weight": torch.ones(64, 4)},
        adapter / "adapter_model.bin",
    )
    _adapter_config(adapter, r=4, lora_alpha=8)
    assert "belongs to another base model" in refused(adapter)
    _adapter_config(adapter, r=8, lora_alpha=8)
    assert "has the rank 4 and adapter_config.json says 8" in refused(adapter)
    torch.save({"base_model.model.model.norm.weight": torch.ones(32)}, adapter / "adapter_model.bin")
    assert "'base_model.model.model.norm.weight' has the shape [32] and its base [64]" in refused(adapter)
