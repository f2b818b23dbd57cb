"""Rows to learn from in ten families: the template's own ids, and only the assistant's words supervised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from made_families import make
from PIL import Image

from viscot_core.conversation import BOX_REQUEST, Message
from viscot_core.data.annotations import Conversation
from viscot_core.data.encode import encode, with_boxes
from viscot_core.errors import DataError, UsageError
from viscot_core.families.generic.processor import _parts
from viscot_core.families.inputs import IGNORE
from viscot_core.families.table import training_of
from viscot_core.models.checkpoint import open_checkpoint
from viscot_core.train.recipe.schema import ModelSpec

pytest.importorskip("torchvision", reason="most processors have a video part; make test installs it")

IMAGES = [Image.effect_noise(size, 60).convert("RGB") for size in ((90, 60), (120, 200))]
SIZES = [image.size for image in IMAGES]
CHAIN = (
    Message("user", "<image>\nwhere is the red card?"),
    Message("assistant", "[0.1, 0.2]"),
    Message("user", "<image>"),
    Message("assistant", " blue \n"),
)
# What each family's template writes behind a reply to end the turn.
ENDS = {
    "qwen2-vl": "<|im_end|>", "qwen2.5-vl": "<|im_end|>", "qwen3-vl": "<|im_end|>", "qwen3.5": "<|im_end|>",
    "internvl": "<|im_end|>", "llava-onevision": "<|im_end|>", "idefics3": "<end_of_utterance>",
    "smolvlm": "<end_of_utterance>", "gemma3": "<end_of_turn>", "glm-4v": "<|user|>",
}  # fmt: skip


@pytest.fixture(scope="module", params=sorted(ENDS))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    folder = make(request.param, tmp_path_factory.mktemp(request.param))
    checkpoint = open_checkpoint(folder)
    return request.param, training_of(checkpoint, request.param).processor(checkpoint)


def test_ids_are_the_templates_own_and_labels_are_the_replies(family: tuple[str, Any]) -> None:
    name, processor = family
    rendered = processor.render(CHAIN, SIZES)
    turns = [{"role": m.role, "content": _parts(Message(m.role, m.text.strip()))} for m in CHAIN]
    slots: Any = [part for turn in turns for part in turn["content"] if part["type"] == "image"]  # type: ignore[attr-defined]
    for part, image in zip(slots, IMAGES, strict=True):
        part["image"] = image
    own = processor.hf.apply_chat_template(turns, tokenize=True, return_dict=True)["input_ids"][0]
    last = (
        [] if name != "glm-4v" else processor.hf.tokenizer.encode("<|user|>")
    )  # no turn's end after the last
    assert rendered.ids == [int(i) for i in own] + last
    said = [text for text, supervised in processor.spans(rendered) if supervised]
    assert [text.strip() for text in said] == [f"[0.1, 0.2]{ENDS[name]}", f"blue{ENDS[name]}"]
    assert all(label in (IGNORE, token) for label, token in zip(rendered.labels, rendered.ids, strict=True))
    assert [text for text, _ in processor.spans(rendered)].count("<image>") == 2


def test_what_follows_the_prompt_is_what_is_said(family: tuple[str, Any]) -> None:
    """SmolVLM's and Idefics3's prompts end with ``Assistant:``: the space before a number is the model's."""
    name, processor = family
    turns = (CHAIN[0], Message("assistant", "3"), CHAIN[2], Message("assistant", "7"))
    full = processor.render(turns, SIZES)
    said = [text for text, supervised in processor.spans(full) if supervised]
    space = " " if name in ("idefics3", "smolvlm") else ""
    assert said == [f"{space}3{ENDS[name]}", f"{space}7{ENDS[name]}"]
    prompt = processor.render(turns[:3], SIZES, generate=True).ids
    if name == "llava-onevision":  # its template writes a space after the role, and a line break to ask
        prompt = [*prompt[:-1], *processor.hf.tokenizer.encode(" ")]
    assert full.ids[: len(prompt)] == prompt
    labels = full.labels[len(prompt) :]
    spoken = labels.index(IGNORE) if IGNORE in labels else len(labels)
    assert processor.hf.tokenizer.decode(labels[:spoken]) == said[-1]
    assert set(labels[spoken:]) <= {IGNORE} and full.labels[len(prompt) - 1] == IGNORE


def test_a_cut_keeps_whole_images(family: tuple[str, Any]) -> None:
    name, processor = family
    rendered = processor.render(CHAIN, SIZES)
    second = rendered.images[1]
    if name == "llava-onevision":  # the first of two images is read in another way than one alone
        with pytest.raises(ValueError, match="its images do not fit"):
            processor.cut(rendered, second[0] + 1)
        return
    cut = processor.cut(rendered, second[1] - 1)
    assert (len(cut.ids), cut.n_images, cut.images) == (second[0], 1, rendered.images[:1])
    assert processor.cut(rendered, second[1]).n_images == 2


def test_an_empty_reply_and_words_that_the_template_drops_are_one_sentence(family: tuple[str, Any]) -> None:
    name, processor = family

    def row(reply: str) -> Conversation:
        said = [("user", "<image>\nwhere?"), ("assistant", reply), ("user", "and?"), ("assistant", "here")]
        return Conversation(id=7, image=("a",), turns=tuple(Message(*turn) for turn in said))

    with pytest.raises(DataError, match=r"row 7: a turn of the assistant is empty; .* remove the row\.$"):
        encode(row("  "), processor, max_length=500, sizes=SIZES[:1])
    if name == "qwen3.5":
        with pytest.raises(DataError, match="row 7: the chat template leaves out or changes words"):
            encode(row("<think>left</think>box"), processor, max_length=500, sizes=SIZES[:1])


