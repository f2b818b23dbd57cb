"""The part of a reply that is the answer: behind the thought, between the marks, after the last "answer is".

A scorer that looks for a letter in the whole reply finds one in the reasoning. Only the final answer is read;
where a reply has none (a thought without an end, empty marks) there is nothing to read, and it is counted.
"""

from __future__ import annotations

import re

from viscot_core.conversation import final_words, split_calls, split_thought

_OPEN, _CLOSE = re.compile(r"<answer>", re.IGNORECASE), re.compile(r"</answer>", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\s*\{|\\boxed\s+(?=\w)")
_IN_BOX = re.compile(r"\\(?:text|textbf|mathbf|mathrm|mathit|operatorname)\s*\{([^{}]*)\}")
_CUE = re.compile(
    r"(?:final\s+answer|correct\s+(?:answer|option|choice)|best\s+(?:answer|option|choice)|\banswer|"
    r"right\s+(?:answer|option|choice)|\boption\s+i\s+choose|\bmy\s+choice)"
    # "the answer to the question is": up to six words between the noun and its verb, in one sentence.
    r"(?:\s+(?!is\b|was\b|must\b|should\b)[\w'-]+){0,6}?"
    r"\s*(?:\*\*|__|[\"'`])*\s*"
    r"(?:[:\N{FULLWIDTH COLON}=]|\b(?:is|must\s+be|should\s+be|would\s+be)\b"
    r"(?:\s+(?:likely|probably|clearly|therefore|thus))?"
    r"\s*[:\N{FULLWIDTH COLON}]?)",
    re.IGNORECASE,
)
"""What comes before an answer in a sentence: "The best answer is", "Final answer:", "**Answer**:"."""
_NEGATED = re.compile(r"(?:\bnot\b|n't\b|\bnever\b)[\s*_]*$|^\s*(?:not\b|never\b|n't\b)", re.IGNORECASE)


def final_part(reply: str) -> str:
    """The final answer of a reply, stripped; "" where it has none.

    In this order: nothing of a thought; the last ``<answer>`` (its end may be cut off); in it the last
    ``\\boxed{}``. ``after_cue`` goes one step further for texts that say "the answer is".
    """
    said = final_words(split_thought(split_calls(reply)[0]).text)
    return _boxed(_between_marks(said)).strip()


def after_cue(text: str) -> str | None:
    """What follows the last "the answer is" of a text, up to the end of its paragraph; None without one.

    A negated one ("the answer is not B") says what the answer is not, and is passed over.
    """
    for cue in reversed(list(_CUE.finditer(text))):
        rest = text[cue.end() :]
        said = rest.lstrip(" \t*_`\"'\n").split("\n\n", 1)[0].strip()
        if said and not _NEGATED.search(said):
            return said
    return None


def _between_marks(said: str) -> str:
    opens = list(_OPEN.finditer(said))
    if not opens:
        return said
    # The last mark that holds something: a prompt's own "<answer></answer>" may be quoted behind it.
    for mark in reversed(opens):
        inside = _CLOSE.split(said[mark.end() :], maxsplit=1)[0]
        if inside.strip():
            return inside
    return ""


def _boxed(said: str) -> str:
    """The content of the last ``\\boxed{}``, braces matched and LaTeX's text commands taken away."""
    found = list(_BOXED.finditer(said))
    if not found:
        return said
    rest = said[found[-1].end() :]
    if not found[-1][0].endswith("{"):
        return rest.split(maxsplit=1)[0].rstrip("$.")
    depth = 1
    for place, sign in enumerate(rest):
        depth += (sign == "{") - (sign == "}")
        if depth == 0:
            rest = rest[:place]
            break
    return _IN_BOX.sub(r"\1", rest)
