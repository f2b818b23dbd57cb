"""Handing a model on: exact round trips, and the same answers from software that never heard of viscot."""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_checkpoints import save, tensors_of
from PIL import Image

from viscot_core.ask import VisualCoT
from viscot_core.conversation import Message
from viscot_core.engines.base import Request
from viscot_core.engines.transformers.engine import LocalEngine
from viscot_core.errors import CheckpointError, UsageError
from viscot_core.families.checkpoint import Checkpoint, Layout
from viscot_core.families.manifest import Manifest
from viscot_core.images.reading import open_image
from viscot_core.images.view import view_of
from viscot_core.models.checkpoint import open_checkpoint
from viscot_core.models.export import export
from viscot_core.models.load import load_model
from viscot_core.tensors import open_weights


@pytest.fixture(scope="module")
def hf(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "hf"
    return export(open_checkpoint(golden / "tiny_llava"), out, Layout.HF)


def test_there_and_back_is_exact(golden: Path, hf: Path, tmp_path: Path) -> None:
    """Tensors, names, shapes, values and config fields are those the original code loads."""
    import torch

    back = export(open_checkpoint(hf), tmp_path / "llava", Layout.LLAVA)
    before, after = open_weights(golden / "tiny_llava"), open_weights(back)
    assert after.keys() == before.keys() and len(after) == 89
    for name, stored in before.items():
        assert (after[name].shape, after[name].dtype) == (stored.shape, stored.dtype), name
        assert torch.equal(after[name].read(), stored.read()), name
    config = json.loads((back / "config.json").read_text())
    assert config == json.loads((golden / "tiny_llava" / "config.json").read_text())
    assert (back / "tokenizer.model").read_bytes() == (golden / "tiny_llava" / "tokenizer.model").read_bytes()
    assert json.loads((back / "tokenizer_config.json").read_text())["legacy"] is False


def test_names_on_disk_are_the_ones_servers_read(hf: Path) -> None:
    names = open_weights(hf)
    assert "language_model.model.embed_tokens.weight" in names
    assert "language_model.lm_head.weight" in names
    assert "vision_tower.vision_model.pre_layrnorm.weight" in names
    assert "multi_modal_projector.linear_1.weight" in names
    assert names["language_model.lm_head.weight"].shape == (832, 64)
    assert (hf / "preprocessor_config.json").exists()


def test_reloaded_export_answers_the_same(golden: Path, hf: Path) -> None:
    image = open_image(golden / "images" / "landscape.jpg")
    answers = [
        VisualCoT(LocalEngine(load_model(path, device="cpu"))).ask(image, "What is written on the sign?")
        for path in (golden / "tiny_llava", hf)
    ]
    assert answers[0].text == answers[1].text
    assert answers[0].box_text == answers[1].box_text == "[0.037, 0.142, 0.142, 0.525]"


def test_dtype_and_shards(golden: Path, tmp_path: Path) -> None:
    import torch

    told: list[int] = []
    checkpoint = open_checkpoint(golden / "tiny_llava")
    out = export(
        checkpoint, tmp_path / "b", Layout.HF, dtype="bf16", shard_bytes=200_000, advance=told.append
    )
    assert len(list(out.glob("model-*.safetensors"))) >= 3
    assert max(p.stat().st_size for p in out.glob("*.safetensors")) < 220_000
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    reloaded = load_model(out, device="cpu", dtype="bf16").model
    original = load_model(golden / "tiny_llava", device="cpu", dtype="bf16").model
    for name, tensor in original.state_dict().items():
        assert torch.equal(tensor, reloaded.state_dict()[name]), name
    assert sum(told) == sum(t.numel() * 2 for t in original.state_dict().values())


def test_a_tower_without_a_public_name_travels_along(golden: Path, hf: Path, tmp_path: Path) -> None:
    """A model that viscot trained from nothing has no original config; the export writes its CLIP folder."""
    checkpoint = open_checkpoint(hf)
    delattr(checkpoint.config, "original_llava_config")
    out = export(checkpoint, tmp_path / "llava", Layout.LLAVA)
    config = json.loads((out / "config.json").read_text())
    assert config["mm_vision_tower"] == "clip_tower"
    wanted = json.loads((golden / "tiny_llava" / "config.json").read_text())
    same = wanted.keys() - {"_name_or_path", "mm_vision_tower", "transformers_version"}
    assert {key: config.get(key) for key in same} == {key: wanted[key] for key in same}
    again = open_checkpoint(out)
    assert not again.missing and again.config.vision_config.num_attention_heads == 4


def test_named_tower(hf: Path, tmp_path: Path) -> None:
    out = export(
        open_checkpoint(hf), tmp_path / "x", Layout.LLAVA, vision_tower="openai/clip-vit-large-patch14"
    )
    assert json.loads((out / "config.json").read_text())["mm_vision_tower"] == "openai/clip-vit-large-patch14"


def test_refusals_leave_nothing_behind(golden: Path, hf: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(golden / "tiny_llava")
    with pytest.raises(UsageError, match="is not empty"):
        export(checkpoint, hf, Layout.HF)
    with pytest.raises(UsageError, match="--dtype"):
        export(checkpoint, tmp_path / "x", Layout.HF, dtype="int3")
    checkpoint = open_checkpoint(hf)
    checkpoint.tokenizer_folder = tmp_path
    with pytest.raises(CheckpointError, match=r"no tokenizer\.model"):
        export(checkpoint, tmp_path / "x", Layout.LLAVA)
    assert list(tmp_path.iterdir()) == []


def _without_original(folder: Path, **text: Any) -> Checkpoint:
    """A checkpoint in transformers' layout with other text fields, as others make them."""
    config = json.loads((folder / "config.json").read_text())
    del config["original_llava_config"]
    config["text_config"] |= text
    (folder / "config.json").write_text(json.dumps(config))
    return open_checkpoint(folder)


@pytest.mark.parametrize("kind", ["linear", "dynamic"])
def test_rope_scaling_travels(hf: Path, tmp_path: Path, kind: str) -> None:
    """It was written as null: another model at every position."""
    folder = Path(shutil.copytree(hf, tmp_path / "hf"))
    rope = {"rope_type": kind, "factor": 2.0, "rope_theta": 5e5}
    scaled = _without_original(folder, rope_parameters=rope)
    out = export(scaled, tmp_path / "llava", Layout.LLAVA)
    config = json.loads((out / "config.json").read_text())
    assert config["rope_scaling"] == {"type": kind, "factor": 2.0} and config["rope_theta"] == 5e5
    read = open_checkpoint(out).config.text_config.rope_parameters
    assert {key: read[key] for key in rope} == rope


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}},
            "rope_scaling is {'type': 'yarn'",
        ),
        ({"mlp_bias": True}, "mlp_bias is True"),
    ],
)
def test_what_the_original_code_would_read_as_another_model(
    hf: Path, tmp_path: Path, text: dict[str, Any], said: str
) -> None:
    other = _without_original(Path(shutil.copytree(hf, tmp_path / "hf")), **text)
    other.missing.clear()  # biases that the tiny weights have not
    with pytest.raises(CheckpointError, match=re.escape(said)):
        export(other, tmp_path / "llava", Layout.LLAVA)
    assert not (tmp_path / "llava").exists()


