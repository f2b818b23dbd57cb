"""Reads the final answer of a reply, for all tasks: a letter of multiple choice, or words.

A reading that is not certain is none: the item is *unscored* with its reason, never a letter drawn at random.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from viscot_core.tasks.answers.final import after_cue, final_part

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class Answered:
    """What a reply was read as; ``value`` is None where it says nothing certain, for ``reason``."""

    value: str | None
    reason: str = ""


EMPTY = Answered(None, "the reply has no final answer")
SEVERAL = Answered(None, "the final answer names several options")
NO_OPTION = Answered(None, "the final answer names no option")

_MARKS = " \t\r\n*_`\"'$#>~-\N{BULLET}"
_TYPED = str.maketrans(
    {
        "\N{LEFT DOUBLE QUOTATION MARK}": '"',
        "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
        "\N{LEFT SINGLE QUOTATION MARK}": "'",
        "\N{RIGHT SINGLE QUOTATION MARK}": "'",
        "\N{EN DASH}": "-",
        "\N{EM DASH}": "-",
    }
)
"""Marks that models write in print's form, which Unicode's own folding leaves as they are."""
_NOT = re.compile(
    r"(?:\bnot|n't|\bnor|\bneither|\bexcept|\brather\s+than|\binstead\s+of|\bexcludes?|\beliminates?|\brules?\s+out)"
    r"(?:\s+(?:be|the|option|choice|answer|letter))*[\s(*_`\"']*$",
    re.IGNORECASE,
)
"""What stands before a letter that is said not to be the answer."""
_WRONG = re.compile(
    r"^[\s)*_.:`\"']*(?:\([^()]*\)\s*)?(?:is|are|was|seems?|looks?|can|does|could)?\s*"
    r"(?:not\b|n't\b|isn't|aren't|wasn't|can't|doesn't|cannot|wrong|incorrect|false|excluded|eliminated|ruled\s+out|"
    r"also\s+(?:wrong|incorrect))",
    re.IGNORECASE,
)
"""What stands behind such a letter."""


def read_choice(reply: str, options: Sequence[str]) -> Answered:
    """The letter of the option that a reply chooses: ``options[0]`` is A.

    A letter counts where it is marked as one (alone, ``(B)``, ``B.``, ``**B**``, "option B") or stands as a
    word that cannot be English ("A red car" and "I think" hold no letter); else the words of exactly one
    option. The last "the answer is" decides before the rest of the text, and the last line before the others.
    """
    final = final_part(reply)
    if not final:
        return EMPTY
    letters = LETTERS[: len(options)]
    found = NO_OPTION
    for part in _parts(final):
        found = _letter(part, letters, options)
        if found.value is not None:
            return found
    return found


def _parts(final: str) -> list[str]:
    """Where to look, most certain first: all of a short text, what follows a cue, the last line, all."""
    said = after_cue(final)
    lines = [line.strip() for line in final.splitlines() if line.strip()]
    parts = [said, lines[-1], final] if said is not None else [final, lines[-1]]
    return list(dict.fromkeys(part for part in parts if part))


def _letter(part: str, letters: str, options: Sequence[str]) -> Answered:
    text = _folded(part).strip(_MARKS)
    if not text:
        return NO_OPTION
    # Before the options' words: where "A" is an option's text as well as a letter, the letter is meant.
    bare = text.strip(_MARKS + "()[]{}.:,;!")
    if len(bare) == 1 and bare.upper() in letters:
        return Answered(bare.upper())
    whole = [letter for letter, option in zip(letters, options, strict=True) if _same(text, option)]
    if len(whole) == 1:
        return Answered(whole[0])
    for found in (_labelled(text, letters), _marked(text, letters), _by_words(text, letters, options)):
        if len(found) == 1:
            return Answered(found[0])
        if found:
            return SEVERAL
    found = _bare(text, letters)
    return Answered(found[0]) if len(found) == 1 else SEVERAL if found else NO_OPTION


def _labelled(text: str, letters: str) -> list[str]:
    """The label that the text begins with: ``B. red``, ``(B) red``, ``B: red``, ``B) red``, ``B - red``.

    ``A.27B`` is one as well (HR-Bench writes its options so). Nothing where labels of several options follow:
    the text lists them.
    """
    one = rf"([{letters}])"
    label = re.compile(rf"(?:^|(?<=[\s,;]))[*_`]*(?:\({one}\)|\[{one}\]|{one}[*_`]*(?:[.):](?!\w\.)|\s+-\s))")
    first = label.match(text)
    if first is None:
        return []
    kept = _kept(text, label)
    lead = _group(first)
    return [lead] if set(kept) == {lead} else []


_EDGES = "()[]{}.,;:!?*_`\"'"
_TAKEN = "\N{SECTION SIGN}"
"""In place of words that were read as an option's already."""
_CALLED = ("option", "choice", "letter")


