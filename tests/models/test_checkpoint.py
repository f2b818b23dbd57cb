"""Checkpoints as people have them: in parts, renamed, and damaged; every fault names its file and tensor."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from viscot_core.errors import CheckpointError, EngineError, UsageError
from viscot_core.models import zoo
from viscot_core.models.checkpoint import Checkpoint, open_checkpoint
from viscot_core.models.layouts import Layout
from viscot_core.models.load import load_model
from viscot_core.models.weights import hash_files, open_weights

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def copy(golden: Path, tmp_path: Path) -> Path:
    """A tiny checkpoint to damage, beside the tower config it names."""
    shutil.copytree(golden / "tiny_clip", tmp_path / "tiny_clip")
    return Path(shutil.copytree(golden / "tiny_llava", tmp_path / "model"))


@pytest.fixture
def pickled(golden: Path, tmp_path: Path) -> Path:
    shutil.copytree(golden / "tiny_clip", tmp_path / "tiny_clip")
    return Path(shutil.copytree(golden / "tiny_llava_bin", tmp_path / "pickled"))


def tensors_of(folder: Path) -> Tensors:
    return {name: stored.read().clone() for name, stored in open_weights(folder).items()}


def save(folder: Path, tensors: Tensors) -> None:
    from safetensors.torch import save_file

    save_file(tensors, folder / "model.safetensors")


def config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in fields.items() if value is not None}))


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder).require_whole()
    message = str(caught.value)
    assert "\n" not in message
    return message


# -- what is read ------------------------------------------------------------------------------------


def test_both_forms_of_the_original_layout(golden: Path) -> None:
    for name, dtype in (("tiny_llava", "float32"), ("tiny_llava_bin", "bfloat16")):
        found = open_checkpoint(golden / name)
        found.require_whole()
        assert (found.layout, found.dtype, len(found.tensors)) == (Layout.LLAVA, dtype, 89)
        assert (found.text_rows, found.config.text_config.vocab_size) == (800, 832)
        assert found.config.image_token_id == 800
        assert found.manifest.turn_tokens == "plain"


def test_the_folder_s_name_decides_nothing(copy: Path) -> None:
    for name in ("vicuna-13b", "llava", "x"):
        renamed = copy.rename(copy.parent / name)
        assert open_checkpoint(renamed).layout is Layout.LLAVA
        copy = renamed


@pytest.mark.parametrize("tower", ["tiny_clip", ["tiny_clip"], "/home/someone/models/tiny_clip"])
def test_the_tower_may_be_named_in_many_ways(copy: Path, tower: Any) -> None:
    config(copy, mm_vision_tower=tower)
    found = open_checkpoint(copy)
    assert found.config.vision_config.num_attention_heads == 4 and not found.notes


def test_a_tower_inside_needs_no_clip_repository(copy: Path) -> None:
    """Its shape is read off the tensors; only the number of heads is CLIP's custom."""
    tensors = tensors_of(copy)
    for name, tensor in list(tensors.items()):
        if "vision_tower" in name or name == "model.mm_projector.0.weight":
            tensors[name] = _widened(tensor)
    save(copy, tensors)
    config(copy, mm_vision_tower="openai/clip-vit-large-patch14-336", mm_hidden_size=64)
    found = open_checkpoint(copy)
    found.require_whole()
    vision = found.config.vision_config
    assert (vision.hidden_size, vision.num_attention_heads, vision.num_hidden_layers) == (64, 1, 3)
    assert (vision.image_size, vision.patch_size, vision.intermediate_size) == (56, 14, 96)
    assert "64 wide" in found.notes[0]


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    """Every side of 48 becomes 64."""
    shape = [64 if length == 48 else length for length in tensor.shape]
    return torch.zeros(shape)


def test_heads_that_nothing_tells(copy: Path) -> None:
    config(copy, mm_vision_tower="elsewhere/clip")
    assert "48 wide, which does not tell its number of attention heads" in refused(copy)


def test_computed_buffers_are_ignored(copy: Path) -> None:
    tensors = tensors_of(copy)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    tensors["model.vision_tower.vision_tower.vision_model.embeddings.position_ids"] = torch.arange(17)
    save(copy, tensors)
    open_checkpoint(copy).require_whole()


