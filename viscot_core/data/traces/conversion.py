"""Traces into other projects' training files, and such files back into traces.

Another dialect is written anew: its own system prompt, every look in its own words and frame, thoughts where
they were said. Reading runs the loop on the recorded words (``rollout.replay``), so that every box, crop and
hash of a trace is what the loop would have made of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from viscot_core.conversation import split_thought
from viscot_core.data.traces.carriers import (
    OWN_DIALECT,
    CarriedRow,
    carry,
    is_trace_file,
    read_carried,
    words_of,
)
from viscot_core.data.traces.trace import Trace, box_of, read_traces, trace_line, trace_of
from viscot_core.errors import DataError, ImageError, UsageError
from viscot_core.files import atomic_folder, atomic_write
from viscot_core.images.reading import open_image
from viscot_core.images.view import View, view_of
from viscot_core.paths import inside
from viscot_core.policies.base import Answer, Question, Step
from viscot_core.policies.dialects.base import Dialect
from viscot_core.policies.dialects.known import DIALECTS, dialect
from viscot_core.policies.zoom import RESAMPLING, Zoom
from viscot_core.rollout import replay

# The loop replays what was said, however often: nobody waits for it.
_MOST_LOOKS = 64


@dataclass
class ConvertedTraces:
    """How many rows were written, how many crops, and why rows were left out."""

    rows: int = 0
    crops: int = 0
    left_out: list[str] = field(default_factory=list)


def read_any(path: Path, images: Path, name: str | None = None) -> Iterator[Trace | str]:
    """The traces of a file of any format, or the sentence why a row is none.

    ``images`` is the folder that paths are relative to, ``name`` the dialect of a file that does not say it.

    Raises:
        DataError: the file cannot be read, or a row is no conversation.
    """
    if is_trace_file(path):
        yield from read_traces(path)
        return
    for number, row in enumerate(read_carried(path), 1):
        try:
            yield _replayed(row, images, dialect(name) if name else _dialect_of(row))
        except (DataError, ImageError) as error:
            yield f"row {number}: {error}"


def convert(
    traces: Iterable[Trace | str],
    form: str,
    out: Path,
    images: Path,
    *,
    name: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> ConvertedTraces:
    """Write traces to ``out`` (JSONL) as ``form``; the crops they show go to ``OUT_crops/`` beside it.

    ``name`` is the dialect to write; without it the format's own, or the trace's.

    Raises:
        DataError: nothing could be written.
    """
    if form in OWN_DIALECT and name not in (None, OWN_DIALECT[form]):
        raise UsageError(f"The format {form} is written in its own dialect, not in {name}.")
    done = ConvertedTraces()
    wanted = name or OWN_DIALECT.get(form)
    if form in ("trace", "viscot"):
        with atomic_write(out) as file:
            _write(traces, form, wanted, images, None, file.write, done, progress)
        return done
    folder = out.with_name(f"{out.stem}_crops")
    with atomic_folder(folder, replace=True) as crops, atomic_write(out) as file:
        _write(traces, form, wanted, images, (crops, folder), file.write, done, progress)
    return done


def _write(
    traces: Iterable[Trace | str],
    form: str,
    wanted: str | None,
    images: Path,
    crops: tuple[Path, Path] | None,
    write: Callable[[str], object],
    done: ConvertedTraces,
    progress: Callable[[int], None] | None,
) -> None:
    for number, trace in enumerate(traces, 1):
        if isinstance(trace, str):
            done.left_out.append(trace)
            continue
        try:
            write(_line(trace, form, wanted, images, crops, number, done))
            done.rows += 1
        except (ImageError, DataError) as error:
            done.left_out.append(f"trace {number}: {error}")
        if progress:
            progress(number)
    if not done.rows:
        reason = done.left_out[0] if done.left_out else "the file has no row"
        raise DataError(f"No trace could be written: {reason}")


def _line(
    trace: Trace,
    form: str,
    wanted: str | None,
    images: Path,
    crops: tuple[Path, Path] | None,
    number: int,
    done: ConvertedTraces,
) -> str:
    if form == "trace" and wanted in (None, trace.dialect):
        return trace_line(trace).decode()
    if trace.stop != "answer":
        raise DataError(f"it ended without an answer ({trace.stop})")
    target = dialect(wanted or trace.dialect)
    views = tuple(view_of(open_image(inside(images, path))) for path in trace.images)
    if target.name == trace.dialect and not trace.errors:
        messages, boxes, shown = trace.turns, [look.box for look in trace.looks], _cut_again(trace, views)
    else:
        answer, shown = _said_anew(trace, target, views)
        messages, boxes = answer.messages, [look.box_pixels.coords for look in answer.looks]
    if form == "trace":
        row = CarriedRow(messages, trace.images, trace.id, trace.reference)
        return trace_line(_replayed(row, images, target)).decode()
    if crops is None:
        files = [
            f"{trace.images[look.image]}###{[round(corner) for corner in box]}"
            for look, box in zip(trace.looks, boxes, strict=True)
        ]
    else:
        written, final = crops
        names = [f"{number:06d}_{look}.png" for look in range(1, len(shown) + 1)]
        for name, image in zip(names, shown, strict=True):
            image.save(written / name)
        files = [f"{final.name}/{name}" for name in names]
        done.crops += len(files)
    return _json(carry(form, CarriedRow(messages, (*trace.images, *files), trace.id)))


def _json(row: object) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _cut_again(trace: Trace, views: Sequence[View]) -> list[Image.Image]:
    """The crops of a trace, from the originals. Raises DataError where one is not what was shown."""
    resampling = RESAMPLING[dialect(trace.dialect).rules.resample]
    shown = []
    for number, look in enumerate(trace.looks, 1):
        image = views[look.image].image.crop(look.crop)
        if look.shown is not None and image.size != look.shown:
            image = image.resize(look.shown, resampling)
        if look.hash and view_of(image).key != look.hash:
            raise DataError(
                f"crop {number} of its image is not the one that was shown; the image is another one now, or "
                "crops were cut from what was seen"
            )
        shown.append(image)
    return shown


def _said_anew(trace: Trace, target: Dialect, views: tuple[View, ...]) -> tuple[Answer, list[Image.Image]]:
    """The same looks in the words of ``target``, as its loop would have gone, and the crops it shows.

    Refused calls are left out. Raises DataError where the other dialect refuses a look.
    """
    images, said = len(views), words_of(trace.turns)
    policy = _loop(target)
    step = policy.start(Question(trace.question, views))
    for number, look in enumerate(trace.looks):
        source = {"last": images + number - 1 if number else look.image, "first": 0}.get(
            target.sources, look.source
        )
        image, window = policy.place(step, source)
        if image != look.image:
            raise DataError(f"{target.name} has no words for look {number + 1}, which is of another image")
        call = target.write_call(box_of(look), window, step.images[source].image.size, source, images)
        following = policy.next(step, _with_thought(target, said, look.turn) + call)
        if not isinstance(following, Step) or len(following.looks) != number + 1:
            reason = following.refusals[-1].reason if following.refusals else "it reads no call"
            raise DataError(f"{target.name} refuses look {number + 1}: {reason}")
        step = following
    answer = policy.next(step, _with_thought(target, said, len(said)) + target.answer(trace.answer))
    if not isinstance(answer, Answer):
        raise DataError(f"{target.name} reads the answer as a call")
    return answer, [view.image for view in step.images[images:]]


def _loop(found: Dialect) -> Zoom:
    return Zoom(found, _MOST_LOOKS, most_images=2 * _MOST_LOOKS, most_refusals=_MOST_LOOKS)


def _with_thought(target: Dialect, said: list[str], turn: int) -> str:
    """The thought of a turn, for a dialect whose models think aloud."""
    if not target.keeps_thoughts or not 0 < turn <= len(said):
        return ""
    thought = split_thought(said[turn - 1]).thought
    return f"<think>{thought}</think>\n" if thought else ""


def _dialect_of(row: CarriedRow) -> Dialect:
    """The dialect whose system prompt, or whose question, a row has."""
    system = next((message.text for message in row.messages if message.role == "system"), "")
    asked = next((message.text for message in row.messages if message.role == "user"), "")
    for each in DIALECTS.values():
        if each.system and each.system.strip() == system.strip():
            return each
        if not each.system and each.suffix and asked.rstrip().endswith(each.suffix.strip()):
            return each
    raise DataError("nothing says in which dialect it is; name it with --dialect (traces convert: --from)")


def _replayed(row: CarriedRow, images: Path, found: Dialect) -> Trace:
    """The trace that the loop makes of a row's words. Raises DataError, ImageError."""
    own = row.images[: row.asked]
    if not own:
        raise DataError("its question shows no image")
    asked = next(message.text for message in row.messages if message.role == "user")
    views = tuple(view_of(open_image(inside(images, path))) for path in own)
    text = asked.replace("<image>\n", "").replace("<image>", "").strip()
    question = Question(text.removesuffix(found.suffix.strip()).strip(), views)
    _, answer = replay(_loop(found), question, words_of(row.messages))
    if answer is None:
        raise DataError("its last turn is a call, not an answer")
    made = trace_of(
        answer,
        images=own,
        question=question.text,
        dialect=found.name,
        crop_from="original",
        id=row.id,
        reference=row.reference,
    )
    # The words that stood there, not those that the loop would have asked with.
    return made.model_copy(update={"tokens": None, "seconds": None})
