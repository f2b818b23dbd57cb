"""One's own questions in LLaVA's question format, a row ``{question_id, image, text[, answer][, category]}``.

The prompts are LLaVA's: the question and a suffix that asks for a word, a letter or nothing (``direct``, as
in the paper's Table 8); ``cot`` names a region and looks at its crop first. ``answer`` may be a list: in the
run folder the accepted answers are lines of one reference.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from viscot_core.boxes.formats import Codec
from viscot_core.boxes.geometry import Size
from viscot_core.data.annotations import Row, Rows
from viscot_core.errors import DataError, ImageError, check_choice
from viscot_core.images.reading import image_size
from viscot_core.paths import inside
from viscot_core.policies.base import Answer
from viscot_core.policies.direct import Direct
from viscot_core.policies.two_turn import TwoTurn
from viscot_core.policies.wording import LETTER, SHORT, Wording
from viscot_core.policies.zoom_settings import ZoomSettings
from viscot_core.tasks.base import (
    MAX_NEW_TOKENS,
    Benchmark,
    Facts,
    Item,
    Settings,
    Strategy,
    box_facts,
    check_strategies,
    max_new_tokens,
    wording_of,
)
from viscot_core.tasks.loading import digest_of
from viscot_core.tasks.shared_strategies import ZOOM, attention_settings, training_free


def llava_wording(settings: Settings) -> Wording:
    """The words of a question without a look."""
    return replace(wording_of(settings), protocol="native")


STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy(
            "direct",
            "question and image, answer at once, in LLaVA's words",
            lambda settings: Direct(llava_wording(settings)),
        ),
        Strategy(
            "cot",
            "the model names the region, sees its crop, answers, in the paper's words",
            lambda settings: TwoTurn(wording_of(settings), box_tokens=max_new_tokens(settings)),
            asks_for_box=True,
        ),
        ZOOM,
        *training_free(llava_wording),
    )
}


@dataclass(frozen=True)
class AnswerStyle:
    """How an answer is asked for, and which judge scores it (None: only a model can)."""

    name: str
    suffix: str
    judge: str | None
    like: str
    answers: str = "text"
    """What its judge can compare an answer with."""
    answer: re.Pattern[str] | None = None

    def fits(self, answers: Sequence[str]) -> bool:
        """Whether the judge can compare with these accepted answers."""
        return self.answer is None or (len(answers) == 1 and self.answer.fullmatch(answers[0]) is not None)


STYLES = {
    style.name: style
    for style in (
        AnswerStyle("short", SHORT, "vqa", "VQAv2, TextVQA, GQA"),
        AnswerStyle(
            "letter", LETTER, "letter", "ScienceQA, MMBench", "one letter", re.compile(r"[A-Za-z]\.?")
        ),
        AnswerStyle("yes-no", SHORT, "yes-no", "POPE, MME", "yes or no", re.compile(r"(?i:yes|no)\.?")),
        AnswerStyle("free", "", None, "LLaVA-Bench"),
    )
}
"""LLaVA's prompt suffixes (its evaluation scripts); a question that ends in its suffix keeps it once."""


class QuestionRow(Row):
    """A row of the file; other fields are left alone."""

    question_id: int | str
    image: str
    text: str
    answer: str | list[str] | None = None
    category: str | None = None

    def accepted(self) -> list[str]:
        """The answers that are right; none where the row gives none."""
        given = [self.answer] if isinstance(self.answer, str) else self.answer or []
        return [answer.strip() for answer in given if answer.strip()]


