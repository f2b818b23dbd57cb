"""``viscot models pull`` against a hub on this machine: whole, resumed, refused, damaged."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_families import make
from made_hub import Hub, pull, serving

from viscot_core.errors import CheckpointError, DataError
from viscot_core.models import zoo
from viscot_core.models.checkpoint import open_checkpoint
from viscot_core.train.job import launch
from viscot_core.train.plan.plan_types import Machine
from viscot_core.train.recipe.base_model import open_base
from viscot_core.train.recipe.load import load_recipe


@pytest.fixture
def hub(golden: Path) -> Iterator[Hub]:
    files = {p.name: p.read_bytes() for p in (golden / "tiny_llava").iterdir()}
    files["flax_model.msgpack"] = b"another framework"
    with serving(Hub(files)) as hub:
        yield hub


def test_pull_verifies_keeps_and_is_found(
    hub: Hub, tmp_path: Path, golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = pull(hub, tmp_path, golden)
    assert ran.returncode == 0, ran.stderr
    folder = Path(ran.stdout.strip())
    assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert not (folder / "flax_model.msgpack").exists()
    monkeypatch.setenv("VISCOT_CACHE", str(tmp_path))
    assert zoo.resolve(hub.repo) == folder
    assert "checking model.safetensors" in ran.stderr
    hub.asked.clear()
    again = pull(hub, tmp_path, golden)
    assert again.returncode == 0
    assert not [path for method, path, _ in hub.asked if method == "GET" and "resolve" in path]


def test_what_an_earlier_try_left_is_kept(hub: Hub, tmp_path: Path, golden: Path) -> None:
    """A process killed within a shard: the next asks for the rest only; a dropped connection too."""
    content = hub.files["model.safetensors"]
    blobs = tmp_path / "models--someone--tiny-viscot" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hashlib.sha256(content).hexdigest()}.part").write_bytes(content[:600_000])
    hub.drop_after["model.safetensors"] = 900_000
    ran = pull(hub, tmp_path, golden)
    assert ran.returncode == 0, ran.stderr
    assert (Path(ran.stdout.strip()) / "model.safetensors").read_bytes() == content
    taken = [
        wanted for method, path, wanted in hub.asked if method == "GET" and path.endswith(".safetensors")
    ]
    assert len(taken) == 2 and all(wanted == "bytes=600000-" for wanted in taken)


def test_a_vision_tower_that_is_not_inside_comes_along(hub: Hub, tmp_path: Path, golden: Path) -> None:
    """LLaVA-1.5's weights name CLIP's repository and hold no tower."""
    from safetensors.torch import load, save

    tensors = load(hub.files["model.safetensors"])
    tower = {name: tensors.pop(name) for name in list(tensors) if "vision_tower" in name}
    hub.files["model.safetensors"] = save(tensors)
    config = json.loads(hub.files["config.json"]) | {"mm_vision_tower": "someone/clip"}
    hub.files["config.json"] = json.dumps(config).encode()
    start = "model.vision_tower.vision_tower."
    hub.others["someone/clip"] = {
        "config.json": (golden / "tiny_clip" / "config.json").read_bytes(),
        "model.safetensors": save({name.removeprefix(start): each for name, each in tower.items()}),
    }
    ran = pull(hub, tmp_path, golden)
    assert ran.returncode == 0, ran.stderr
    assert "its vision tower is not inside: pulling someone/clip" in ran.stderr
    assert (tmp_path / "models--someone--clip").is_dir()


def parts_of(files: dict[str, bytes], golden: Path) -> tuple[dict[str, bytes], ...]:
    """A whole model's files as three repositories: language model, tower and projector."""
    import torch
    from safetensors.torch import load, save

    tensors = load(files["model.safetensors"])
    start, projector = "model.vision_tower.vision_tower.", "model.mm_projector."
    tower = {name.removeprefix(start): each for name, each in tensors.items() if name.startswith(start)}
    adapter = {name: each for name, each in tensors.items() if name.startswith(projector)}
    text = {name: each for name, each in tensors.items() if not name.startswith((start, projector))}
    config = json.loads(files["config.json"])
    plain = {key: value for key, value in config.items() if "mm_" not in key}
    plain |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    pickled = io.BytesIO()
    torch.save(adapter, pickled)
    return (
        files | {"config.json": json.dumps(plain).encode(), "model.safetensors": save(text)},
        {"config.json": (golden / "tiny_clip/config.json").read_bytes(), "model.safetensors": save(tower)},
        {"config.json": files["config.json"], "mm_projector.bin": pickled.getvalue()},
    )


