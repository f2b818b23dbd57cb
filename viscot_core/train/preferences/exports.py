"""Questions and pairs as other projects' reinforcement reads them: verl and ms-swift.

======== =================================================================================== ==============
format   a row                                                                               from
======== =================================================================================== ==============
verl     ``{data_source, prompt, images, ability, reward_model, extra_info}``, one parquet   traces
ms-swift ``{messages, images, solution}``, JSONL: the question and what it is compared with  traces
ms-swift ``{messages, images, rejected_response}``, JSONL: the preferred reply is the last   pairs
======== =================================================================================== ==============

Sources: verl's examples/data_preprocess/geo3k.py and utils/dataset/vision_utils.py (an image is
``{"image": "file:///path"}``), ms-swift's "Custom dataset" and "Complete Multimodal GRPO Experiment
Workflow".
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from viscot_core.data.annotations import split_crop
from viscot_core.data.rows import raw_rows
from viscot_core.data.traces.carriers import is_trace_file
from viscot_core.data.traces.trace import Trace, read_traces
from viscot_core.errors import DataError, UsageError
from viscot_core.files import atomic_path, atomic_write
from viscot_core.paths import inside
from viscot_core.resources import install_line
from viscot_core.train.preferences.pairs import PreferencePair, read_pairs

Trainer = Literal["verl", "ms-swift"]
ENDINGS: dict[Trainer, str] = {"verl": ".parquet", "ms-swift": ".jsonl"}


@dataclass
class Exported:
    """How many rows were written, and why others were not."""

    rows: int = 0
    left_out: list[str] = field(default_factory=list)


def export(file: Path, to: Trainer, out: Path, images: Path) -> Exported:
    """Write the questions of traces, or pairs, as rows of another project; several traces of one question are
    one row. Images are named by their whole paths, and must be there.

    Raises:
        DataError: the file holds neither, or nothing of it can be written.
        UsageError: pairs for verl, another ending than the format's, or pyarrow is missing.
    """
    if out.suffix != (ending := ENDINGS[to]):
        raise UsageError(f"{to} reads {ending} files and --out is {out.name}; write {out.stem}{ending}.")
    done, rows = Exported(), list[dict[str, Any]]()
    for found in _rows(file, to, images):
        if isinstance(found, str):
            done.left_out.append(found)
        else:
            rows.append(found)
    if not rows:
        raise DataError(f"{file}: no row can be written: {(done.left_out or ['it has none'])[0]}.")
    done.rows = len(rows)
    if to == "verl":
        _write_parquet(out, rows)
        return done
    with atomic_write(out) as lines:
        lines.writelines(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    return done


def _rows(file: Path, to: Trainer, images: Path) -> Iterator[dict[str, Any] | str]:
    if is_trace_file(file):
        asked = set()
        for number, trace in enumerate(read_traces(file), 1):
            if (key := (trace.question, trace.images)) in asked:
                continue
            asked.add(key)
            try:
                yield _question(trace, to, images, len(asked) - 1)
            except DataError as error:
                yield f"trace {number}: {error}"
        return
    first = next(iter(raw_rows(file)), None)
    if first is None or b'"rejected"' not in first.data:
        raise DataError(f"{file} holds neither traces (viscot bench, infer --trace) nor pairs (data prefs).")
    if to == "verl":
        raise UsageError("verl reads questions, not pairs; give it traces, or write pairs --to ms-swift.")
    for number, pair in enumerate(read_pairs(file), 1):
        try:
            yield _pair(pair, images)
        except DataError as error:
            yield f"pair {number}: {error}"


def _question(trace: Trace, to: Trainer, images: Path, number: int) -> dict[str, Any]:
    """What was asked, without what was said. Raises DataError where nothing can be compared with it."""
    if not (trace.reference or "").strip():
        raise DataError("it has no reference answer to compare with")
    places = [_place(images, path) for path in trace.images]
    before = next((n for n, message in enumerate(trace.messages) if message.role == "assistant"), None)
    prompt = [{"role": m.role, "content": m.content} for m in trace.messages[:before]]
    if to == "ms-swift":
        return {"messages": prompt, "images": [str(place) for place in places], "solution": trace.reference}
    about: dict[str, Any] = {"split": "train", "index": number, "question": trace.question}
    about |= {"answer": trace.reference, "box": list(trace.reference_box or ())}
    return {
        "data_source": "viscot",
        "prompt": prompt,
        "images": [{"image": place.as_uri()} for place in places],
        "ability": "visual_question_answering",
        "reward_model": {"style": "rule", "ground_truth": trace.reference},
        "extra_info": about,
    }


def _pair(pair: PreferencePair, images: Path) -> dict[str, Any]:
    if any(split_crop(name)[1] is not None for name in pair.images):
        raise DataError("it shows a crop, for which there is no file")
    messages = [{"role": m.role, "content": m.content} for m in (*pair.prompt, *pair.chosen)]
    places = [str(_place(images, name)) for name in pair.images]
    return {"messages": messages, "images": places, "rejected_response": pair.rejected[0].content}


def _place(images: Path, name: str) -> Path:
    place = inside(images, name).absolute()
    if not place.is_file():
        raise DataError(f"its image {name} is not under {images}")
    return place


def _write_parquet(out: Path, rows: list[dict[str, Any]]) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError(f"verl reads parquet, which pyarrow writes: {install_line(['pyarrow'])}.") from error
    with atomic_path(out) as partial:
        parquet.write_table(pyarrow.Table.from_pylist(rows), partial)