@pytest.mark.parametrize(
    ("format_", "said", "asked"),
    [
        ("viscot", "[0.250, 0.375, 0.500, 0.625]", None),
        (
            "qwen3-vl",
            '[{"bbox_2d": [250, 250, 500, 750], "label": "region"}]',
            "whole numbers from 0 to 1000",
        ),
        ("internvl", "<ref>region</ref><box>[[250, 250, 500, 750]]</box>", "Answer in the form <ref>"),
    ],
)
def test_boxes_of_rows_are_said_in_the_familys_words(format_: str, said: str, asked: str | None) -> None:
    from viscot_core.boxes.registry import codec

    size = (400, 200)
    box = "[0.250, 0.375, 0.500, 0.625]"
    turns = (Message("user", f"<image>\nwhich? {BOX_REQUEST}"), Message("assistant", box),
             Message("user", "<image>"), Message("assistant", "blue"))  # fmt: skip
    found = with_boxes(turns, codec(format_), [size, (30, 20)])
    assert found[1].text == said and found[2:] == turns[2:]
    assert (found[0] == turns[0]) if asked is None else (asked in found[0].text)
    assert codec(format_).parse(found[1].text, size).box.coords == pytest.approx((0.25, 0.375, 0.5, 0.625))


def test_qwen_s_pixels_are_those_of_the_recipe_s_limits(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(make("qwen2.5-vl", tmp_path))
    training = training_of(checkpoint, "it")
    own = training.processor(checkpoint)
    assert own.boxes.name == "qwen2.5-vl@4-16", "the tiny model's own limits"
    most = training.processor(checkpoint, ModelSpec(checkpoint="it", max_pixels=8 * 28 * 28))
    assert most.boxes.name == "qwen2.5-vl@4-8"
    assert most.row_inputs(most.render(CHAIN[:1], [(300, 300)]), [IMAGES[1].resize((300, 300))]).images[
        "image_grid_thw"
    ].tolist() == [[1, 4, 4]]
    tile = open_checkpoint(make("internvl", tmp_path / "tiles"))
    with pytest.raises(UsageError, match="a size of its own"):
        training_of(tile, "it").processor(tile, ModelSpec(checkpoint="it", max_pixels=10_000))


def test_every_learning_parameter_gets_a_gradient_with_and_without_images(
    family: tuple[str, Any], tmp_path: Path
) -> None:
    """DDP and ZeRO wait for all of them: a batch without an image must reach the tower as well."""
    from viscot_core.models.load import build

    name, processor = family
    checkpoint = open_checkpoint(make(name, tmp_path))
    training = training_of(checkpoint, name)
    model = build(checkpoint, "cpu", torch.float32, None, "sdpa")
    words = (Message("user", "how many?"), Message("assistant", "two"))
    plain = forward(model.eval(), processor, words, []).logits
    training.allow_text_only_batches(model, processor)
    for turns, images in ((CHAIN, IMAGES), (words, [])):
        model.train().zero_grad()
        out = forward(model, processor, turns, images)
        out.logits.logsumexp(-1).sum().backward()
        missing = [
            name
            for name, parameter in model.named_parameters()
            if parameter.grad is None and training.gets_gradient(name, model.config)
        ]
        assert not missing, missing
        parts = {training.parts.part_of(name) for name, _ in model.named_parameters()}
        assert parts == {"vision_tower", "projector", "llm"}
    assert torch.allclose(out.logits, plain, atol=1e-6), "the black image changes nothing"


def forward(model: Any, processor: Any, turns: Any, images: list[Image.Image]) -> Any:
    rendered = processor.render(turns, [image.size for image in images])
    row = processor.row_inputs(rendered, images)
    training = {k: v[..., None, :] for k, v in row.tokens.items()}
    ids = torch.tensor([rendered.ids])
    pixels = {k: v for k, v in processor.image_inputs([row]).items() if k != "num_patches"}
    return model(input_ids=ids, attention_mask=torch.ones_like(ids), **training, **pixels, use_cache=False)


@pytest.mark.parametrize("outer", [True, False])
def test_a_head_that_is_not_the_embeddings_is_saved(tmp_path: Path, outer: bool) -> None:
    """A config may say one thing of its text and another of the whole: transformers asks the whole."""
    from transformers import AutoModelForImageTextToText

    checkpoint = open_checkpoint(make("internvl", tmp_path / "model"))
    config = checkpoint.config
    config.tie_word_embeddings, config.text_config.tie_word_embeddings = outer, not outer
    model = AutoModelForImageTextToText.from_config(config)
    tied = model.lm_head.weight is model.get_input_embeddings().weight
    assert tied == ("lm_head.weight" in training_of(checkpoint, "it").tied_tensors(config))


@pytest.mark.parametrize("name", ["gemma3", "llava-onevision"])
def test_a_tower_is_stored_as_the_hub_s_files_have_it(name: str, tmp_path: Path) -> None:
    """vLLM 0.32 reads no other names; transformers 5.23 has one level less in memory, and wrote it so."""
    from transformers import AutoModelForImageTextToText

    checkpoint = open_checkpoint(make(name, tmp_path / "model"))
    training = training_of(checkpoint, "it")
    model = AutoModelForImageTextToText.from_config(checkpoint.config)
    state = model.state_dict()
    stored = {training.stored_name(module): tensor for module, tensor in state.items()}
    assert "model.vision_tower.vision_model.encoder.layers.0.layer_norm1.weight" in stored
    for names in (stored, state):  # as it is written now, and as it was before
        assert [training.module_name(each) for each in names] == list(state)
    model.save_pretrained(tmp_path / "run", state_dict=stored, save_original_format=False)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "run", dtype=model.dtype)
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())
