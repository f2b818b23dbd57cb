"""Training tensors: the reference's ids and labels on real and made rows, hard rows, and lengths."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from made_processors import processor_of

from viscot_core.conversation import IMAGE, Message
from viscot_core.data.annotations import Conversation
from viscot_core.data.encode import encode, token_lengths, training_turns, with_images_first
from viscot_core.data.mix import build
from viscot_core.data.mixture import MixtureSource
from viscot_core.data.synth import write_dataset
from viscot_core.errors import DataError
from viscot_core.families.inputs import IGNORE
from viscot_core.families.llava.processor import ChatProcessor, ChatTokenizer
from viscot_core.families.llava.tokenizer import load_tokenizer
from viscot_core.models.checkpoint import open_checkpoint

GOLDEN = Path(__file__).parent.parent / "golden" / "tiny_llava"

VARIANTS = ("llama_legacy_True", "llama_legacy_False", "tiny_legacy_True", "tiny_legacy_False")
DIFFERENT = {
    # rows on which the reference loses words or images: see tests/golden_differences.md
    "two_image_tokens_one_message",
    "empty_answer_then_more",
    "two_humans_in_a_row",
    "image_token_but_no_image_key",
}


@cache
def _processor(folder: Path, turn_tokens: Any) -> ChatProcessor:
    tokenizer = load_tokenizer(folder, turn_tokens)
    return processor_of(ChatTokenizer(tokenizer, image_tokens=1, turn_tokens=turn_tokens))


def _variant(shared: Path, name: str) -> ChatProcessor:
    folder = shared / "golden" / ("llama_tokenizer" if name.startswith("llama") else "tiny_tokenizer")
    return _processor(folder, "legacy" if name.endswith("True") else "plain")


def _rows(shared: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((shared / "golden/golden_train_tensors.json").read_text())["rows"]
    return rows


@pytest.mark.parametrize("variant", VARIANTS)
def test_ids_and_labels_equal_the_reference(shared: Path, variant: str) -> None:
    """Where the reference supervises a row at all; rows it masks whole by its fault differ in labels."""
    processor = _variant(shared, variant)
    equal = masked = 0
    for row in _rows(shared):
        expected = row["out"].get(variant, {})
        if "input_ids" not in expected or row["name"] in DIFFERENT:
            continue
        conversation = Conversation.model_validate(row["row"])
        ours = processor.render(training_turns(conversation.turns), None)
        ids = [-200 if i == processor.tokens.image_id else i for i in ours.ids]
        length = len(expected["input_ids"])
        assert ids[:length] == expected["input_ids"], (row["name"], variant)
        if all(label == IGNORE for label in expected["labels"]):
            masked += 1  # the reference's "tokenization mismatch": nothing is learned from the row
            assert ours.n_supervised or not any(t.text for t in conversation.turns if t.role == "assistant")
        else:
            if len(expected["labels"]) < 2048:  # longer rows are supervised one token off by the reference
                assert ours.labels[:length] == expected["labels"], (row["name"], variant)
            equal += 1
    assert equal + masked > 30


def test_stage_one_equals_the_reference(shared: Path) -> None:
    golden = json.loads((shared / "golden/golden_train_tensors.json").read_text())["plain"]
    for row in golden:
        conversation = Conversation.model_validate(row["row"])
        for variant in VARIANTS:
            expected = row["out"].get(variant, {})
            if "input_ids" not in expected or "<image>" in conversation.turns[1].text:
                continue
            processor = _variant(shared, variant).under("plain")
            ours = processor.render(training_turns(conversation.turns), None)
            assert [-200 if i == processor.tokens.image_id else i for i in ours.ids] == expected["input_ids"]
            assert ours.labels == expected["labels"]


@pytest.fixture
def processor(golden: Path) -> ChatProcessor:
    tokenizer = load_tokenizer(golden / "tiny_llava", "legacy")
    return processor_of(ChatTokenizer(tokenizer, image_tokens=4, turn_tokens="legacy"))


def _row(images: list[str], *turns: tuple[str, str]) -> Conversation:
    return Conversation(id=7, image=tuple(images), turns=tuple(Message(role, text) for role, text in turns))


CHAIN = (
    ("user", "<image>\nWhere?"),
    ("assistant", "[0.1, 0.2, 0.3, 0.4]"),
    ("user", "<image>"),
    ("assistant", "on the roof"),
)


def test_supervised_words_are_the_assistants(processor: ChatProcessor) -> None:
    sample = encode(_row(["a", "a###[1, 2, 3, 4]"], *CHAIN), processor, max_length=512)
    said = [label for label in sample.encoded.labels if label != IGNORE]
    assert processor.tokens.hf.decode(said).replace(" ", "") == "[0.1,0.2,0.3,0.4]</s>ontheroof</s>"
    assert sample.encoded.ids.count(processor.tokens.image_id) == 8
    assert sample.images == ("a", "a###[1, 2, 3, 4]")


def test_a_cut_row_keeps_ids_and_images_in_step(processor: ChatProcessor) -> None:
    row = _row(["a", "b"], *CHAIN)
    whole = encode(row, processor, max_length=512).encoded.ids
    second = [i for i, token in enumerate(whole) if token == processor.tokens.image_id][4]
    for length in range(second, second + 4):
        sample = encode(row, processor, max_length=length)
        assert sample.images == ("a",)
        assert len(sample.encoded.ids) == second
    assert encode(row, processor, max_length=second + 4).images == ("a", "b")


def test_an_image_mark_said_in_words_is_no_image(processor: ChatProcessor) -> None:
    row = _row(["a"], ("user", "<image>\nWhat mark?"), ("assistant", "it says <image> here"))
    sample = encode(row, processor, max_length=512)
    assert sample.encoded.ids.count(processor.tokens.image_id) == processor.tokens.image_tokens
    assert "image" in processor.tokens.decode([label for label in sample.encoded.labels if label != IGNORE])


def test_rows_that_cannot_teach_are_refused(processor: ChatProcessor) -> None:
    with pytest.raises(DataError, match="1 <image> marks for 2 images"):
        encode(_row(["a", "b"], *CHAIN[:2]), processor, max_length=512)
    with pytest.raises(DataError, match="no supervised token"):
        encode(_row(["a", "b"], *CHAIN), processor, max_length=20)


def test_images_move_to_the_front_and_none_is_lost() -> None:
    assert with_images_first(f"What is {IMAGE} this?") == f"{IMAGE}\nWhat is  this?"
    assert with_images_first(f"{IMAGE} {IMAGE} Compare.") == f"{IMAGE}\n{IMAGE}\nCompare."
    assert with_images_first(IMAGE) == IMAGE
    assert with_images_first(" no image ") == " no image "


# -- lengths in tokens: those of the samples that training sees, measured once per tokenizer ---------------


@pytest.fixture(scope="module")
def bundled() -> ChatProcessor:
    found = open_checkpoint(GOLDEN)
    processor = found.family.processor(found)
    assert isinstance(processor, ChatProcessor)
    return processor


@pytest.mark.parametrize("workers", [1, 2])
def test_lengths_are_those_of_the_encoded_rows(tmp_path: Path, bundled: ChatProcessor, workers: int) -> None:
    write_dataset(tmp_path, train=6, val=1)
    files = [MixtureSource(name, str(tmp_path / f"{name}.json")) for name in ("train", "pretrain")]
    mixture = build(tmp_path / "mixture", files)
    for template in ("vicuna_v1", "plain"):
        stage = bundled.under(template)
        expected = [len(encode(row, stage, max_length=1 << 20).encoded.ids) for row in mixture]
        assert token_lengths(mixture, stage, workers=workers).tolist() == expected
    assert len(list((tmp_path / "mixture").glob("lengths-*.npy"))) == 2


def test_the_key_names_all_that_lengths_depend_on(bundled: ChatProcessor) -> None:
    tokens = bundled.tokens
    others = [
        bundled.under("tiny").key,
        processor_of(ChatTokenizer(tokens.hf, image_tokens=tokens.image_tokens + 1)).key,
        processor_of(ChatTokenizer(tokens.hf, image_tokens=tokens.image_tokens, turn_tokens="v4.31")).key,
    ]
    assert len({bundled.under("vicuna_v1").key, *others}) == 4


_SEVERAL = [
    {"role": "user", "content": "<image>\nWhere is the card?"},
    {"role": "assistant", "content": "[0.100, 0.200, 0.300, 0.400]", "loss": False},
    {"role": "user", "content": "<image>"},
    {"role": "assistant", "content": "[0.150, 0.250, 0.250, 0.350]", "loss": None},
    {"role": "user", "content": "<image>"},
    {"role": "assistant", "content": "42"},
]


def _talk(*messages: dict[str, Any]) -> Conversation:
    images = ["a.png"] * sum(str(message["content"]).count(IMAGE) for message in messages)
    return Conversation.model_validate({"id": "r", "images": images, "messages": list(messages)})


def test_an_answer_marked_without_loss_is_read_and_not_learned(processor: ChatProcessor) -> None:
    rendered = encode(_talk(*_SEVERAL), processor, max_length=512).encoded
    spans = processor.spans(rendered)
    assert [text.strip() for text, learned in spans if learned] == [
        "[0.150, 0.250, 0.250, 0.350]</s>",
        "42</s>",
    ]
    assert any("[0.100, 0.200, 0.300, 0.400]" in text for text, learned in spans if not learned)


def test_a_row_whose_answers_are_all_without_loss_is_refused(processor: ChatProcessor) -> None:
    with pytest.raises(DataError, match="row r: no supervised token"):
        encode(_talk(*_SEVERAL[:2]), processor, max_length=512)


def test_a_role_that_the_family_has_no_words_for_is_one_sentence(processor: ChatProcessor) -> None:
    with pytest.raises(DataError, match="row r: a message's role is 'user' or 'assistant', not 'system'"):
        encode(_talk({"role": "system", "content": "x"}, *_SEVERAL), processor, max_length=512)
