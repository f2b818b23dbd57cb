"""How public harnesses read a letter, bug for bug; only for re-scoring under their rules.

viscot's own figures use none of them. ``tests/tasks/answers/traps.json`` holds what they get wrong: there
each rule was compared with the harness's own function.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from viscot_core.tasks.answers.reading import LETTERS

Rule = Callable[[str, Sequence[str]], str | None]
"""(reply, options in the order that was asked) -> letter; None where the harness finds none."""


def lmms_vstar(reply: str, options: Sequence[str]) -> str | None:
    """lmms-eval 0.7.3, tasks/vstar_bench/utils.py ``extract_answer_letter``.

    The reply is put into capitals, and the first pattern asks whether it *begins* with a letter A-D: "Based
    on" is a B, "Definitely" a D.
    """
    said = reply.strip().upper()
    patterns = (
        r"^([A-D])\s*[.)\]]*",
        r"(?:THE\s+)?(?:ANSWER|CHOICE|OPTION)(?:\s+IS)?[\s:]+([A-D])",
        r"\(([A-D])\)",
        r"([A-D])\s*(?:\.|\)|])",
        r"(?:^|\s)([A-D])(?:\s|$)",
    )
    for pattern in patterns:
        if found := re.search(pattern, said):
            return found[1]
    alone = re.findall("[A-D]", said)
    return alone[0] if len(alone) == 1 else None


_PREFIXES = (
    *("The best answer is", "The correct answer is", "The answer is", "The answer"),
    *("The best option is", "The correct option is", "Best answer:", "Best option:"),
)


def first_capital(reply: str, options: Sequence[str]) -> str | None:
    """lmms-eval 0.7.3, tasks/mme_realworld/utils.py ``extract_characters_regex``: the first capital A-E.

    Any word may hold it: "Actually C" is an A. Without one, a reply that is a part of "(A)" .. "(E)" names
    that letter, and an empty reply is a part of "(A)".
    """
    said = reply.strip()
    for prefix in _PREFIXES:
        said = said.replace(prefix, "")
    found = re.search("[ABCDE]", said)
    if found:
        return found[0]
    if len(said.split()) > 10:
        return None
    return next((letter for letter in "ABCDE" if said.lower() in f"({letter.lower()})"), None)


def words_anywhere(reply: str, options: Sequence[str]) -> str | None:
    """lmms-eval 0.7.3, tasks/hrbench/hrbench_evals.py ``can_infer``, before it asks its judge."""
    return _inferred(reply, options, window=None, longest=None)


def words_near_the_end(reply: str, options: Sequence[str]) -> str | None:
    """VLMEvalKit, utils/matching_util.py ``can_infer``: what its ``exact_matching`` reads without a judge.

    One letter as a word among the last four of the reply, else the text of one option anywhere in the reply,
    in lower case: option "red" is found in "covered". A text over twice as long as all options holds none.
    """
    return _inferred(reply, options, window=5, longest=2)


_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_MARKS = ".()[],:;!*#{}"


def _inferred(reply: str, options: Sequence[str], *, window: int | None, longest: int | None) -> str | None:
    """``window``: the letter's first place must be later than that many words before the end."""
    letters = LETTERS[: len(options)]
    if any(words in reply for words in _REFUSALS):
        return None
    words = reply.translate(str.maketrans(_MARKS, " " * len(_MARKS))).split()
    there = [letter for letter in letters if letter in words]
    if len(there) == 1 and (window is None or words.index(there[0]) > len(words) - window):
        return there[0]
    if not there and "Z" in words:
        return None
    said = reply.lower()
    if longest is not None and len(said) > longest * sum(len(option) for option in options):
        return None
    named = [letter for letter, option in zip(letters, options, strict=True) if option.lower() in said]
    return named[0] if len(named) == 1 else None


def deepeyes(reply: str, options: Sequence[str], right: str) -> bool | None:
    """DeepEyes, eval/judge_result.py: whether the rule says right; None where it would ask its judge.

    ``right`` is the letter of the right option.
    """
    said = reply
    if "</answer>" in said and "<answer>" in said:
        said = said.split("<answer>")[1].split("</answer>")[0].strip()
    if r"\boxed{" in said:
        said = said.split(r"\boxed{")[1].split("}")[0]
    if len(said) == 1:
        return said == right
    if len(said) == 2 and "." in said:
        return right in said
    return True if f"{right}. {options[LETTERS.index(right)]}" in said else None
