"""Writes the HTML report: one file with tables, plots and a card per item. It works offline, from ``file://``.

The page holds all items as JSON and turns one page of cards at a time into HTML, so 10,000 items stay fast.
Texts of models and judges are escaped into the JSON and shown as text, never as markup.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Callable, Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from PIL import Image

from viscot_core.boxes.geometry import Box
from viscot_core.errors import DataError, ImageError, UsageError
from viscot_core.files import atomic_write
from viscot_core.images.reading import open_image
from viscot_core.report.analysis import analyse
from viscot_core.report.audit.audit_tables import SERIES, audit_rows
from viscot_core.report.audit.figures import Figure, audits, is_replay
from viscot_core.report.choices import By, Images
from viscot_core.report.names import title
from viscot_core.report.plots import Mark, dots, histogram
from viscot_core.report.report_data import ReportData
from viscot_core.report.scored_run import ScoredItem, ScoredRun
from viscot_core.report.stats_types import AREA_BINS, Answers, Stats, StatsOptions, area_label
from viscot_core.score.verdicts import pair_of, read_scores, score_files
from viscot_core.tasks.image_files import find_image

EMBED_AT_MOST = 300
"""``Images.AUTO`` embeds up to this many different images (about 30 KB each)."""
EMBEDDED_SIDE = 512


def write_report(
    path: Path, report: ReportData, *, data: Path | None = None, images: Images = Images.AUTO
) -> None:
    """Write the report to ``path``; a missing folder is created, and the file appears only when complete.

    ``data`` is the data root to use instead of the one the runs were made with. If an image cannot be read,
    its card shows the path instead. Raises DataError if ``path`` cannot be written.
    """
    runs = [part.stats.run for part in report.runs]
    placer = _ImagePlacer(path.parent, data, images, runs)
    asked = _Prompts()
    items = []
    for run in runs:
        judges = _judges(run)
        items += [_item_json(item, run, placer) | asked.of(item, run) | judges(item) for item in run.items]
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(
            lambda name: files("viscot_core.report").joinpath(name).read_text(encoding="utf-8")
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("report.html.j2").render(
        title=", ".join(run.name for run in runs),
        tables=report.tables(),
        plots=[plot for part in report.runs for plot in _plots(part.stats, len(report.runs) > 1)],
        runs=[_run_facts(run) for run in runs],
        data=_safe_json({"items": items, "images": placer.images, "prompts": list(asked.texts)}),
    )
    try:
        with atomic_write(path) as file:
            file.write(page)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}; choose another --out.") from error


def _safe_json(data: Any) -> str:
    """JSON for use inside a script element: it contains no ``<`` that could end the element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    # U+2028 and U+2029 end a line in older JavaScript, inside a text too.
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _run_facts(run: ScoredRun) -> dict[str, str]:
    environment = ", ".join(f"{k} {v}" for k, v in run.info.environment.items())
    return {
        "Run": run.name,
        "Model": run.info.model,
        "Judge": run.judge.describe() if run.judge else "none",
        "Data": run.info.data,
        "Begun": run.info.created,
        "Environment": environment,
    }


# -- cards


def _item_json(item: ScoredItem, run: ScoredRun, placer: _ImagePlacer) -> dict[str, Any]:
    """The data of one card, without empty fields. Boxes are in pixels of the image."""
    p, outcome = item.prediction, item.outcome
    size = (p.width, p.height)
    facts = {
        "run": run.name,
        "strategy": p.strategy,
        "dataset": item.dataset,
        "id": str(p.question_id),
        "question": p.question,
        "reference": p.reference,
        "answer": p.answer,
        "error": p.error,
        "status": p.status,
        "state": outcome.state.value if outcome else None,
        "score": item.score,
        "reply": outcome.reply if outcome else None,
        "reason": outcome.reason if outcome else None,
        "boxStatus": p.box_status,
        "iou": p.iou,
        "share": None if item.box_share is None else round(item.box_share, 4),
        "seconds": round(p.seconds, 2) or None,
        "boxText": p.box_text,
        "size": size,
        "box": None if p.box_status == "unparsable" else _pixels(p.box, size),
        "truth": _pixels(p.box_gt, size),
        "crop": p.crop,
        "steps": _steps(p.trace, p.image) if p.trace else None,
        "refused": len(p.trace.get("errors", ())) or None if p.trace else None,
        "image": p.image,
        "source": placer.place(run, p.image),
    }
    return {name: value for name, value in facts.items() if value is not None}


class _Prompts:
    """What was sent, made again from the recorded words (``runs.replay``, which loads no model).

    Most prompts differ in question and box only: a text is stored once, with marks for these two.
    """

    def __init__(self) -> None:
        from viscot_core.runs.replay import prompts  # reports without cards do not need the policies

        self._prompts = prompts
        self.texts: dict[str, int] = {}

    def of(self, item: ScoredItem, run: ScoredRun) -> dict[str, list[int]]:
        """The numbers of the item's prompts, without those that the last one goes on from."""
        p = item.prediction
        try:
            found = self._prompts(run.info, p)
        except (DataError, UsageError):  # of another version of viscot, or another program
            return {}
        if not found:
            return {}
        texts = [*(text for text in found[:-1] if not found[-1].startswith(text)), found[-1]]
        marked = [_marked(_marked(text, p.question, "\x01"), p.box_text, "\x02") for text in texts]
        return {"prompts": [self.texts.setdefault(text, len(self.texts)) for text in marked]}


def _marked(text: str, words: str | None, mark: str) -> str:
    return text.replace(words, mark) if words else text