@pytest.mark.parametrize(
    ("value", "dtype", "said"),
    [
        (7e4, "fp16", r"'model\.norm\.weight' holds 70000, beyond the range of float16; .* bf16"),
        (float("nan"), "keep", r"'model\.norm\.weight' holds NaN"),
        (float("-inf"), "bf16", r"'model\.norm\.weight' holds infinity"),
    ],
)
def test_numbers_that_are_none(copy: Path, tmp_path: Path, value: float, dtype: str, said: str) -> None:
    tensors = tensors_of(copy)
    tensors["model.norm.weight"][3] = value
    save(copy, tensors)
    with pytest.raises(CheckpointError, match=said):
        export(open_checkpoint(copy), tmp_path / "out", Layout.HF, dtype=dtype)
    assert not (tmp_path / "out").exists()
    if dtype == "fp16":
        export(open_checkpoint(copy), tmp_path / "out", Layout.HF, dtype="bf16")


@pytest.mark.parametrize(("limit", "file"), [(100_000, "model.safetensors"), (4096, "")])
def test_an_export_beyond_a_file_size_limit(
    cli: Any, copy: Path, tmp_path: Path, limit: int, file: str
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        ran = cli("models", "export", copy, "--out", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert ran.code == 1 and "Traceback" not in ran.err
    assert f"{file}: this disk or this shell (ulimit -f) allows no file so large" in ran.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "tiny_clip"]


# -- plain transformers, in a process of its own -----------------------------------------------------

PLAIN = """
import json, sys
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

folders, cases = json.loads(sys.argv[1]), json.loads(sys.argv[2])
for folder, case in [(folder, case) for folder in folders for case in cases]:
    processor = AutoProcessor.from_pretrained(folder)
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    images = [Image.open(path).convert("RGB") for path in case["images"]]
    text = processor.apply_chat_template(case["messages"], add_generation_prompt=True, tokenize=False)
    inputs = processor(images=images or None, text=text, return_tensors="pt", add_special_tokens=False)
    with torch.inference_mode():
        out = model.generate(**inputs, max_new_tokens=40)
    new = out[0, inputs["input_ids"].shape[1]:]
    said = processor.decode(new, skip_special_tokens=True).strip()
    print(json.dumps({"text": said, "ids": inputs["input_ids"][0].tolist()}))
assert not [name for name in sys.modules if name.startswith("viscot")], "viscot was imported"
"""


def _cases(golden: Path) -> list[tuple[list[Message], list[Path]]]:
    images = golden / "images"
    box = "[0.300, 0.100, 0.700, 0.450]"
    return [
        ([Message("user", "How many circles are there?")], []),
        ([Message("user", "<image>\nWhich color is the large shape? ")], [images / "portrait.jpg"]),
        ([Message("user", "<image>\nWhat is the total amount in the invoice? ")], [images / "document.png"]),
        (
            [
                Message("user", "<image>\nWhere is the tiny bird?"),
                Message("assistant", box),
                Message("user", "<image>\nPlease answer the question.Where is the tiny bird? "),
            ],
            [images / "portrait.jpg", images / "square.png"],
        ),
        (
            [
                Message("user", "<image>\nWhere is it? "),
                Message("assistant", box),
                Message("user", "<image>"),
            ],
            [images / "portrait.jpg", images / "square.png"],
        ),
    ]


def _messages(turns: list[Message]) -> list[dict[str, Any]]:
    messages = []
    for turn in turns:
        text = turn.text.removeprefix("<image>").removeprefix("\n")
        content: list[dict[str, str]] = [{"type": "text", "text": text}]
        if text != turn.text:
            content.insert(0, {"type": "image"})
        messages.append({"role": "user" if turn.role == "user" else "assistant", "content": content})
    return messages


@pytest.mark.slow
def test_plain_transformers_answers_the_same(golden: Path, tmp_path: Path) -> None:
    """Ids and answers, for each way to tokenize a turn's start and both templates."""
    folders = []
    choices: list[tuple[Any, str]] = [(way, "vicuna_v1") for way in ("plain", "legacy", "v4.31")]
    for turn_tokens, template in [*choices, ("plain", "tiny")]:
        checkpoint = open_checkpoint(golden / "tiny_llava")
        checkpoint.manifest = Manifest(name="tiny", turn_tokens=turn_tokens, template=template, image_side=56)
        folders.append(export(checkpoint, tmp_path / f"{turn_tokens}-{template}", Layout.HF))
    cases = _cases(golden)
    given = [
        {"messages": _messages(turns), "images": [str(image) for image in images]} for turns, images in cases
    ]
    ran = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN, json.dumps([str(f) for f in folders]), json.dumps(given)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    theirs = iter([json.loads(line) for line in ran.stdout.splitlines()])
    for folder in folders:
        engine = LocalEngine(load_model(folder, device="cpu", dtype="fp32"))
        for turns, images in cases:
            views = tuple(view_of(Image.open(image).convert("RGB")) for image in images)
            plain = next(theirs)
            sizes = [view.image.size for view in views]
            ids = engine.processor.render(turns, sizes, generate=True).ids
            assert plain["ids"] == ids, folder.name
            (ours,) = engine.generate([Request(tuple(turns), views, 40)])
            assert plain["text"] == ours.text, folder.name