def test_projector_beside_a_plain_llama(copy: Path, golden: Path) -> None:
    """Vicuna + mm_projector.bin + the CLIP folder, as stage 1 of LLaVA leaves them."""
    tensors = tensors_of(copy)
    projector = {name: tensors.pop(name) for name in list(tensors) if "mm_projector" in name}
    tower = {
        name.removeprefix("model.vision_tower.vision_tower."): tensors.pop(name)
        for name in list(tensors)
        if "vision_tower" in name
    }
    save(copy, tensors)
    save(copy.parent / "tiny_clip", tower)
    torch.save(projector, copy / "mm_projector.bin")
    config(copy, architectures=["LlamaForCausalLM"], model_type="llama", mm_projector_type=None)
    found = open_checkpoint(copy)
    found.require_whole()
    assert "the vision tower comes from" in found.notes[0]
    assert _same_model(found, open_checkpoint(golden / "tiny_llava"))


def test_a_folder_with_a_projector_only_finds_its_base(copy: Path, golden: Path) -> None:
    tensors = tensors_of(copy)
    torch.save(
        {name: tensors.pop(name) for name in list(tensors) if "mm_projector" in name},
        copy.parent / "projector.bin",
    )
    save(copy, tensors)
    stage1 = copy.parent / "stage1"
    stage1.mkdir()
    shutil.copy(copy / "config.json", stage1)
    shutil.move(copy.parent / "projector.bin", stage1 / "mm_projector.bin")
    config(stage1, _name_or_path="model")
    assert _same_model(open_checkpoint(stage1), open_checkpoint(golden / "tiny_llava"))
    config(stage1, _name_or_path="gone")
    assert "no model 'gone'" in refused(stage1)


def _same_model(a: Checkpoint, b: Checkpoint) -> bool:
    assert a.tensors.keys() == b.tensors.keys()
    return all(torch.equal(source.read(), b.tensors[name].read()) for name, source in a.tensors.items())


def test_projector_beside_whole_weights_is_a_copy(copy: Path) -> None:
    """LLaVA-1.5 ships its mm_projector.bin beside weights that hold it already."""
    tensors = tensors_of(copy)
    torch.save({n: t for n, t in tensors.items() if "mm_projector" in n}, copy / "mm_projector.bin")
    open_checkpoint(copy).require_whole()


# -- adapters ----------------------------------------------------------------------------------------


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


def _adapter_config(folder: Path, **fields: Any) -> None:
    content = {"peft_type": "LORA", "base_model_name_or_path": "model", **fields}
    (folder / "adapter_config.json").write_text(json.dumps(content))


def test_peft_adapter_equals_peft_s_own_merge(copy: Path, golden: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = load_model(copy, device="cpu").model
    tuned = get_peft_model(
        model,
        LoraConfig(
            r=4,
            lora_alpha=16,
            target_modules=r".*language_model.*\.(q_proj|up_proj)",
            modules_to_save=["multi_modal_projector"],
        ),
    )
    torch.manual_seed(0)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            parameter.data.normal_(std=0.1)
    adapter = copy.parent / "peft"
    tuned.save_pretrained(adapter)
    content = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(content | {"base_model_name_or_path": "model"}))
    merged = tuned.merge_and_unload().state_dict()
    ours = load_model(adapter, device="cpu").model.state_dict()
    for name, tensor in merged.items():
        assert torch.allclose(ours[name], tensor, atol=1e-6), name


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"r": 4, "lora_alpha": 8, "use_dora": True}, "use_dora"),
        ({"r": 4, "lora_alpha": 8, "peft_type": "IA3"}, "IA3"),
        ({"r": 4, "lora_alpha": 8, "base_model_name_or_path": None}, "names no base model"),
        ({"r": 4, "lora_alpha": 8}, "holds no adapter weights"),
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
    with pytest.raises(CheckpointError, match="belongs to another base model"):
        load_model(adapter, device="cpu")


# -- damage ------------------------------------------------------------------------------------------


def test_missing_shard(pickled: Path) -> None:
    (pickled / "pytorch_model-00002-of-00003.bin").unlink()
    message = refused(pickled)
    assert "pytorch_model-00002-of-00003.bin is missing" in message
    assert "'model.layers." in message and "more tensors" in message


def test_truncated_pickle(pickled: Path) -> None:
    shard = pickled / "pytorch_model-00003-of-00003.bin"
    shard.write_bytes(shard.read_bytes()[:50_000])
    message = refused(pickled)
    assert "00003-of-00003.bin is damaged or truncated" in message and "It should hold '" in message