def _judges(run: ScoredRun) -> Callable[[ScoredItem], dict[str, dict[str, float]]]:
    """The scores of an item by all judges, where several scored its answer."""
    files = score_files(run.path)
    found = {name: read_scores(path).verdicts for name, path in files.items() if len(files) > 1}

    def of(item: ScoredItem) -> dict[str, dict[str, float]]:
        key, pair = item.prediction.key, pair_of(item.prediction)
        scores = {}
        for name, verdicts in found.items():
            # A file of another judge than the run's was not checked to be about these answers.
            verdict = verdicts.get(key)
            if verdict and verdict.is_about(pair) and verdict.outcome.score is not None:
                scores[name] = verdict.outcome.score
        return {"judges": scores} if scores else {}

    return of


def _steps(trace: dict[str, Any], image: str) -> list[dict[str, Any]]:
    """The looks of a talk at the card's image, with what was said in their turns."""
    said = [m.get("content", "") for m in trace.get("messages", ()) if m.get("role") == "assistant"]
    images = trace.get("images", [image])
    return [
        {
            "box": look["box"],
            "crop": look["crop"],
            "said": (said[look["turn"] - 1] if 0 < look.get("turn", 0) <= len(said) else "") + _instead(look),
        }
        for look in trace.get("looks", ())
        if {"box", "crop"} <= look.keys() and images[look.get("image", 0) :][:1] == [image]
    ]


def _instead(look: dict[str, Any]) -> str:
    """In an audit the model may have seen something else than the crop that is drawn."""
    return f" (it was shown: {look['replaced']})" if look.get("replaced") else ""


def _pixels(coords: tuple[float, float, float, float] | None, size: tuple[int, int]) -> list[float] | None:
    return [round(c, 1) for c in Box(*coords).to_original(size).coords] if coords else None


class _ImagePlacer:
    """Places images in the report: embedded once in ``images``, linked by a relative path, or left out."""

    def __init__(self, folder: Path, data: Path | None, mode: Images, runs: Iterable[ScoredRun]) -> None:
        self.folder, self.data = folder.resolve(), data
        self.images: list[str] = []
        self._placed: dict[Path, int | str | None] = {}
        if mode is Images.AUTO:
            different = {(run.info.data, item.prediction.image) for run in runs for item in run.items}
            mode = Images.EMBED if len(different) <= EMBED_AT_MOST else Images.LINK
        self.mode = mode

    def place(self, run: ScoredRun, image: str) -> int | str | None:
        """An index into ``images``, a link, or None if there is no image to show."""
        root = self.data or (Path(run.info.data) if run.info.data else None)
        if self.mode is Images.NONE or root is None or not image:
            return None
        try:
            path = find_image(root, image)
        except DataError:  # a path that leads outside of the data root: a report embeds no other files
            return None
        if path not in self._placed:
            self._placed[path] = self._embed(path) if self.mode is Images.EMBED else self._link(path)
        return self._placed[path]

    def _link(self, path: Path) -> str:
        return quote(Path(os.path.relpath(path.resolve(), self.folder)).as_posix())

    def _embed(self, path: Path) -> int | None:
        try:
            image = open_image(path)
        except ImageError:
            return None
        image.thumbnail((EMBEDDED_SIDE, EMBEDDED_SIDE), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=80)
        self.images.append("data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode())
        return len(self.images) - 1


# -- plots


def _plots(stats: Stats, several: bool) -> list[str]:
    prefix = f"{stats.run.name}: " if several else ""
    plots = [
        dots(f"{prefix}{name}: right with each crop, and answers that flip", rows, list(SERIES))
        for name, each in audits(stats.run).items()
        for rows in [[(by, [_figure_mark(f) for f in pair]) for by, pair in audit_rows(each)]]
    ]
    if stats.answers and stats.run.judge:
        overall = [(s, [_mark(part.overall)]) for s, part in stats.answers.items()]
        plots.append(dots(f"{prefix}Answers, overall, with 95 % intervals", overall, ["score"]))
        if len(stats.groups) > 1:
            shown = _strategies(stats)
            parts = [stats.answers[strategy] for strategy in shown]
            rows = [(title(name), [_mark(part.groups.get(name)) for part in parts]) for name in stats.groups]
            plots.append(dots(f"{prefix}Answers by {stats.by.value}", rows, shown))
        if stats.by is not By.BOX_AREA:
            plots.append(_by_area(stats, prefix))
    for strategy in stats.boxes:
        ious = [i.iou for i in stats.run.items if i.strategy == strategy and i.iou is not None]
        if ious:
            plots.append(histogram(f"{prefix}IoU of the boxes of {strategy}", ious))
    return plots


def _strategies(stats: Stats) -> list[str]:
    """Those of a plot in colours. An audit has more replays than there are colours, and a plot of its own."""
    return [strategy for strategy in stats.answers if not is_replay(strategy)]


def _mark(cell: Answers | None) -> Mark:
    """A strategy without this group gets an empty mark: the position in the row decides the colour."""
    return Mark(cell.mean, *(cell.ci95 or (None, None))) if cell else Mark(None)


def _figure_mark(figure: Figure | None) -> Mark:
    return Mark(figure.value, *(figure.ci95 or (None, None))) if figure else Mark(None)


def _by_area(stats: Stats, prefix: str) -> str:
    """Mean score by the share of the image that the annotated box covers, with its interval."""
    options = StatsOptions(By.BOX_AREA, stats.average, resamples=100)  # (of differences, which nobody sees)
    every = analyse(stats.run, options).answers
    parts = {strategy: every[strategy] for strategy in _strategies(stats)}
    areas = [area_label(*edges) for edges in AREA_BINS]
    rows = [(area, [_mark(part.groups.get(area)) for part in parts.values()]) for area in areas]
    return dots(f"{prefix}Answers by share of the image the true box covers", rows, list(parts))
