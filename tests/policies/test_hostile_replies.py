"""Replies of the zoom tool's dialects that nobody would write: each comes to an end, none is evaluated."""

from __future__ import annotations

import builtins
import time

import pytest
from zoom_talks import CROP, TALKS, XML, json_call, native, talk

from viscot_core.conversation import IMAGE
from viscot_core.policies.dialects.calls import last_answer
from viscot_core.policies.dialects.known import DIALECTS, dialect

BOXES: list[str] = [
    "[NaN, 0, 500, 500]", "[0, 0, Infinity, 500]", "[1e999, 0, 5, 5]", "[-1e999, 0, 5, 5]", "[5, 5, 1, 1]",
    "[5, 5, 5, 5]", "[0, 0, 0, 0]", "[0, 0, 1000000000, 1]", "[1000000000, 1000000000, 1000000001, 1e99]",
    "[1, 2, 3]", "[1, 2, 3, 4, 5]", "[]", "{}", "null", '"[1, 2, 3]"', '"__import__(\'os\').abort()"',
    "[[1, 2], [3, 4]]", "[true, false, true, true]", '["a", "b", "c", "d"]', "1e400", "[0 0 5 5]",
    "[1" + "0" * 400 + ", 0, 5, 5]", "[" * 3000, "[0.0, 0.0, 1.0, 0.0001]", "[-5, -5, -1, -1]",
    "[0, 0, 1e-300, 1e-300]", "[0,0,1000,1]", "__import__('os').abort()", "[x for x in (1,2,3,4)]",
]  # fmt: skip


def hostile(name: str) -> list[str]:
    """At least thirty replies of a dialect that cannot be made, or only in part."""
    replies = []
    for box in BOXES:
        if name == "viscot":
            replies.append(box if box.startswith("[") else f"[{box}")
        elif name == "mini-o3":
            replies.append(f'<grounding>{{"bbox_2d": {box}, "source": "original_image"}}')
        elif name == "qwen3.5":
            replies.append(XML.format(box=box, image=0))
        elif name == "openai-tools":
            replies.append(native(f'{{"bbox_2d": {box}, "image": 0}}'))
        else:
            tool = "crop_image_normalized" if name == "pixel-reasoner" else "image_zoom_in_tool"
            rest = '"target_image": 1' if name == "pixel-reasoner" else '"label": "x", "img_idx": 0'
            replies.append(
                f'<tool_call>{{"name": "{tool}", "arguments": {{"bbox_2d": {box}, {rest}}}}}</tool_call>'
            )
    return replies


WRONG = {
    "qwen3-vl": [
        json_call(bbox_2d=[0, 0, 9, 9], label="x", img_idx=n) for n in (7, -1, 0.5, "a", None, True, 10**30)
    ],
    "deepeyes": [
        '<tool_call>{"name": "rm", "arguments": {}}</tool_call>',
        "<tool_call>",
        '<tool_call>{"name": "<image>", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "<<image>>", "arguments": {}}</tool_call>',
    ],
    "mini-o3": [
        f'<grounding>{{"bbox_2d": [0, 0, 0.5, 0.5], "source": {source}}}'
        for source in ('"observation_9"', '"observation_-1"', "3", "null", '"original"')
    ],
    "pixel-reasoner": [CROP.format([0.1, 0.1, 0.5, 0.5], n) for n in (0, -1, 9, '"b"')],
    "openai-tools": [native("{"), native("[]"), native('"{}"'), native("{}", name="eval")],
    "qwen3.5": ["<tool_call><function=eval></function></tool_call>", "<tool_call>\nno xml\n</tool_call>"],
    "viscot": ["[", "[0.1, 0.2, 0.3", "[0.1, 0.1, 0.2, 0.2] and [0.5, 0.5, 0.6, 0.6]"],
}


