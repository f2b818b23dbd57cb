"""Names of models: known, pulled, misspelt."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from viscot_core.errors import CheckpointError
from viscot_core.families.generic.backbones import BACKBONES
from viscot_core.models import known, zoo
from viscot_core.models.checkpoint import open_checkpoint


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("VisCoT-7b-36", "Did you mean 'VisCoT-7b-336'"),
        ("deepcs233/VisCot-7b-366", "Did you mean 'VisCoT-7b-336'"),
        ("viscot-7B-336", "viscot models pull VisCoT-7b-336"),
        ("nothing-like-it-at-all", "There is no model"),
        ("", "The model's name is empty. Give a folder"),  # the folder of an empty path is the one we are in
        (
            "lmsys/vicuna-7b-v1.5",
            "is not on this machine; get it with: viscot models pull lmsys/vicuna-7b-v1.5",
        ),
        ("tests/a model", "There is no folder 'tests/a model'. Did you mean 'models'?"),
        ("/nowhere/qwen", "There is no folder '/nowhere/qwen'. Check the path."),  # no name of a model
    ],
)
def test_names_that_are_not_there(
    name: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VISCOT_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError) as caught:
        zoo.resolve(name)
    assert said in str(caught.value)


def test_a_path_that_is_not_there_is_not_taken_for_a_hubs_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"There is no model 'runs/mien'\. Did you mean 'mine'"):
        zoo.resolve("runs/mien")


def test_nearest_folder_and_a_file(copy: Path) -> None:
    with pytest.raises(CheckpointError, match=r"There is no folder .* Did you mean 'model'"):
        zoo.resolve(copy.parent / "modle")
    with pytest.raises(CheckpointError, match="is a file"):
        zoo.resolve(copy / "config.json")


@pytest.mark.parametrize(
    ("folder", "hub", "name"),
    [
        ("models--deepcs233--VisCoT-7b-336/snapshots/0123abc", "deepcs233/VisCoT-7b-336", "VisCoT-7b-336"),
        ("models--me--my--model/snapshots/0123abc", "me/my--model", "my--model"),
        ("VisCoT-7b-336", None, "VisCoT-7b-336"),
    ],
)
def test_a_pulled_model_has_its_name(golden: Path, tmp_path: Path, folder: str, hub: str, name: str) -> None:
    """Not the hash its snapshot's folder is called; only a hub id, never a folder's name, chooses tokens."""
    place = tmp_path / folder
    shutil.copytree(golden / "tiny_llava", place)
    shutil.copytree(golden / "tiny_clip", place.parent / "tiny_clip")
    assert zoo.hub_id(place) == hub
    manifest = open_checkpoint(place).manifest
    assert manifest.name == name
    assert manifest.turn_tokens == ("v4.31" if hub == "deepcs233/VisCoT-7b-336" else "plain")


def test_every_model_says_where_its_facts_come_from() -> None:
    others = [model for model in known.ZOO.values() if model.kind == "chat"]
    assert len(others) >= 20
    assert all(model.hub and model.source.startswith("https://huggingface.co/") for model in others)
    assert {model.family for model in others} == {backbone.name for backbone in BACKBONES.values()}
    assert zoo.find("qwen/qwen3-vl-8b-instruct") is zoo.find("Qwen3-VL-8B-Instruct") is not None


def test_memory_is_estimated_from_the_parameters() -> None:
    """(parameters x bits / 8, tower and head in 16 bits at least) x 1.1 + 1 GB."""
    model = known.ZOO["Qwen3-VL-4B-Instruct"]
    assert [model.gpu_gb(bits) for bits in (32, 16, 8, 4)] == [18.6, 9.8, 5.9, 3.9]
    unknown = known.ZOO["llava-onevision-qwen2-7b-ov-hf"]
    assert unknown.gpu_gb(16) is None and unknown.disk_gb is None


def test_a_tower_cannot_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was to be pulled, 1.7 GB, and was then refused."""
    monkeypatch.setenv("VISCOT_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="is a vision tower and cannot answer; try --model VisCoT"):
        zoo.resolve_answering("openai/clip-vit-large-patch14")
    with pytest.raises(CheckpointError, match="viscot models pull"):
        zoo.resolve("openai/clip-vit-large-patch14")