@pytest.mark.parametrize("name", ["7b-336", "13b-224"])
def test_a_recipes_parts_come_as_training_says(
    hub: Hub, tmp_path: Path, golden: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    recipe, cache = load_recipe(name), tmp_path / "cache"
    parts = recipe.model.base_llm, recipe.model.vision_tower, recipe.model.projector
    wanted = [part for part in parts if part]
    hub.others |= dict(zip(wanted, parts_of(hub.files, golden), strict=False))
    monkeypatch.setenv("VISCOT_CACHE", str(cache))

    def refusal() -> str:
        with pytest.raises(DataError) as refused:
            launch.prepare(recipe, Machine(8, 80.0), run=tmp_path / "r", data=tmp_path, images=tmp_path)
        return str(refused.value)

    commands = re.findall(r"get it with: viscot models pull (\S+)", refusal())
    assert len(commands) == len(wanted)
    for command in commands:
        ran = pull(hub, cache, golden, command)
        assert ran.returncode == 0, ran.stderr
    assert "models pull" not in refusal(), "the data alone is missing now"
    assert {part.parent.parent.name for part in cache.glob("*/refs/main")} == {
        "models--" + part.replace("/", "--") for part in wanted
    }
    assert not open_base(recipe.model).missing
    with pytest.raises(CheckpointError, match="this is a text-only model"):
        open_checkpoint(zoo.resolve(wanted[0]))


def test_a_damaged_part_is_no_part(hub: Hub, tmp_path: Path, golden: Path) -> None:
    text, _, projector = parts_of(hub.files, golden)
    hub.others["someone/projector"] = projector | {"mm_projector.bin": b"not a pickle"}
    hub.others["someone/text"] = text | {"model.safetensors": text["model.safetensors"][:-64]}
    for name, said in (("projector", "mm_projector.bin is damaged"), ("text", "is truncated")):
        ran = pull(hub, tmp_path, golden, f"someone/{name}")
        assert ran.returncode == 1 and said in ran.stderr


def test_a_file_damaged_on_the_way_is_removed(hub: Hub, tmp_path: Path, golden: Path) -> None:
    hub.spoil.add("model.safetensors")
    ran = pull(hub, tmp_path, golden)
    assert ran.returncode == 1 and "model.safetensors was damaged on the way and removed" in ran.stderr
    assert not list(tmp_path.rglob("refs/main"))
    hub.spoil.clear()
    assert pull(hub, tmp_path, golden).returncode == 0


def test_an_etag_that_is_a_path_reaches_no_path(hub: Hub, tmp_path: Path, golden: Path) -> None:
    """huggingface_hub names the files of its cache by the ETag."""
    hub.etag = "../../../../written"
    ran = pull(hub, tmp_path / "cache", golden)
    assert ran.returncode == 1 and "The hub sent a path as ETag" in ran.stderr
    assert not list(tmp_path.rglob("*written*"))


KINDS: list[tuple[dict[str, Any], str]] = [
    ({"image_aspect_ratio": "anyres"}, "this is LLaVA-1.6 or later"),
    ({"quantization_config": {"quant_method": "gptq"}}, "its weights are quantised (gptq)"),
    ({"architectures": ["LlavaQwenForCausalLM"]}, "is not a Llama (LlavaQwenForCausalLM)"),
]


def test_what_cannot_be_read_is_refused_before_its_weights(hub: Hub, tmp_path: Path, golden: Path) -> None:
    """14 GB came first, and then the refusal."""
    config = json.loads(hub.files["config.json"])
    kinds = {f"someone/kind{number}": (config | more, said) for number, (more, said) in enumerate(KINDS)}
    kinds["someone/text"] = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}, "this is GPT2LMHead"
    hub.others |= {
        name: hub.files | {"config.json": json.dumps(fields).encode()} for name, (fields, _) in kinds.items()
    }
    hub.others["someone/gguf"] = {"model.gguf": b"GGUF"}
    adapter = {"peft_type": "LORA", "use_dora": True, "r": 4, "base_model_name_or_path": "someone/base"}
    hub.others["someone/adapter"] = {
        "adapter_config.json": json.dumps(adapter).encode(),
        "adapter_model.safetensors": hub.files["model.safetensors"],
    }
    hub.others["someone/pointer"] = hub.files | {"config.json": b"version https://git-lfs.github.com/spec/v1"}
    wanted = {name: said for name, (_, said) in kinds.items()} | {
        "someone/gguf": "has GGUF files, which llama.cpp reads",
        "someone/adapter": "uses use_dora, which viscot does not merge",
        "someone/pointer": "config.json is a git-LFS pointer",
    }
    code = (
        "import sys\nfrom viscot_core.errors import CheckpointError\n"
        "from viscot_core.models.pull import pull\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n        pull(name)\n"
        "    except CheckpointError as error:\n        print(error)\n"
    )
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "VISCOT_CACHE": str(tmp_path),
        "NO_PROXY": "127.0.0.1",
    }
    ran = subprocess.run(
        [sys.executable, "-c", code, *wanted], env=environment, capture_output=True, text=True, check=True
    )
    told = ran.stdout.splitlines()
    assert len(told) == len(wanted)
    for line, (name, said) in zip(told, wanted.items(), strict=True):
        assert line.startswith(name) and said in line
    assert not [path for _, path, _ in hub.asked if path.endswith((".safetensors", ".gguf", ".model"))]


