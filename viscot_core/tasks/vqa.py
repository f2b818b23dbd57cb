"""One's own questions in LLaVA's question format, a row ``{question_id, image, text[, answer][, category]}``.

The prompts are LLaVA's: the question and a suffix that asks for a word, a letter or nothing (``direct``, as
in the paper's Table 8); ``cot`` names a region and looks at its crop first. ``answer`` may be a list: in the
run folder the accepted answers stand on lines of their own.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from viscot_core.boxes.geometry import Box, CropPolicy, Frame, Size
from viscot_core.data.annotations import Row, Rows
from viscot_core.engines.open import EngineOptions, codec_for, open_engine
from viscot_core.errors import DataError, UsageError, nearest
from viscot_core.policies.wording import LETTER, SHORT, Wording
from viscot_core.runs.records import Prediction, RunInfo
from viscot_core.runs.run import Built, Plan, Progress, Tally, run
from viscot_core.runs.shards import device_of, shard_of
from viscot_core.tasks.asking import Job, Outcome, Speaker
from viscot_core.tasks.benchmarks import parallel_batches, weights_of
from viscot_core.tasks.cot import CotAsker
from viscot_core.tasks.items import Benchmark, Item

STRATEGIES = ("direct", "cot")


@dataclass(frozen=True)
class Style:
    """How an answer is asked for, and which of viscot's judges scores it (None: one that is a model)."""

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
        Style("short", SHORT, "vqa", "VQAv2, TextVQA, GQA"),
        Style("letter", LETTER, "letter", "ScienceQA, MMBench", "one letter", re.compile(r"[A-Za-z]\.?")),
        Style("yes-no", SHORT, "yes-no", "POPE, MME", "yes or no", re.compile(r"(?i:yes|no)\.?")),
        Style("free", "", None, "LLaVA-Bench"),
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
class VqaOptions:
    """What ``viscot bench vqa`` was asked for."""

    out: Path
    questions: Path
    images: Path
    engine: EngineOptions
    style: str = "short"
    strategies: tuple[str, ...] = ("direct",)
    skip_missing: bool = False
    max_new_tokens: int = 128

    def chosen_style(self) -> Style:
        """Raises UsageError for an unknown style or strategy."""
        for flag, names, known in (
            ("--style", (self.style,), tuple(STYLES)),
            ("--strategy", self.strategies, STRATEGIES),
        ):
            for name in names:
                if name not in known:
                    raise UsageError(
                        f"{flag} is one of {', '.join(known)}, not '{name}'.{nearest(name, known)}"
                    )
        return STYLES[self.style]


def load_questions(file: Path, images: Path, style: Style, *, skip_missing: bool = False) -> Benchmark:
    """The file's questions as a benchmark named after it (``NAME/CATEGORY`` where it has several).

    Ids may repeat, as in LLaVA's TextVQA file, where they name images: a later one becomes ``ID#2``.

    Raises:
        DataError: damaged rows, answers that the style cannot be scored by, or images missing (unless
            ``skip_missing``).
    """
    rows = list(Rows(file, QuestionRow))
    if not rows:
        raise DataError(f"{file} holds no question; give a row {{question_id, image, text}} for each.")
    for row in rows:
        if (accepted := row.accepted()) and not style.fits(accepted):
            raise DataError(
                f"{file}: question {row.question_id}: --style {style.name} is scored by an answer that is "
                f"{style.answers}, not '{', '.join(accepted)}'; mend the row or choose another --style."
            )
    several = len({row.category for row in rows}) > 1
    seen: Counter[str] = Counter()
    missing: Counter[str] = Counter()
    items: list[Item] = []
    for row in rows:
        dataset = f"{file.stem}/{row.category}" if several and row.category else file.stem
        path = images / row.image
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
        raise DataError(f"{file} holds no question that has its image under {images}; check --images.")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    names = dict.fromkeys([*missing, *(item.dataset for item in items)])
    return Benchmark(
        kind="vqa",
        items=tuple(items),
        missing=dict(missing),
        warnings=(),
        hashes=dict.fromkeys(names, digest),
        files=dict.fromkeys(names, file.stem),
    )


def _item(row: QuestionRow, path: Path, dataset: str, question_id: int | str, style: Style) -> Item:
    text = row.text.strip()
    size = _size(path)
    return Item(
        dataset=dataset,
        question_id=question_id,
        image=row.image,
        path=path,
        size=size,
        question=text.removesuffix(style.suffix.strip()).rstrip() + style.suffix,
        box=Box(0, 0, *size, Frame.ORIGINAL),  # stands in for the region these rows do not name
        reference="\n".join(row.accepted()) or None,
    )


def _size(path: Path) -> Size:
    """Pixels, from the file's header; an unreadable image fails its question when it is opened."""
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, Image.DecompressionBombError):
        return 1, 1


@dataclass(frozen=True)
class VqaAsker:
    """``direct`` in LLaVA's words, ``cot`` in the paper's; no region is annotated."""

    direct: CotAsker
    cot: CotAsker

    def ask(self, jobs: Sequence[Job]) -> list[Outcome]:
        """One outcome per job, in order."""
        said = {
            outcome.key: outcome
            for asker, name in ((self.direct, "direct"), (self.cot, "cot"))
            for outcome in asker.ask([job for job in jobs if job.strategy == name])
        }
        return [_without_region(said[job.key]) for job in jobs]


def _without_region(outcome: Outcome) -> Outcome:
    if isinstance(outcome, Prediction):
        return outcome.model_copy(update={"box_gt": None, "iou": None})
    return outcome


def bench_vqa(options: VqaOptions, progress: Progress | None = None) -> tuple[RunInfo, Tally]:
    """Ask every question under the chosen strategies into ``options.out``; continues what is there.

    Raises:
        UsageError, DataError: before any model is loaded.
        CheckpointError, EngineError: the model cannot be loaded or is gone; what was finished is kept.
    """
    style, shard = options.chosen_style(), shard_of()
    codec = codec_for(options.engine)
    benchmark = load_questions(options.questions, options.images, style, skip_missing=options.skip_missing)
    plan = Plan(
        folder=options.out,
        benchmark=benchmark,
        strategies=tuple(dict.fromkeys(options.strategies)),
        settings={
            "style": style.name,
            "box_format": codec.name,
            "max_new_tokens": options.max_new_tokens,
        },
        model=options.engine.model or "viscot-tiny",
        data=options.images,
        batch=1,
        parallel=parallel_batches(options.engine),
        by_image=not options.engine.is_server,
        weights=None if options.engine.is_server else lambda: weights_of(options.engine.model),
        shard=shard,
    )

    def build() -> Built:
        engine = open_engine(replace(options.engine, device=device_of(shard, options.engine.device)))
        speaker = Speaker(engine, Wording(codec), options.max_new_tokens)
        native = replace(speaker, wording=Wording(codec, "native"))
        known = {"engine": dict(engine.identity), "prompts": Wording(codec).digest(engine.template)}
        batch = getattr(engine, "batch_size", None)
        return Built(VqaAsker(CotAsker(native), CotAsker(speaker, CropPolicy.PAPER)), known, batch)

    return run(plan, build, progress=progress)