@dataclass(frozen=True)
class VqaFile:
    """The questions of one file about the images of a folder (``data``), under direct, cot or both.

    Raises:
        UsageError: an unknown style or strategy.
    """

    kind: ClassVar[str] = "vqa"
    all_strategies: ClassVar[Mapping[str, Strategy]] = STRATEGIES

    questions: Path
    data: Path
    style: str = "short"
    strategies: tuple[str, ...] = ("direct",)
    skip_missing: bool = False
    max_new_tokens: int = MAX_NEW_TOKENS
    zoom: ZoomSettings = field(default_factory=ZoomSettings)
    attention_layer: int | None = None

    def __post_init__(self) -> None:
        check_choice("--style", self.style, STYLES)
        object.__setattr__(self, "strategies", check_strategies(self.strategies, STRATEGIES))

    def load(self) -> Benchmark:
        """As ``load_questions``."""
        return load_questions(self.questions, self.data, STYLES[self.style], skip_missing=self.skip_missing)

    def settings(self, codec: Codec | None) -> dict[str, Any]:
        """Everything that changes an answer and is known before a model is loaded."""
        return {
            "style": self.style,
            "box_format": codec.name if codec else None,
            "max_new_tokens": self.max_new_tokens,
            **({"zoom": self.zoom.record()} if "zoom" in self.strategies else {}),
            **attention_settings(self.attention_layer, [STRATEGIES[name] for name in self.strategies]),
        }

    @staticmethod
    def metrics(item: Item, answer: Answer, settings: Settings) -> Facts:
        """The answer and its region; without an annotated region there is no IoU."""
        return {"answer": answer.text, **box_facts(item, answer, settings)}


def load_questions(file: Path, images: Path, style: AnswerStyle, *, skip_missing: bool = False) -> Benchmark:
    """The file's questions as a benchmark named after it (``NAME/CATEGORY`` where it has several).

    Ids may repeat, as in LLaVA's TextVQA file, where they name images: a later one becomes ``ID#2``.

    Raises:
        DataError: damaged rows, answers that the style cannot be scored by, or images missing (unless
            ``skip_missing``).
    """
    rows = list(Rows(file, QuestionRow))
    if not rows:
        raise DataError(f"{file} has no question; give a row {{question_id, image, text}} for each.")
    _check_answers(file, rows, style)
    several = len({row.category for row in rows}) > 1
    seen: Counter[str] = Counter()
    missing: Counter[str] = Counter()
    items: list[Item] = []
    for row in rows:
        dataset = f"{file.stem}/{row.category}" if several and row.category else file.stem
        path = inside(images, row.image)
        if not path.is_file():
            missing[dataset] += 1
            continue
        seen[f"{dataset}:{row.question_id}"] += 1
        turn = seen[f"{dataset}:{row.question_id}"]
        name = row.question_id if turn == 1 else f"{row.question_id}#{turn}"
        items.append(_item(row, path, dataset, name, style))
    if missing and not skip_missing:
        raise DataError(
            f"{missing.total()} of {len(rows)} questions of {file} lack their image under {images}; "
            "check --images, or leave them out with --skip-missing."
        )
    if not items:
        raise DataError(f"No question of {file} has its image under {images}; check --images.")
    names = dict.fromkeys([*missing, *(item.dataset for item in items)])
    return Benchmark(
        items=tuple(items),
        missing=dict(missing),
        warnings=(),
        hashes=dict.fromkeys(names, digest_of(file)),
        files=dict.fromkeys(names, file.stem),
    )


def _check_answers(file: Path, rows: Sequence[QuestionRow], style: AnswerStyle) -> None:
    for row in rows:
        if (accepted := row.accepted()) and not style.fits(accepted):
            raise DataError(
                f"{file}: question {row.question_id}: --style {style.name} is scored by an answer that is "
                f"{style.answers}, not '{', '.join(accepted)}'; correct the row or choose another --style."
            )


def _item(row: QuestionRow, path: Path, dataset: str, question_id: int | str, style: AnswerStyle) -> Item:
    text = row.text.strip()
    size = _size(path)
    return Item(
        dataset=dataset,
        question_id=question_id,
        image=row.image,
        path=path,
        size=size,
        question=text.removesuffix(style.suffix.strip()).rstrip() + style.suffix,
        reference="\n".join(row.accepted()) or None,
    )


def _size(path: Path) -> Size:
    """Pixels, from the file's header; an unreadable image fails its question when it is opened."""
    try:
        return image_size(path)
    except ImageError:
        return 1, 1
