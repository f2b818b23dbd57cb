"""``viscot models`` as people type it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def test_list(cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISCOT_CACHE", str(tmp_path))
    ran = cli("models", "list")
    assert ran.code == 0
    line = next(line for line in ran.out.splitlines() if "VisCoT-13b-336" in line)
    assert line.split() == ["VisCoT-13b-336", "13.35B", "26.7", "30/16/9.1", "Llama", "2"]
    assert next(line for line in ran.out.splitlines() if "viscot-tiny" in line).startswith("* viscot-tiny")
    assert max(map(len, ran.out.splitlines())) <= 80
    rows = [json.loads(line) for line in cli("models", "list", "--json").out.splitlines()]
    assert {
        "VisCoT-7b-224",
        "VisCoT-7b-336",
        "VisCoT-13b-224",
        "VisCoT-13b-336",
        "viscot-tiny",
        "viscot-tiny-zoom",
    } <= {row["name"] for row in rows}
    seven = next(row for row in rows if row["name"] == "VisCoT-7b-336")
    assert seven["gpu_gb"]["16"] > seven["gpu_gb"]["8"] > seven["gpu_gb"]["4"] > 4
    assert seven["path"] is None


def test_list_of_a_family(cli: Run) -> None:
    ran = cli("models", "list", "--family", "qwen3-vl")
    assert [line.split()[0] for line in ran.out.splitlines()[2:]] == [
        "Qwen3-VL-2B-Instruct",
        "Qwen3-VL-4B-Instruct",
        "Qwen3-VL-8B-Instruct",
        "Qwen3-VL-30B-A3B-Instruct",
    ]
    rows = [
        json.loads(line) for line in cli("models", "list", "--family", "gemma3", "--json").out.splitlines()
    ]
    assert all(row["gated"] and row["hub"].startswith("google/") and row["source"] for row in rows)
    wrong = cli("models", "list", "--family", "qwen3vl")
    assert wrong.code == 2 and "Did you mean 'qwen3-vl'" in wrong.err


def test_a_pulled_model_is_listed_and_found(
    cli: Run, golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISCOT_CACHE", str(tmp_path))
    repository = tmp_path / "models--deepcs233--VisCoT-7b-224"
    shutil.copytree(golden / "tiny_llava", repository / "snapshots" / "abc")
    shutil.copytree(golden / "tiny_clip", repository / "snapshots" / "tiny_clip")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    rows = [json.loads(line) for line in cli("models", "list", "--json").out.splitlines()]
    assert next(row for row in rows if row["name"] == "VisCoT-7b-224")["path"].endswith("snapshots/abc")
    ran = cli("models", "inspect", "viscot-7b-224", "--json")
    assert ran.code == 0 and json.loads(ran.out)["layout"] == "llava"


def test_inspect(cli: Run, golden: Path) -> None:
    ran = cli("models", "inspect", golden / "tiny_llava_bin")
    assert ran.code == 0
    for said in (
        "layout        llava",
        "parameters    341,712",
        "stored as     bfloat16",
        "tiny_clip: clip_vision_model 3 x 48, patch 14, features of layer -2",
        "56 px, 16 tokens each",
        "800 ids in 832 rows",
        "turn tokens plain",
        "pytorch_model-00002-of-00003.bin  297,769 bytes",
    ):
        assert said in ran.out, said


def test_inspect_lists_every_fault(cli: Run, golden: Path, tmp_path: Path) -> None:
    import torch

    shutil.copytree(golden / "tiny_clip", tmp_path / "tiny_clip")
    folder = shutil.copytree(golden / "tiny_llava_bin", tmp_path / "model")
    shard = folder / "pytorch_model-00003-of-00003.bin"
    tensors = torch.load(shard, weights_only=True)
    first, *_ = tensors
    tensors[first] = tensors[first][..., :1].clone()
    tensors["model.extra.weight"] = torch.ones(2)
    torch.save(tensors, shard)
    index = folder / "pytorch_model.bin.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.extra.weight"] = shard.name
    content["weight_map"].pop("model.norm.weight")
    index.write_text(json.dumps(content))
    ran = cli("models", "inspect", folder)
    assert ran.code == 1
    assert "missing       model.norm.weight" in ran.out
    assert f"unexpected    model.extra.weight ({shard.name})" in ran.out
    assert f"misshaped     {first} ({shard.name})" in ran.out
    assert "3 tensors do not fit" in ran.err


def test_export(cli: Run, golden: Path, tmp_path: Path) -> None:
    ran = cli(
        "models",
        "export",
        golden / "tiny_llava",
        "--layout",
        "hf",
        "--dtype",
        "bf16",
        "--out",
        tmp_path / "hf",
    )
    assert ran.code == 0 and "hf layout" in ran.out
    assert (tmp_path / "hf" / "chat_template.jinja").exists()
    ran = cli("models", "export", tmp_path / "hf", "--layout", "llava", "--out", tmp_path / "back")
    assert ran.code == 0
    back, wanted = (
        json.loads((folder / "config.json").read_text())
        for folder in (tmp_path / "back", golden / "tiny_llava_bin")
    )
    assert back == wanted
    for argv, said in [
        (("--layout", "llama", "--out", tmp_path / "x"), "Did you mean 'llava'"),
        (("--out", tmp_path / "hf"), "is not empty"),
        (("--dtype", "int4", "--out", tmp_path / "x"), "--dtype is keep"),
    ]:
        ran = cli("models", "export", golden / "tiny_llava", *argv)
        assert ran.code == 2 and said in ran.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "hf"]