def test_truncated_safetensors_names_the_tensor(copy: Path) -> None:
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    message = refused(copy)
    assert "model.safetensors is truncated: 'model.vision_tower" in message


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\x10",
        struct.pack("<Q", 1 << 40) + b"{}",
        struct.pack("<Q", 4) + b"nope",
        b"<html>not found</html>",
    ],
)
def test_safetensors_that_are_none(copy: Path, damage: bytes) -> None:
    (copy / "model.safetensors").write_bytes(damage)
    assert "model.safetensors is damaged" in refused(copy)


def test_index_pointing_nowhere(pickled: Path) -> None:
    index = pickled / "pytorch_model.bin.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.layers.0.ghost.weight"] = "pytorch_model-00001-of-00003.bin"
    index.write_text(json.dumps(content))
    assert "places 'model.layers.0.ghost.weight' in pytorch_model-00001" in refused(pickled)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3'])
def test_damaged_index(pickled: Path, content: str) -> None:
    (pickled / "pytorch_model.bin.index.json").write_text(content)
    assert "index.json is damaged" in refused(pickled)


def test_code_in_a_pickle_is_refused_and_never_run(copy: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            import os

            return os.system, (f"touch {copy / 'ran'}",)

    (copy / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Evil()}, copy / "pytorch_model.bin")
    message = refused(copy)
    assert "holds code (posix.system)" in message and "pytorch_model.bin" in message
    assert not (copy / "ran").exists()


def test_old_pickles_without_a_zip_still_load(copy: Path, golden: Path) -> None:
    tensors = tensors_of(copy)
    (copy / "model.safetensors").unlink()
    torch.save(tensors, copy / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert _same_model(open_checkpoint(copy), open_checkpoint(golden / "tiny_llava"))


def test_a_pickle_of_something_else(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    torch.save([1, 2], copy / "pytorch_model.bin")
    assert "does not hold named tensors" in refused(copy)


def change(name: str, tensor: torch.Tensor | None) -> Callable[[Tensors], None]:
    def apply(tensors: Tensors) -> None:
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor

    return apply


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            change("model.layers.2.mlp.up_proj.weight", torch.zeros(160, 63)),
            ["'model.layers.2.mlp.up_proj.weight' has the shape [160, 63]", "[160, 64]", "model.safetensors"],
        ),
        (change("model.norm.weight", None), ["lacks the tensor 'model.norm.weight'"]),
        (
            change("model.layers.7.norm.weight", torch.ones(3)),
            ["'model.layers.7.norm.weight' belongs to no part"],
        ),
        (
            change("model.multi_modal_projector.linear_1.weight", torch.ones(64, 48)),
            ["'model.mm_projector.0.weight'", "'model.multi_modal_projector.linear_1.weight'", "twice"],
        ),
        (change("model.mm_projector.4.weight", torch.ones(64, 64)), ["'model.mm_projector.4.weight'"]),
    ],
)
def test_tensors_that_do_not_fit(copy: Path, damage: Callable[[Tensors], None], said: list[str]) -> None:
    tensors = tensors_of(copy)
    damage(tensors)
    save(copy, tensors)
    message = refused(copy)
    assert all(part in message for part in said), message
    assert str(copy) in message


def test_several_faults_are_counted(copy: Path) -> None:
    tensors = tensors_of(copy)
    for layer in range(3):
        del tensors[f"model.layers.{layer}.mlp.down_proj.weight"]
    save(copy, tensors)
    assert f"(and 2 more: viscot models inspect {copy})" in refused(copy)


def test_a_text_only_llama(copy: Path) -> None:
    save(copy, {n: t for n, t in tensors_of(copy).items() if "mm_projector" not in n and "vision" not in n})
    (copy / "config.json").write_text(
        json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"})
    )
    assert "text-only model (LlamaForCausalLM)" in refused(copy)