def test_small_files_come_before_the_weights_and_no_file_twice(
    hub: Hub, tmp_path: Path, golden: Path
) -> None:
    """A model of another family, in a repository with everything that hubs have beside one."""
    folder = make("idefics3", tmp_path / "made")
    hub.files.clear()
    hub.files |= {file.name: file.read_bytes() for file in folder.iterdir()}
    wanted = set(hub.files)
    weights = hub.files["model.safetensors"]
    others = ("pytorch_model.bin", "consolidated.safetensors", "original/model.safetensors", "onnx/a.onnx")
    hub.files |= dict.fromkeys(others, weights)
    ran = pull(hub, tmp_path / "cache", golden)
    assert ran.returncode == 0, ran.stderr
    here = Path(ran.stdout.strip())
    assert {str(file.relative_to(here)) for file in here.rglob("*") if file.is_file()} == wanted
    taken = [
        path.rpartition("/")[2] for method, path, _ in hub.asked if method == "GET" and "resolve" in path
    ]
    assert taken[0] == "config.json" and taken[-1] == "model.safetensors"
    assert {"tokenizer.json", "preprocessor_config.json"} & set(taken[1:-1])
    assert len(taken) == len(set(taken)), "none twice"


def test_a_gated_model_is_refused_before_anything_else_is_asked_for(
    hub: Hub, tmp_path: Path, golden: Path
) -> None:
    hub.gated = True
    ran = pull(hub, tmp_path, golden)
    assert ran.returncode == 1, ran.stdout
    assert f"https://huggingface.co/{hub.repo} and set HF_TOKEN" in ran.stderr
    resolved = {path.rpartition("/")[2] for _, path, _ in hub.asked if "resolve" in path}
    assert resolved == {"config.json"}


def test_a_complete_model_needs_no_network(hub: Hub, tmp_path: Path, golden: Path) -> None:
    first = pull(hub, tmp_path, golden)
    assert first.returncode == 0, first.stderr
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    hub.url = "http://127.0.0.1:9"
    again = pull(hub, tmp_path, golden)
    assert again.returncode == 0 and again.stdout == first.stdout, again.stderr
    assert "someone/tiny-viscot is here already." in again.stderr
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_unknown_and_unreachable(hub: Hub, tmp_path: Path, golden: Path) -> None:
    ran = pull(hub, tmp_path, golden, "deepcs233/VisCoT-7b-335")
    assert ran.returncode == 1 and "Did you mean 'deepcs233/VisCoT-7b-336'" in ran.stderr
    hub.url = "http://127.0.0.1:9"
    ran = pull(hub, tmp_path, golden)
    assert ran.returncode == 1 and "could not be downloaded" in ran.stderr, ran.stderr
    assert "Traceback" not in ran.stderr and len(ran.stderr.strip().splitlines()) == 1
