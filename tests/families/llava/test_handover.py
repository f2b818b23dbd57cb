"""The chat template of an export says what training and benchmark say, character for character."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError
from served_templates import content_format

from viscot_core.conversation import (
    IMAGE,
    Message,
    answer_turns,
    cot_turns,
    detection_turns,
    direct_turns,
    refcoco_turns,
    text_only_turns,
)
from viscot_core.families.llava.handover import chat_template, portable_tokenizer
from viscot_core.families.llava.template import TEMPLATES, render
from viscot_core.families.manifest import Manifest, TurnTokens
from viscot_core.models.checkpoint import Checkpoint, open_checkpoint
from viscot_core.models.zoo import BUNDLED_FOLDER

BOX = "[0.282, 0.316, 0.794, 0.738]"
CONVERSATIONS = {
    "detection": detection_turns("What is it?"),
    "answer": answer_turns("What is it?", BOX),  # its last message ends in a space
    "direct": direct_turns("What is it?"),
    "text only": text_only_turns("What is it?", BOX),  # its last message is empty
    "refcoco": refcoco_turns("the red one"),
    "training": cot_turns("What is it?", BOX, "a cup"),  # its second message is a bare image
    "white space": (
        Message("user", f"{IMAGE}\n  two\nlines \n\t"),
        Message("assistant", "  so  "),
        Message("user", " \n why? "),
    ),
    "blank": (Message("user", f"{IMAGE}\nWhat?"), Message("assistant", "a cup"), Message("user", " \n ")),
    "two images": (Message("user", f"{IMAGE}\n{IMAGE}\nSame? "),),
    "no image": (Message("user", " Hello? "),),
}


@pytest.fixture
def checkpoint() -> Checkpoint:
    return open_checkpoint(BUNDLED_FOLDER)


def messages(turns: tuple[Message, ...]) -> list[dict[str, Any]]:
    """As a client writes them: images as parts, words without images as plain text."""
    said = []
    for turn in turns:
        role = "user" if turn.role == "user" else "assistant"
        *marks, words = turn.text.split(IMAGE)
        content: Any = words
        if marks:
            content = [{"type": "image"} for _ in marks] + [
                {"type": "text", "text": words.removeprefix("\n")}
            ]
        said.append({"role": role, "content": content})
    return said


@pytest.mark.parametrize("template", ["vicuna_v1", "tiny"])
@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_transformers_renders_what_viscot_renders(
    checkpoint: Checkpoint, template: str, conversation: str
) -> None:
    turns = CONVERSATIONS[conversation]
    checkpoint.manifest = Manifest(name="any", template=template, image_side=112)
    tokenizer = portable_tokenizer(checkpoint)
    tokenizer.chat_template = chat_template(checkpoint, tokenizer)
    theirs = tokenizer.apply_chat_template(messages(turns), tokenize=False, add_generation_prompt=True)
    ours = render(turns, TEMPLATES[template], generate=True)
    assert theirs == "<s>" + IMAGE.join(chunk.text for chunk in ours.chunks)
    # Servers that hand on parts make parts of plain text too.
    parts = [
        one
        if isinstance(one["content"], list)
        else one | {"content": [{"type": "text", "text": one["content"]}]}
        for one in messages(turns)
    ]
    assert tokenizer.apply_chat_template(parts, tokenize=False, add_generation_prompt=True) == theirs


@pytest.mark.parametrize("turn_tokens", ["plain", "legacy", "v4.31"])
@pytest.mark.parametrize("template", ["vicuna_v1", "tiny"])
def test_servers_hand_the_template_the_parts_of_a_message(
    golden: Path, template: str, turn_tokens: TurnTokens
) -> None:
    """As text, with the server's own image marks, a token after each image was lost."""
    checkpoint = open_checkpoint(golden / "tiny_llava")
    checkpoint.manifest = Manifest(name="any", template=template, turn_tokens=turn_tokens, image_side=56)
    assert content_format(chat_template(checkpoint, portable_tokenizer(checkpoint))) == "openai"


def test_the_rule_of_the_servers_tells_templates_apart() -> None:
    folder = Path(__file__).parents[2] / "support" / "chat_templates"
    found = {file.stem: content_format(file.read_text(encoding="utf-8")) for file in folder.glob("*.jinja")}
    assert len(found) >= 7 and found["idefics3"] == found["smolvlm"] == found["gemma3"] == "openai"
    one_text = "{% for message in messages[1:] %}{{ message['content'] | map(attribute='text') }}{% endfor %}"
    assert content_format(one_text) == "string"


def test_a_role_that_has_no_turn_is_refused(checkpoint: Checkpoint) -> None:
    tokenizer = portable_tokenizer(checkpoint)
    tokenizer.chat_template = chat_template(checkpoint, tokenizer)
    user = {"role": "user", "content": "Hello?"}
    for role in ("tool", "system"):
        with pytest.raises(TemplateError, match="A system message may come first"):
            tokenizer.apply_chat_template([user, {"role": role, "content": "x"}], tokenize=False)


def test_a_system_message_takes_the_place_of_the_usual_one(checkpoint: Checkpoint) -> None:
    tokenizer = portable_tokenizer(checkpoint)
    tokenizer.chat_template = chat_template(checkpoint, tokenizer)
    for content in ("Be brief.", [{"type": "text", "text": "Be brief."}]):
        given = [{"role": "system", "content": content}, {"role": "user", "content": "Hello?"}]
        assert tokenizer.apply_chat_template(given, tokenize=False) == "<s>Be brief. USER: Hello? "


def test_the_bundled_folder_has_the_template_of_an_export() -> None:
    checkpoint = open_checkpoint(BUNDLED_FOLDER)
    made = chat_template(checkpoint, portable_tokenizer(checkpoint))
    assert (BUNDLED_FOLDER / "chat_template.jinja").read_text(encoding="utf-8") == made
