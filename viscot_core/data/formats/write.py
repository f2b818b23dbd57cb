"""Rows written in LLaVA's layout, as messages or as traces; what a layout cannot hold is counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from viscot_core.boxes.geometry import Box, crop_window
from viscot_core.conversation import IMAGE
from viscot_core.data.annotations import Conversation, exact_window, split_crop
from viscot_core.data.formats.layouts import RowError, RowLayout
from viscot_core.data.formats.read import Reader, RowFinding
from viscot_core.data.traces.trace import Trace
from viscot_core.errors import DataError
from viscot_core.files import atomic_write, folder_for

TARGETS = (RowLayout.LLAVA, RowLayout.MESSAGES, RowLayout.TRACE)
LOST_LOSS = "messages without loss, which LLaVA's layout cannot mark"
LOST_TRACE = "traces' looks, scores and costs; crops stay"


@dataclass(slots=True)
class Written:
    """Rows written, rows left out with what is wrong, and what the target's layout could not hold."""

    rows: int = 0
    bad: list[RowFinding] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)


def convert_rows(
    reader: Reader,
    out: Path,
    target: RowLayout,
    *,
    skip_bad: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Written:
    """Write every row of ``reader`` to ``out`` (a JSON list, or JSONL by its ending), whole or not at all.

    The images that stand in the rows go to the reader's store, and do not stay there either if it fails.

    Raises:
        DataError: more than ``skip_bad`` rows are wrong; the message names the first of them.
    """
    done = Written()
    with folder_for(out):
        try:
            with atomic_write(out) as file, _list_or_lines(file, out) as put:
                _put_rows(reader, target, done, put, skip_bad, progress)
        except BaseException:
            reader.remove_new()
            raise
    return done


def _put_rows(
    reader: Reader,
    target: RowLayout,
    done: Written,
    put: Callable[[dict[str, Any]], None],
    skip_bad: int,
    progress: Callable[[int], None] | None,
) -> None:
    for found in reader.rows():
        try:
            line = found if isinstance(found, RowFinding) else _line(found, target, reader, done)
        except RowError as error:
            line = RowFinding(done.rows + len(done.bad), error.kind, error.field, error.says)
        if isinstance(line, RowFinding):
            done.bad.append(line)
            if len(done.bad) > skip_bad:
                raise DataError(f"{reader.path}: {line}; correct it, or skip such rows with --skip-bad.")
        else:
            put(line)
            done.rows += 1
        if progress:
            progress(1)
    if reader.store is not None and reader.stored and reader.named:
        raise DataError(
            f"{reader.path}: {reader.named} images are paths and {len(reader.stored)} stand in the rows; "
            "make a file of each kind."
        )


def _line(
    found: tuple[int, Conversation, Trace | None], target: RowLayout, reader: Reader, done: Written
) -> dict[str, Any]:
    _, row, trace = found
    if target is RowLayout.TRACE:
        return (trace or trace_of_row(row, reader)).to_row()
    if trace is not None:
        done.lost[LOST_TRACE] += 1
    if target is RowLayout.MESSAGES:
        return messages_row(row)
    done.lost[LOST_LOSS] += sum(turn.role == "assistant" and not turn.learned for turn in row.turns)
    return row.to_disk()


def messages_row(row: Conversation) -> dict[str, Any]:
    """A row in OpenAI's layout, as LLaMA-Factory, ms-swift and trl read it (crops are viscot's notation)."""
    about = {"id": row.id, "dataset": row.dataset, "split": row.split}
    messages = []
    for turn in row.turns:
        message: dict[str, Any] = {"role": turn.role, "content": turn.text}
        if turn.role == "assistant" and not turn.learned:
            message["loss"] = False
        messages.append(message)
    named = {key: value for key, value in about.items() if value is not None}
    return {**named, "messages": messages, **({"images": list(row.image)} if row.image else {})}


def trace_of_row(row: Conversation, reader: Reader) -> Trace:
    """A row as a trace: each crop is a look, cut where training would cut it.

    Raises:
        RowError: a whole image after a crop: a trace's images come first.
    """
    wholes = list(dict.fromkeys(name for name, box in row.views() if box is None))
    names = [name for name, box in row.views() if box is None]
    first_crop = next((i for i, (_, box) in enumerate(row.views()) if box is not None), len(row.image))
    if len(names) > first_crop:
        raise RowError("trace", "images", "a whole image stands after a crop, which a trace cannot say")
    looks = []
    for number, entry in enumerate(row.image[first_crop:], 1):
        name, box = split_crop(entry)
        if name not in wholes:
            raise RowError("trace", "images", f"the crop of {name} has no whole image before it")
        assert box is not None
        looks.append(_look(entry, box, names.index(name), number, reader, name))
    said = [turn for turn in row.turns if turn.role == "assistant"]
    asked = next((turn.text for turn in row.turns if turn.role == "user"), "")
    return Trace.model_validate(
        {
            "id": row.id,
            "question": asked.replace(IMAGE, "").strip(),
            "images": names,
            "messages": [
                {"role": turn.role, "content": turn.text, **({} if turn.learned else {"learn": False})}
                for turn in row.turns
            ],
            "looks": looks,
            "answer": said[-1].text if said else "",
            "policy": "two_turn" if len(looks) == 1 else "zoom" if looks else "direct",
        }
    )


def _look(entry: str, box: Box, image: int, turn: int, reader: Reader, name: str) -> dict[str, Any]:
    try:
        window = exact_window(entry) or crop_window(box, reader.size_of(name))
    except DataError as error:
        raise RowError("image", "images", str(error)) from error
    # In a training row nothing says who named the region; that its words are learned means the model does.
    return {"box": box.coords, "crop": window, "image": image, "source": image, "turn": turn}


@contextmanager
def _list_or_lines(file: TextIO, out: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Writes rows as a JSON list, or one a line where the file's ending is ``.jsonl``."""
    if out.suffix == ".jsonl":
        yield lambda row: (file.write(json.dumps(row, ensure_ascii=False) + "\n"), None)[1]
        return
    before = "[\n"

    def put(row: dict[str, Any]) -> None:
        nonlocal before
        file.write(before + json.dumps(row, ensure_ascii=False))
        before = ",\n"

    yield put
    file.write("\n]\n" if before != "[\n" else "[]\n")