def test_hostile_calls_come_to_an_end_and_nothing_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each ends as the dialect's error, counted, and the talk goes on to its answer; or as a crop."""
    evaluated: list[object] = []
    for name in ("eval", "exec"):
        monkeypatch.setattr(builtins, name, lambda *said: evaluated.append(said))
    count = made = 0
    for name, each in DIALECTS.items():
        for reply in hostile(name) + WRONG[name]:
            answer = talk(name, reply, each.answer("done"))
            assert (answer.text, answer.stop) == ("done", "answer"), (name, reply)
            assert len(answer.looks) + len(answer.refusals) == 1, (name, reply)
            shown = [message for message in answer.messages if message.role in ("user", "tool")]
            assert sum(message.text.count(IMAGE) for message in shown) == 1 + len(answer.looks), (name, reply)
            made += len(answer.looks)
            count += 1
    assert count >= 200 and not evaluated
    assert made < count / 5, "few of them have an honest reading"


def test_two_calls_at_once_are_read_as_the_authors_do() -> None:
    first, second = [0, 0, 500, 400], [500, 400, 1000, 800]
    both = json_call(bbox_2d=first, label="x", img_idx=0) + json_call(bbox_2d=second, label="y", img_idx=0)
    assert [look.crop for look in talk("qwen3-vl", both, "done").looks] == [
        (0, 0, 500, 320),
        (500, 320, 1000, 640),
    ]
    assert [look.crop for look in talk("deepeyes", both, "<answer>x</answer>").looks] == [
        (500, 400, 1000, 800)
    ]


@pytest.mark.parametrize("name", ["deepeyes", "mini-o3"])
def test_a_call_beside_the_answer_is_counted_and_not_made(name: str) -> None:
    said, *_ = TALKS[name]
    answer = talk(name, f"<answer>a fox</answer>{said[0]}")
    assert (answer.text, answer.looks, answer.stop) == ("a fox", (), "answer")
    assert [refusal.ignored for refusal in answer.refusals] == [True]


@pytest.mark.parametrize("name", ["viscot", "qwen3-vl", "qwen3.5", "openai-tools"])
def test_what_a_thought_weighs_is_neither_a_call_nor_the_answer(name: str) -> None:
    each = dialect(name)
    call = each.call(each.numbers((0.1, 0.1, 0.9, 0.9), (1000, 800)), 0, 1)
    weighed = f"<think>a cat? {call if name != 'openai-tools' else ''} <answer>a cat</answer></think>"
    answer = talk(name, f"<think>where?</think>\n{call}", f"{weighed}\na fox")
    assert (answer.text, answer.stop, len(answer.looks)) == ("a fox", "answer", 1)
    assert len(answer.thoughts) == 2 and not answer.truncated


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("said", ["<answer>a cat</answer>", "\\boxed{a cat}"])
def test_what_an_unended_thought_weighs_is_no_answer(name: str, said: str) -> None:
    endless = talk(name, f"<think>a cat? {said} or")
    assert (endless.text, endless.truncated) == ("", True)
    ended = talk(name, f"<think>a cat? {said} or</think><answer>a fox</answer>")
    assert (ended.text, ended.truncated) == ("a fox", False)


def test_calls_without_words_come_to_an_end() -> None:
    for name in ("qwen3-vl", "qwen3.5", "deepeyes", "pixel-reasoner"):
        answer = talk(name, *["<tool_call></tool_call>"] * 30)
        assert (answer.text, answer.stop) == ("", "refusals") and len(answer.refusals) == 4
        assert not any(refusal.ignored for refusal in answer.refusals)
    answer = talk("mini-o3", *["<grounding></grounding>"] * 30)
    assert (answer.text, answer.stop, len(answer.refusals)) == ("", "refusals", 4)


def test_marks_without_end_are_read_at_once() -> None:
    """Each was tried as the beginning of all that follows: 16 seconds for 72,000 characters."""
    start = time.process_time()
    for name in ("deepeyes", "mini-o3", "qwen3-vl", "pixel-reasoner"):
        talk(name, "<answer>" * 30_000)
    assert last_answer("<answer>a</answer> <answer>b<answer>c</answer> <answer>d") == "b<answer>c"
    assert time.process_time() - start < 5


@pytest.mark.parametrize("name", DIALECTS)
def test_an_endless_loop_ends_without_an_answer(name: str) -> None:
    each = dialect(name)
    again = each.call(each.numbers((0.1, 0.1, 0.9, 0.9), (1000, 800)), 0, 1)
    answer = talk(name, *[again] * 30, looks=2)
    assert (answer.text, answer.stop) == ("", "looks") and len(answer.looks) == 2
