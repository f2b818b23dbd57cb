"""What a folder of another family holds: its parts by the names in memory, and what does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from made_families import FAMILIES, make
from safetensors.torch import load_file, save_file

from viscot_core.errors import CheckpointError
from viscot_core.models.checkpoint import open_checkpoint
from viscot_core.models.inspect import inspect
from viscot_core.models.load import load_model

pytest.importorskip("torchvision", reason="most processors have a video part; make test installs it")


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its tensors have other names on disk than in memory."""
    return make("qwen2-vl", tmp_path_factory.mktemp("whole") / "qwen")


@pytest.fixture
def damaged(qwen: Path, tmp_path: Path) -> Path:
    """A tensor is missing, one has another shape, one belongs to no part."""
    import torch

    folder = Path(shutil.copytree(qwen, tmp_path / "damaged"))
    tensors = load_file(folder / "model.safetensors")
    tensors["visual.merger.mlp.2.weight"] = tensors["visual.merger.mlp.2.weight"][:-1].contiguous()
    del tensors["model.layers.0.input_layernorm.weight"]
    tensors["other.head.weight"] = torch.zeros(3)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_what_does_not_fit_is_listed_before_a_weight_is_read(damaged: Path, cli: Any) -> None:
    ran = cli("models", "inspect", damaged)
    assert ran.code == 1 and "2 tensors do not fit" in ran.err
    assert "missing       model.language_model.layers.0.input_layernorm.weight" in ran.out
    assert "model.visual.merger.mlp.2.weight (model.safetensors): [31, 128], expected [32, 128]" in ran.out
    assert "note          'other.head.weight' is no part of this model" in ran.out
    assert "LOAD REPORT" not in ran.err
    with pytest.raises(CheckpointError, match=r"has the shape \[31, 128\].*\(and 1 more"):
        load_model(damaged, device="cpu", dtype="fp32")


def test_a_report_counts_the_parts_as_they_are_in_memory(qwen: Path, cli: Any) -> None:
    ran = cli("models", "inspect", qwen)
    assert ran.code == 0 and "None" not in ran.out and "as many tokens as an image's size asks for" in ran.out
    ran = cli("models", "inspect", qwen, "--json")
    parts = json.loads(ran.out)["parameters"]
    assert parts["vision tower"] > parts["projector"] > 10_000 and parts["language model"] > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_the_parts_of_every_family_are_those_of_the_model(name: str, tmp_path: Path) -> None:
    folder = make(name, tmp_path / name)
    report = inspect(open_checkpoint(folder))
    loaded = load_model(folder, device="cpu", dtype="fp32")
    assert report.whole and report.parameters["total"] == sum(p.numel() for p in loaded.model.parameters())
    assert min(report.parameters.values()) > 1000


def test_a_prompt_of_any_template_is_made_without_a_warning(qwen: Path, capfd: Any) -> None:
    """A template is told of thinking only where it knows the word: transformers warns of each other one."""
    from viscot_core.conversation import Message

    opened = open_checkpoint(qwen)
    opened.family.processor(opened).prompt([Message("user", "Which?")])
    assert "Kwargs" not in capfd.readouterr().err


def test_the_identity_says_whose_pixels_they_are(qwen: Path, tmp_path: Path) -> None:
    kinds = {}
    for name, folder in (("qwen2-vl", qwen), ("molmo2", make("molmo2", tmp_path / "molmo2"))):
        opened = open_checkpoint(folder)
        kinds[name] = opened.family.processor(opened).identity["pixels"].partition("-")[0]
    assert kinds == {"qwen2-vl": "pil", "molmo2": "torchvision"}
