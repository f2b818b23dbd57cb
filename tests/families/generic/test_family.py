"""Another family with no room of its own answers through the same commands: the seam of ``families/``."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_tile_families import make_idefics
from PIL import Image

from viscot_core.boxes.registry import codec
from viscot_core.conversation import Message
from viscot_core.engines.base import Request
from viscot_core.engines.open import EngineOptions, codec_for
from viscot_core.engines.transformers.engine import LocalEngine
from viscot_core.errors import CheckpointError, UsageError
from viscot_core.families.generic.backbones import BACKBONES
from viscot_core.images.view import view_of
from viscot_core.models.checkpoint import open_checkpoint
from viscot_core.models.load import LoadedModel, load_model
from viscot_core.train.recipe.base_model import open_base, shape_of
from viscot_core.train.recipe.load import load_recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_idefics(tmp_path_factory.mktemp("idefics3"))


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:
    return load_model(folder, device="cpu", dtype="fp32")


def request(question: str, *images: Image.Image, tokens: int = 12) -> Request:
    slots = "<image>\n" * len(images)
    return Request((Message("user", slots + question),), tuple(map(view_of, images)), tokens)


def requests() -> list[Request]:
    """Prompts of zero, one and two images of other shapes and lengths."""
    wide = Image.effect_noise((200, 90), 60).convert("RGB")
    tall = Image.effect_noise((60, 150), 40).convert("RGB")
    return [
        request("How many cards?"),
        request("What is the number on the red card?", wide),
        request("Which region says blue?", tall, wide),
        request("Where?", tall, tokens=5),
    ]


def test_a_batch_says_what_each_says_alone(loaded: LoadedModel) -> None:
    asked = requests()
    together = LocalEngine(loaded, batch_size=4).generate(asked)
    alone = [LocalEngine(loaded, batch_size=1).generate([each])[0] for each in asked]
    assert together == alone
    assert all(one.error is None for one in together) and any(one.text for one in together)


def test_it_is_transformers_own_answer(loaded: LoadedModel) -> None:
    """The same ids as the processor's and the same greedy tokens, whatever generation_config.json says."""
    import torch

    asked = requests()[1]
    hf = loaded.processor.hf
    image = {"type": "image", "image": asked.images[0].image}
    turns = [{"role": "user", "content": [image, {"type": "text", "text": asked.messages[0].text[8:]}]}]
    inputs = hf.apply_chat_template(
        turns, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    sizes = [view.image.size for view in asked.images]
    assert (
        loaded.processor.render(asked.messages, sizes, generate=True).ids == inputs["input_ids"][0].tolist()
    )
    ids: list[int] = []
    with torch.inference_mode():
        for _ in range(asked.max_new_tokens):
            said = torch.tensor([ids], dtype=torch.long)
            whole = torch.cat([inputs["input_ids"], said], 1)
            mask = torch.ones_like(whole)
            logits = loaded.model(**{**inputs, "input_ids": whole, "attention_mask": mask}).logits[0, -1]
            logits[loaded.processor.suppress_tokens] = float("-inf")
            ids.append(int(logits.argmax()))
            if ids[-1] in loaded.processor.stop_ids:
                break
    (ours,) = LocalEngine(loaded).generate([asked])
    assert ours.tokens == len(ids)
    assert ours.text == loaded.processor.text([i for i in ids if i not in loaded.processor.stop_ids]).strip()


def test_bad_prompts_fail_alone(loaded: LoadedModel) -> None:
    good, unmatched, long = LocalEngine(loaded).generate(
        [requests()[1], Request((Message("user", "<image>\nWhat?"),), ()), request("card " * 3000)]
    )
    assert good.error is None
    assert unmatched.error == "the prompt has 1 <image> marks for 0 images"
    assert long.error is not None and "do not fit the model's context of 2048" in long.error


def test_a_missing_tensor_is_named(folder: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    tensors = load_file(copy / "model.safetensors")
    name = next(name for name in tensors if name.endswith("layers.1.mlp.up_proj.weight"))
    del tensors[name]
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"copy lacks the tensor .*layers\.1\.mlp\.up_proj\.weight"):
        load_model(copy, device="cpu", dtype="fp32")


def test_a_chat_template_without_end_is_stopped(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    copied = Path(shutil.copytree(folder, tmp_path / "copied"))
    loops = "".join("{% for _ in range(99999) %}" for _ in range(3)) + "{% endfor %}" * 3
    (copied / "chat_template.jinja").write_text(loops)
    monkeypatch.setattr("viscot_core.families.generic.processor.TEMPLATE_SECONDS", 0.2)
    opened = open_checkpoint(copied)
    with pytest.raises(CheckpointError, match=r"its chat template took over 0\.2 s; give another"):
        opened.family.processor(opened).prompt([Message("user", "x")])


def test_its_boxes_are_never_guessed(folder: Path) -> None:
    with pytest.raises(UsageError, match="name it with --box-format"):
        codec_for(EngineOptions(str(folder)))
    assert codec_for(EngineOptions(str(folder), box_format="qwen3-vl")) is codec("qwen3-vl")


def test_an_opened_folder_is_described(folder: Path) -> None:
    from viscot_core.models.inspect import inspect

    report = inspect(open_checkpoint(folder))
    assert report.whole and report.context == 2048 and report.image_tokens is None
    assert report.parameters["total"] > 10_000


def test_infer_asks_it(cli: Any, folder: Path, tmp_path: Path) -> None:
    image = tmp_path / "card.png"
    Image.effect_noise((160, 120), 50).convert("RGB").save(image)
    command = ("infer", str(image), "What is the number?", "--model", str(folder), "--json")
    ran = cli(*command, "--box-format", "qwen3-vl", "--max-new-tokens", "12")
    assert ran.code == 0, ran.err
    record = json.loads(ran.out)
    assert record["status"] in ("done", "truncated")
    assert record["box_status"] in ("ok", "repaired", "unparsable")
    ran = cli(*command, "--direct", "--box-format", "qwen3-vl", "--max-new-tokens", "4")
    assert ran.code == 0 and json.loads(ran.out)["box"] is None
    ran = cli(*command)
    assert ran.code == 2 and "--box-format" in ran.err


def test_it_says_before_any_weight_is_read_that_it_cannot_be_trained(
    folder: Path, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a recipe and for lengths of rows; the runs are in ``train/plan/test_problems.py``."""
    monkeypatch.setitem(BACKBONES, "idefics3", replace(BACKBONES["idefics3"], trains=False))  # type: ignore[index]
    model = load_recipe("tiny").model.model_copy(update={"scratch": None, "checkpoint": str(folder)})
    told = "is of the family 'idefics3' (Idefics3ForConditionalGeneration), which viscot cannot train yet"
    with pytest.raises(UsageError, match=re.escape(told)):
        open_base(model)
    assert shape_of(model) is None
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}]
    (tmp_path / "rows.json").write_text(json.dumps([{"id": "1", "conversations": turns}]))
    ran = cli("data", "stats", tmp_path / "rows.json", "--tokenizer", folder)
    assert ran.code == 2 and told in ran.err


def test_answers_without_a_box_need_no_box_format(folder: Path, cli: Any, tmp_path: Path) -> None:
    """``infer --direct``, and a benchmark of questions only; two turns still ask how boxes are written."""
    image = tmp_path / "wide.png"
    Image.new("RGB", (90, 40), "red").save(image)
    argv = ["infer", image, "Which colour?", "--model", folder, "--device", "cpu", "--max-new-tokens", "4"]
    ran = cli(*argv, "--direct", "--json")
    assert ran.code == 0 and json.loads(ran.out)["answer"] is not None, ran.err
    refused = cli(*argv)
    assert refused.code == 2 and "name it with --box-format" in refused.err
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"question_id": 1, "image": "wide.png", "text": "Which colour?"}) + "\n")
    argv = ["bench", "vqa", "--questions", questions, "--images", tmp_path, "--model", folder]
    argv += ["--device", "cpu", "--max-new-tokens", "4", "--out", tmp_path / "run"]
    ran = cli(*argv)
    assert ran.code in (0, 3) and (tmp_path / "run/predictions.jsonl").exists(), ran.err
    assert json.loads((tmp_path / "run/run.json").read_text())["settings"]["box_format"] is None
    refused = cli(*argv, "--strategy", "cot")
    assert refused.code == 2 and "name it with --box-format" in refused.err
