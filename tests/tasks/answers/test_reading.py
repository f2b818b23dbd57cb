"""The parser of final answers: the table of trap sentences, and properties that hold for any words."""

from __future__ import annotations

import json
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from viscot_core.tasks.answers import public_rules
from viscot_core.tasks.answers.final import final_part
from viscot_core.tasks.answers.reading import LETTERS, read_choice, read_words

TRAPS = json.loads((Path(__file__).parent / "traps.json").read_text(encoding="utf-8"))
"""Each reply with the right letter (null: no option is certain) and what each public harness's own function
returned for it once (lmms-eval 0.7.3; VLMEvalKit's can_infer). DeepEyes has no such function: its rule stands
in the middle of eval/judge_result.py, before the call of a judge model. Those lines were run once with a made
judge."""
RULES = {
    "lmms-eval vstar": public_rules.lmms_vstar,
    "lmms-eval hrbench": public_rules.words_anywhere,
    "lmms-eval mme-realworld": public_rules.first_capital,
    "vlmevalkit": public_rules.words_near_the_end,
}


@pytest.mark.parametrize("row", TRAPS, ids=lambda row: row["reply"][:40] or "empty")
def test_the_trap_sentences_are_read_right(row: dict[str, str]) -> None:
    assert read_choice(row["reply"], row["options"]).value == row["right"]


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("The cup is red, not dark red.", "A"),
        ("It is **dark red**, not blue.", "B"),
        ("It must be blue, rather than red.", "C"),
        ("B, not A", "B"),
        ("Red is not it; blue", "C"),
        ("The cup is not red, it is blue.", "C"),
    ],
)
def test_what_is_set_against_the_answer_does_not_undo_it(reply: str, right: str) -> None:
    assert read_choice(reply, ("red", "dark red", "blue", "green")).value == right


def test_public_rules_are_the_harnesses_own_and_fail_where_they_do() -> None:
    for row in TRAPS:
        for name, rule in RULES.items():
            assert rule(row["reply"], row["options"]) == row[name], (name, row["reply"])
        if row["right"] is not None:
            said = public_rules.deepeyes(row["reply"], row["options"], row["right"])
            assert {True: "right", False: "wrong", None: "judge"}[said] == row["deepeyes"]
    right = {name: sum(row[name] == row["right"] for row in TRAPS) for name in RULES}
    assert len(TRAPS) == 91
    assert right == {
        "lmms-eval vstar": 40,
        "lmms-eval hrbench": 67,
        "lmms-eval mme-realworld": 45,
        "vlmevalkit": 63,
    }


WORDS = st.lists(st.text(string.ascii_lowercase, min_size=2, max_size=8), min_size=2, max_size=8, unique=True)
PROSE = st.lists(
    st.sampled_from(["Because", "A", "car", "I", "see", "Dark", "Corner", "(left)", "12.5", "Elm", "not"]),
    max_size=12,
).map(" ".join)
FORMS = (
    "{}",
    "({})",
    "{}.",
    "**{}**",
    "Answer: {}",
    "The answer is {}",
    "The answer is ({}).",
    "<answer>{}</answer>",
)


@settings(max_examples=150, deadline=None)
@given(WORDS, st.data(), PROSE, st.sampled_from(FORMS))
def test_a_letter_is_read_whatever_stands_in_the_thought(
    options: list[str], data: st.DataObject, prose: str, form: str
) -> None:
    number = data.draw(st.integers(0, len(options) - 1))
    said = form.format(LETTERS[number])
    for reply in (
        said,
        f"<think>{prose}</think>{said}",
        f"{prose}\n<answer>{said}</answer>",
        rf"{prose} \boxed{{{said}}}",
    ):
        assert read_choice(reply, options).value == LETTERS[number], reply
    assert read_choice(f"<answer>{options[number]}</answer>", options).value == LETTERS[number]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=120), WORDS)
def test_any_text_gives_an_option_or_a_reason(reply: str, options: list[str]) -> None:
    found = read_choice(reply, options)
    assert (found.value is None) == bool(found.reason)
    assert found.value is None or found.value in LETTERS[: len(options)]
    assert final_part(reply) or read_words(reply).value is None


@settings(max_examples=100, deadline=None)
@given(WORDS, st.data())
def test_the_order_of_the_options_moves_the_letter_and_nothing_else(
    options: list[str], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(options))))
    said = f"It is {options[0]}."
    moved = [options[n] for n in order]
    before, after = read_choice(said, options).value, read_choice(said, moved).value
    if before is not None and len({option for option in options if option in said}) == 1:
        assert after is not None and moved[LETTERS.index(after)] == options[LETTERS.index(before)]


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("Exit.", "Exit"),
        ("The answer is: Main Street.", "Main Street"),
        ("I see a sign.\n<answer> blue </answer>", "blue"),
        (r"So \boxed{\text{1.5}}", "1.5"),
        ('"STOP"', "STOP"),
        ("<think>hm", None),
    ],
)
def test_words(reply: str, value: str | None) -> None:
    assert read_words(reply).value == value