def _marked(text: str, letters: str) -> list[str]:
    """Letters marked as options anywhere in the text, each once, those that are said to be wrong left out."""
    one = rf"([{letters}])"
    named = "|".join(rf"\b[{word[0].upper()}{word[0]}]{word[1:]}\s+[*_`\"'(]*{one}\b" for word in _CALLED)
    marked = re.compile(rf"\({one}\)|\[{one}\]|\*\*\(?{one}\)?[.:]?\*\*|[\"'`]{one}[\"'`.]|{named}")
    return _kept(text, marked)


def _bare(text: str, letters: str) -> list[str]:
    """Capital letters that stand as words, without the article "A" and the pronoun "I"."""
    return _kept(text, re.compile(rf"(?<![\w'.&/-])([{letters}])(?![\w'&/-]|\.\w)"), words=True)


def _kept(text: str, pattern: re.Pattern[str], *, words: bool = False) -> list[str]:
    found: dict[str, None] = {}
    for match in pattern.finditer(text):
        letter, before, behind = _group(match), text[: match.start()], text[match.end() :]
        if _NOT.search(before) or _WRONG.match(behind):
            continue
        if words and _is_english(letter, behind):
            continue
        found[letter] = None
    return list(found)


def _is_english(letter: str, behind: str) -> bool:
    """Whether "A" or "I" is a word of English here: another word follows that is no verb of a letter."""
    following = re.match(r"\s+([a-zA-Z][\w'-]*)", behind)
    if letter == "I":
        return following is not None
    verbs = ("is", "was", "because", "since", "as", "matches", "seems", "and", "or", "for", "fits", "looks")
    return letter == "A" and following is not None and following[1].lower() not in verbs


def _by_words(text: str, letters: str, options: Sequence[str]) -> list[str]:
    """Options whose words the text holds, without those whose words stand only inside another one's."""
    said = f" {_plain(text)} "
    typed = [word for word in _folded(text).split() if word.strip(_EDGES)]
    named = []
    # Longest first, each taken out of the text: "dark red" must not also count as "red".
    plain = [
        (letter, words) for letter, option in zip(letters, options, strict=True) if (words := _plain(option))
    ]
    for letter, words in sorted(plain, key=lambda pair: -len(pair[1])):
        place = said.find(f" {words} ")
        if place < 0:
            continue
        count = words.count(" ") + 1
        last = typed[said.count(" ", 0, place) + count - 1]
        # "red, not blue" says red, "red is not" does not; as for letters, a comma ends what is said of it.
        ended = last.rstrip("*_`\"')").endswith((",", ";"))
        if not _NOT.search(said[: place + 1]) and (ended or not _WRONG.match(said[place + len(words) + 1 :])):
            named.append(letter)
        # As many words as before: ``typed`` has the same ones.
        said = said.replace(f" {words} ", f" {' '.join(count * [_TAKEN])} ")
    return sorted(named)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).translate(_TYPED)


def _group(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group)


def _plain(text: str) -> str:
    """Words in lower case, for comparing: marks at words' ends go, those inside (1.5, 10:30) stay."""
    folded = _folded(text).casefold()
    return " ".join(word for raw in folded.split() if (word := raw.strip(_EDGES)))


def _same(text: str, option: str) -> bool:
    return bool(_plain(option)) and _plain(text) == _plain(option)


def read_words(reply: str) -> Answered:
    """The words of an open answer without the marks, the "The answer is" and the full stop around them."""
    final = final_part(reply)
    said = after_cue(final) or final
    words = " ".join(_folded(said).strip(_MARKS).split()).rstrip(".").strip(_MARKS)
    return Answered(words) if words else EMPTY
