"""Sections a and b: the benchmark end to end, and where its time goes."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from on_gpu import limits
from on_gpu.bench import Bench, OutOfTime, short
from on_gpu.capped import Capped, make_data
from on_gpu.made import IMAGE_SIZES
from on_gpu.phases import Phases, busy_shares
from on_gpu.viscot_side import open_engine, open_file, pixels_of, run_bench, shape_of


def section_a(b: Bench) -> None:
    """Two-turn questions, items/s."""
    given, lengths = b.given, b.lengths()
    work = limits.two_turn_item(
        shape_of(b.loaded.model.config),
        before=lengths["before"],
        question=lengths["question"],
        box=given.box_tokens,
        request=lengths["request"],
        answer=given.answer_tokens,
    )
    rates = {"measured": b.measured["tflops"], "800": 800.0}
    limit = {name: round(limits.items_per_second(work.total, t), 2) for name, t in rates.items()}
    b.note("a", "limit", {
        "tflop_an_item": round(work.total / 1e12, 3), "items_s_at": limit, "tokens": lengths,
        "shares": {k: round(v, 3) for k, v in work.shares().items()},
    })  # fmt: skip
    cases = [
        (IMAGE_SIZES[0], given.ways[0], b.size.items[0]),
        (IMAGE_SIZES[1], given.ways[0], b.size.items[1]),
    ]
    cases += [(IMAGE_SIZES[0], way, b.size.items[1]) for way in given.ways[1:]]
    for shown, way, items in cases:
        name = f"{shown[0]}x{shown[1]} {way}"
        if not b.enough(10 if b.cuda else 3):
            b.note("a", name, {"skipped": "no time left"})
            continue
        b.tried("a", name, lambda: _bench(b, "a", name, "cot", shown, items, way, limit["measured"]))  # noqa: B023


def section_b(b: Bench) -> None:
    """Referring expressions, nine an image."""
    lengths, given = b.lengths(), b.given
    work = limits.referring_expression(
        shape_of(b.loaded.model.config), before=lengths["before"], question=lengths["refer"],
        box=given.box_tokens, per_image=9,
    )  # fmt: skip
    limit = limits.items_per_second(work.total, b.measured["tflops"])
    b.note("b", "limit", {"tflop": round(work.total / 1e12, 3), "per_second": round(limit, 1)})
    for way in given.ways:
        images = b.size.refer if way == given.ways[0] else max(1, b.size.refer // 3)
        name = f"640x480 {way}"
        if not b.enough(8 if b.cuda else 2):
            b.note("b", name, {"skipped": "no time left"})
            continue
        b.tried("b", name, lambda: _bench(b, "b", name, "refcoco", IMAGE_SIZES[0], images, way, limit, 9))  # noqa: B023


def _bench(
    b: Bench,
    section: str,
    name: str,
    kind: str,
    shown: tuple[int, int],
    images: int,
    way: str,
    limit: float,
    expressions: int = 0,
) -> dict[str, Any]:
    """Items a second of one benchmark, and where the time goes in shorter runs with hooks and profiler.

    What was done is noted as it comes: a section that runs out of time has figures.
    """
    with b.untimed():
        root = Path(tempfile.mkdtemp(dir=b.work))
        b.forget_peak()
        engine = _capped(b, way)
        auto = engine.batch_size
        few = min(images, auto if not expressions else max(2, images // 4))
        warm = make_data(root / "warm", shown, few, expressions)
        main = make_data(root / "main", shown, images, expressions)
        begun = b.clocked(lambda: run_bench(kind, warm, root / "out-warm", engine))
    start, cpu = time.perf_counter(), time.process_time()

    def figures(done: int) -> dict[str, Any]:
        seconds, used = time.perf_counter() - start, time.process_time() - cpu
        return {
            "items": done, "seconds": round(seconds, 2), "per_second": round(done / seconds, 2),
            "of_limit": round(done / seconds / limit, 4), "batch": auto, "batch_after": engine.batch_size,
            "warm_up_s": round(begun, 2), "cpu_s_an_item": round(used / max(done, 1), 4),
            "peak_gib": b.peak(),
        }  # fmt: skip

    def so_far(done: int, of: int) -> None:
        if 0 < done < of:
            b.record["sections"].setdefault(section, {})[name] = figures(done) | {"of": of}
            b.save()

    finished, failed = run_bench(kind, main, root / "out", engine, so_far)
    b.sync()
    found = figures(finished) | {"failed": failed}
    b.record["sections"].setdefault(section, {})[name] = found
    b.save()
    if b.enough(4 if b.cuda else 0.5):
        with Phases(b.loaded.model) as phases:
            run_bench(kind, warm, root / "out-probe", _capped(b, way, engine))
        found["spans"] = phases.shares()
    if kind == "cot":
        found["image_ms"] = _image_ms(b, sorted((root / "main" / "images").iterdir())[:4])
    if b.cuda and way == b.given.ways[0] and not b.given.no_profile and b.enough(12):
        found["profile"] = _profiled(b, kind, warm, root / "out-profile", _capped(b, way, engine))
    return found


def _capped(b: Bench, way: str, used: Capped | None = None) -> Capped:
    """A new engine, or a used one that keeps nothing of images: its buffers and graphs stay."""
    engine = open_engine(b.loaded, 0, way) if used is None else used.engine
    if used is not None and engine.prefix is not None:
        engine.prefix.store.clear()
        engine.inputs.clear()
    return Capped(engine, b.given.box_tokens, b.given.answer_tokens)


def _profiled(b: Bench, kind: str, data: Path, out: Path, engine: Capped) -> dict[str, Any]:
    """As the device saw it."""
    from torch.profiler import ProfilerActivity, profile

    try:
        with profile(activities=[ProfilerActivity.CUDA]) as seen, Phases(b.loaded.model, marks=True):
            run_bench(kind, data, out, engine)
        trace = b.work / "trace.json"
        seen.export_chrome_trace(str(trace))
        return busy_shares(json.loads(trace.read_text())["traceEvents"])
    except OutOfTime:
        return {"error": "no time left"}
    except Exception as error:
        return {"error": short(error)}


def _image_ms(b: Bench, paths: Sequence[Path]) -> dict[str, float]:
    """One thread's milliseconds an image: decoding the file, and making the tower's pixels."""
    opened: list[Any] = []
    decode = b.clocked(lambda: opened.extend(open_file(path) for path in paths))
    resize = b.clocked(lambda: [pixels_of(image, b.size.side) for image in opened])
    return {"decode": round(1000 * decode / len(paths), 2), "pixels": round(1000 * resize / len(paths), 2)}
