"""Damaged checkpoints: every fault names its file and tensor, and no code in a pickle is run."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from made_checkpoints import Tensors, change_config, refused, same_model, save, tensors_of

from viscot_core.errors import CheckpointError
from viscot_core.families.manifest import Manifest
from viscot_core.models.checkpoint import open_checkpoint
from viscot_core.tensors import open_file


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


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before-torch-1.6"])
def test_a_damaged_pickle_is_read_or_refused_in_a_sentence(tmp_path: Path, zipped: bool) -> None:
    file, rng = tmp_path / "pytorch_model.bin", random.Random(7)
    tensors = {"a": torch.zeros(10, 10), "b.weight": torch.ones(3, dtype=torch.float16)}
    torch.save(tensors, file, _use_new_zipfile_serialization=zipped)
    whole, refused = file.read_bytes(), 0
    for _ in range(400):
        damaged = bytearray(whole[: rng.choice((len(whole), rng.randrange(len(whole))))])
        for _ in range(rng.choice((1, 3, 20)) if damaged else 0):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        file.write_bytes(damaged)
        try:
            open_file(file)
        except CheckpointError as error:
            refused += 1
            assert str(file) in str(error) and str(error).endswith(".")
            assert len(str(error)) < len(str(file)) + 250
    assert refused > 200


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
    assert same_model(open_checkpoint(copy), open_checkpoint(golden / "tiny_llava"))


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
        ("tokenizer.json", "{}", "tokenizer is damaged"),
        ("tokenizer_config.json", "[", "tokenizer_config.json is damaged"),
        ("tokenizer_config.json", '{"model_max_length": []}', "tokenizer is damaged"),
        ("tokenizer_config.json", '{"added_tokens_decoder": []}', "tokenizer is damaged"),
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


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocab_size", None),
        ("vocab_size", "many"),
        ("hidden_size", "wide"),
        ("hidden_size", None),
        ("num_attention_heads", 0),
        ("num_attention_heads", []),
        ("mm_vision_select_layer", {}),
        ("rope_scaling", 7),
        ("architectures", 5),
        ("max_position_embeddings", "x"),
    ],
)
def test_values_that_no_model_has(copy: Path, field: str, value: Any) -> None:
    change_config(copy, **{field: value})
    message = refused(copy)
    assert "config.json" in message and str(copy) in message


def test_a_config_of_another_towers_size(copy: Path) -> None:
    Manifest(name="x", image_side=112).save(copy)
    assert "viscot.json says that images are 112 px and the vision tower takes 56" in refused(copy)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"name": "x", "image_side": 56, "template": "alpaca"}', "'alpaca' is no template"),
        ('{"name": "x", "image_side": 56, "turn_tokens": "v9"}', "turn_tokens"),
        ('{"name": "x", "image_side": 56, "colour": 1}', "colour"),
        ("{", "viscot.json is damaged"),
    ],
)
def test_a_manifest_says_which_field_is_wrong(copy: Path, content: str, said: str) -> None:
    (copy / "viscot.json").write_text(content)
    assert said in refused(copy)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 8]}, "has 8 bytes for [2, 2] in F32"),
        ({"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}, "F8_E4M3, which viscot does not read"),
        ({"dtype": "F32", "shape": [2]}, "does not place 'a.weight'"),
        ({"dtype": "F32", "shape": "x", "data_offsets": [0, 8]}, "does not place 'a.weight'"),
    ],
)
def test_safetensors_headers_that_do_not_fit(copy: Path, entry: dict[str, Any], said: str) -> None:
    header = json.dumps({"a.weight": entry}).encode()
    (copy / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    message = refused(copy)
    assert said in message and "model.safetensors" in message and "'a.weight'" in message


def test_another_projector(copy: Path) -> None:
    change_config(copy, mm_projector_type="mlp3x_gelu")
    assert "its projector is 'mlp3x_gelu'" in refused(copy)


def test_no_tower_anywhere(copy: Path) -> None:
    save(copy, {n: t for n, t in tensors_of(copy).items() if "vision" not in n})
    change_config(copy, mm_vision_tower="openai/clip-vit-large-patch14-336")
    assert "not inside: clip-vit-large-patch14-336 is not on this machine; get it with" in refused(copy)