def test_another_family(copy: Path) -> None:
    save(copy, {"transformer.wte.weight": torch.ones(2, 2)})
    (copy / "config.json").write_text(
        json.dumps({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"})
    )
    assert "this is GPT2LMHeadModel" in refused(copy)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config.json", "{", "config.json is damaged"),
        ("config.json", "[]", "config.json holds no JSON object"),
        ("config.json", None, "no checkpoint: it has no config.json"),
        ("tokenizer.model", None, "has no tokenizer"),
        ("tokenizer.model", "garbage", "tokenizer is damaged"),
        ("model.safetensors", None, "holds no weights"),
        ("viscot.json", "{}", "viscot.json is damaged"),
    ],
)
def test_files_beside_the_weights(copy: Path, file: str, content: str | None, said: str) -> None:
    if content is None:
        (copy / file).unlink()
    else:
        (copy / file).write_text(content)
    assert said in refused(copy)


def test_another_projector(copy: Path) -> None:
    config(copy, mm_projector_type="mlp3x_gelu")
    assert "its projector is 'mlp3x_gelu'" in refused(copy)


def test_no_tower_anywhere(copy: Path) -> None:
    save(copy, {n: t for n, t in tensors_of(copy).items() if "vision" not in n})
    config(copy, mm_vision_tower="openai/clip-vit-large-patch14-336")
    assert "viscot models pull openai/clip-vit-large-patch14-336" in refused(copy)


# -- names and choices -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("VisCoT-7b-36", "Did you mean 'VisCoT-7b-336'"),
        ("deepcs233/VisCot-7b-366", "Did you mean 'VisCoT-7b-336'"),
        ("viscot-7B-336", "viscot models pull VisCoT-7b-336"),
        ("nothing-like-it-at-all", "There is no model"),
    ],
)
def test_names_that_are_not_there(
    name: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VISCOT_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError) as caught:
        zoo.resolve(name)
    assert said in str(caught.value)


def test_nearest_folder_and_a_file(copy: Path) -> None:
    with pytest.raises(CheckpointError, match="Did you mean 'model'"):
        zoo.resolve(copy.parent / "modle")
    with pytest.raises(CheckpointError, match="is a file"):
        zoo.resolve(copy / "config.json")


@pytest.mark.parametrize(
    "choice", [{"attn": "fast"}, {"load_in": "2bit"}, {"dtype": "int8"}, {"device": "cpuu"}]
)
def test_impossible_choices(golden: Path, choice: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        load_model(golden / "tiny_llava", **{"device": "cpu"} | choice)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there(golden: Path) -> None:
    with pytest.raises(EngineError, match="--device cpu"):
        load_model(golden / "tiny_llava", device="cuda")


def test_weights_hash_tells_content(copy: Path, golden: Path) -> None:
    before = hash_files([copy / "model.safetensors"])
    assert before == hash_files([golden / "tiny_llava" / "model.safetensors"])
    tensors = tensors_of(copy)
    tensors["model.norm.weight"][0] += 1
    save(copy, tensors)
    assert hash_files([copy / "model.safetensors"]) != before


def test_writing_to_a_loaded_model_stays_in_it(copy: Path) -> None:
    before = (copy / "model.safetensors").read_bytes()
    model = load_model(copy, device="cpu", dtype="fp32").model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert (copy / "model.safetensors").read_bytes() == before
    again = load_model(copy, device="cpu", dtype="fp32").model
    name = "model.language_model.norm.weight"
    assert torch.equal(again.state_dict()[name] + 1.0, model.state_dict()[name])


@pytest.mark.slow
@pytest.mark.parametrize("load_in", ["8bit", "4bit"])
def test_quantised_on_the_cpu(copy: Path, golden: Path, load_in: str) -> None:
    """bitsandbytes quantises the language model; tower, projector and head stay as they are."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    from viscot_core import load

    tensors = tensors_of(copy)
    for name, tensor in tensors.items():
        if ".mlp." in name and "vision" not in name:  # 4-bit blocks are 64 numbers long
            tensors[name] = tensor[:128] if "down" not in name else tensor[:, :128]
    save(copy, {name: tensor.contiguous() for name, tensor in tensors.items()})
    config(copy, intermediate_size=128)
    chain = load(copy, device="cpu", load_in=load_in)
    model = chain.engine.model  # type: ignore[attr-defined]
    kinds = {"8bit": bitsandbytes.nn.Linear8bitLt, "4bit": bitsandbytes.nn.Linear4bit}
    assert isinstance(model.model.language_model.layers[0].mlp.up_proj, kinds[load_in])
    assert type(model.model.multi_modal_projector.linear_1) is torch.nn.Linear
    assert type(model.lm_head) is torch.nn.Linear
    assert chain.engine.identity["load_in"] == load_in
    assert chain.ask(golden / "images" / "landscape.jpg", "How many?").box_text
