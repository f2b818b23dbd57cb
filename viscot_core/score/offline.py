"""Judges without a model: deterministic standard measures, computed offline.

``exact`` (normalised match), ``anls`` (DocVQA, Biten et al. 2019), ``vqa`` (VQA accuracy with the
normalisation of VQA v2 and TextVQA; several references are separate lines), ``contains`` (the
reference appears in the answer as whole words), ``relaxed`` (ChartQA, Masry et al. 2022: numbers within 5 %),
``letter`` and ``yes-no`` (how LLaVA's scripts read an answer to ScienceQA and to POPE).
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Iterable
from statistics import fmean

from viscot_core.score.verdicts import JudgeIdentity, Outcome, Pair, State

Measure = Callable[[str, str], float]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = re.compile(
    r"(?<=\d)\.(?=\d)|(?<!\w)[-.](?=\.?\d)"  # 1.5, .5 and -3 keep what makes them another number
    f"|([{re.escape(string.punctuation)}])"
)
_NUMBER_WORDS = {
    word: str(value)
    for value, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    )
} | {"none": "0"}
_VQA_MARKS = ';/[]"{}()=+\\_-><@`!'
ANLS_THRESHOLD = 0.5
"""An ANLS similarity at or below this counts as a wrong answer (0), as DocVQA defines it."""
RELAXED_TOLERANCE = 0.05
ANNOTATORS = 10
"""How many people answered each question of VQA v2 and TextVQA. Their accuracy needs all ten: with fewer
answers, a right one could not agree with three others."""


def normalise(text: str) -> str:
    """Remove case, Unicode variants, punctuation, articles, extra whitespace: ``"The  Cat."`` is ``"cat"``.

    Numbers keep their decimal points and minus signs (1.5 is not 15). A text of only articles or punctuation
    (``"A"``, ``"?"``) keeps them, so that it can still be right or wrong.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    plain = _PUNCTUATION.sub(lambda m: "" if m[1] else m[0], folded)
    for candidate in (_ARTICLES.sub(" ", plain), plain, folded):
        if words := candidate.split():
            return " ".join(words)
    return ""


def exact(reference: str, answer: str) -> float:
    """1 if the normalised texts are equal."""
    return float(normalise(reference) == normalise(answer))


def contains(reference: str, answer: str) -> float:
    """1 if the normalised reference occurs in the normalised answer as whole words."""
    wanted, given = normalise(reference), normalise(answer)
    return float(bool(wanted) and f" {wanted} " in f" {given} ")


def anls(reference: str, answer: str) -> float:
    """1 - edit distance / longer length, on lower-cased stripped text; 0 at or below ``ANLS_THRESHOLD``."""
    from rapidfuzz.distance import Levenshtein

    a, b = " ".join(reference.lower().split()), " ".join(answer.lower().split())
    longest = max(len(a), len(b))
    similarity = 1.0 - Levenshtein.distance(a, b) / longest if longest else 1.0
    return similarity if similarity > ANLS_THRESHOLD else 0.0


def vqa(reference: str, answer: str) -> float:
    """VQA accuracy on words normalised by ``_vqa_words``: 1 if one of the references (one a line) agrees.

    With ``ANNOTATORS`` references: leave each of them out in turn and take the mean of min(1, agreeing / 3),
    as the evaluation of VQA v2 (github.com/GT-Vision-Lab/VQA, vqaEval.py) and of TextVQA does.
    """
    given = _vqa_words(answer)
    if given == _vqa_words(reference):
        return 1.0
    wanted = [_vqa_words(line) for line in reference.split("\n") if line.strip()]
    if len(wanted) != ANNOTATORS:
        return float(given in wanted)
    agreeing = wanted.count(given)
    # If the reference left out says the same, one fewer of the others agrees.
    return fmean(min(1.0, (agreeing - (words == given)) / 3) for words in wanted)


def letter(reference: str, answer: str) -> float:
    """The option's letter as LLaVA's ScienceQA script reads it: ``B``, ``B. ..`` or ``The answer is B.``"""
    said = answer.strip()
    found = re.match(r"([A-Z])(?:\.(?:\s|$)|$)", said) or re.search(r"The answer is ([A-Z])\b", said)
    return float(found is not None and found[1] == reference.strip().upper()[:1])


def says_no(answer: str) -> bool:
    """LLaVA's POPE script: "no" if the first sentence contains no, not or No; everything else is a yes."""
    return bool({"No", "not", "no"} & set(answer.split(".")[0].replace(",", "").split()))


def yes_no(reference: str, answer: str) -> float:
    """1 if the answer, read by ``says_no``, agrees with the reference."""
    return float(says_no(answer) == (normalise(reference) == "no"))


def relaxed(reference: str, answer: str) -> float:
    """Numbers may differ by 5 % of the reference; anything else must match exactly."""
    wanted, given = _number(reference), _number(answer)
    if wanted is None or given is None:
        return exact(reference, answer)
    if wanted == 0:
        return float(given == 0)
    return float(abs(given - wanted) / abs(wanted) <= RELAXED_TOLERANCE)


MEASURES: dict[str, Measure] = {
    "exact": exact,
    "anls": anls,
    "vqa": vqa,
    "contains": contains,
    "relaxed": relaxed,
    "letter": letter,
    "yes-no": yes_no,
}


class OfflineJudge:
    """One of ``MEASURES`` as a judge."""

    def __init__(self, name: str) -> None:
        self._measure = MEASURES[name]
        self.identity = JudgeIdentity.now(name, name, None, None)

    def judge(self, pairs: Iterable[Pair], done: Callable[[Pair, Outcome], None]) -> None:
        for pair in pairs:
            done(pair, Outcome(State.SCORED, self._measure(pair.reference, pair.answer)))


def _vqa_words(text: str) -> list[str]:
    """The words that VQA v2's and TextVQA's evaluation compare (EvalAI's answer processor, as LLaVA has it).

    Commas are removed; so is a mark beside a space, while a mark inside a word splits it (``coca-cola`` is
    two words). Full stops are removed except in numbers (1.5), number words become digits, articles are
    dropped, and ``dont`` equals ``don't``.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    said = " ".join(re.sub(r"[,?]", "", folded).replace("'s", " 's").split())
    plain = said
    # Spaces are looked for in the text before any mark was removed (``inText`` in vqaEval.py).
    for mark in _VQA_MARKS:
        plain = plain.replace(mark, "" if f"{mark} " in said or f" {mark}" in said else " ")
    plain = re.sub(r"\.(?!\d)|(?<=[a-z])'(?=[a-z])", "", plain)
    words = [_NUMBER_WORDS.get(word, word) for word in plain.split() if word not in ("a", "an", "the")]
    return words or folded.split()


def _number(text: str) -> float | None:
    """``"$1,200"`` and ``"3"`` as numbers, ``"12.5 %"`` as 0.125 (ChartQA's rule)."""
    match = re.fullmatch(r"\s*[$€£]?([-+]?(?:\d[\d,]*\.?\d*|\.\d+))\s*(%?)\.?\s*", text)
    return float(match[1].replace(",", "")) / (100 if match[2] else 1) if match else None
