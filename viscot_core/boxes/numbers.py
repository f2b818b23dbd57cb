"""Boxes in words of no family: any four numbers that stand together, however they are quoted or bracketed.

Models leave their own form: single quotes, other keys, a bare list, full-width commas, escaped JSON, tokens
that a server dropped or kept. Which number means what is not read here: order and scale are the family's.
"""

from __future__ import annotations

import re
import unicodedata

Numbers = tuple[float, float, float, float]

_NUMBER = re.compile(r"(?<![\w.])-?(?:\d+(?:\.\d+)?|\.\d+)(?![\w.%]*[\w%])")
"""A number by itself: not the 2 of ``bbox_2d`` or ``Qwen2.5``, not a percentage, not ``1e-1``."""
_GROUP = re.compile(r"[\[(]([^\[\]()]*)[\])]")
_TOKEN = re.compile(r"<[^<>\d]*\d{0,2}[^<>\d]*>|[\"'`\\]")
"""Special tokens (``<|box_start|>``, ``</ref>``), quotes around numbers, the escapes of quoted JSON."""
_NAME = re.compile(r"\b([xy])_?(?:min|max|[0-3])\s*[:=]\s*")
_PLAIN = str.maketrans("，、；：（）［］【】“”‘’", ",,;:()[][]\"\"''")
_BETWEEN = re.compile(r"[\s,;]*")
_SEPARATOR = re.compile(r"[\s,;]+")


def boxes_in(text: str, order: str = "xyxy") -> list[Numbers]:
    """The groups of four numbers in a text, in its own order, each once.

    In brackets, ``[a, b, c, d]``; in two pairs, ``(a, b), (c, d)``; without any brackets, a run of four.
    Three or five numbers together are no box, and numbers in a sentence are none either. Where the text names
    its numbers (``x1: 10, y1: ..``), the names must be in ``order``.
    """
    plain = unicodedata.normalize("NFKC", text.translate(_PLAIN)).replace("\\n", " ")
    plain = _TOKEN.sub(" ", plain)
    names = "".join(_NAME.findall(plain))
    if names and names != order * (len(names) // 4):
        return []
    plain = _NAME.sub(" ", plain)
    groups = [(*match.span(), _numbers(match[1])) for match in _GROUP.finditer(plain)]
    found: list[tuple[float, ...]] = []
    before: tuple[int, tuple[float, ...]] | None = None
    for start, end, numbers in groups:
        if before and len(numbers) == 2 and _BETWEEN.fullmatch(plain, before[0], start):
            found.append(before[1] + numbers)
            before = None
            continue
        before = (end, numbers) if len(numbers) == 2 else None
        if len(numbers) == 4:
            found.append(numbers)
    # A bracket that was not closed may have been cut off within its last number.
    rest = _GROUP.sub(" ", plain)
    if not any(numbers for *_, numbers in groups) and "[" not in rest and "(" not in rest:
        found = _runs(rest)
    return list(dict.fromkeys(found))  # type: ignore[arg-type]


def _numbers(group: str) -> tuple[float, ...]:
    """The numbers of a group that holds nothing else; none where it does."""
    words = [word for word in _SEPARATOR.split(group) if word]
    if not all(_NUMBER.fullmatch(word) for word in words):
        return ()
    return tuple(float(word) for word in words)


def _runs(text: str) -> list[tuple[float, ...]]:
    """Runs of exactly four numbers with nothing but commas and spaces between them."""
    found: list[list[float]] = []
    end = -1
    for match in _NUMBER.finditer(text):
        if end < 0 or not _BETWEEN.fullmatch(text, end, match.start()):
            found.append([])
        found[-1].append(float(match[0]))
        end = match.end()
    return [tuple(run) for run in found if len(run) == 4]
