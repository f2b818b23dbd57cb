"""How much faster the benchmark is than the reference's procedure, on the same weights and images.

``python tests/performance/bench.py cot``        two-turn questions, CPU seconds an item
``python tests/performance/bench.py refcoco``    8 and 16 expressions an image, CPU seconds an expression
``python tests/performance/bench.py command``    the whole command against one process per pass and data set
``python tests/performance/bench.py reference``  one such pass (what ``command`` starts)

The reference's procedure: one process per pass, one prompt at a time, every image decoded and encoded
whenever a prompt shows it, nothing kept; *batched* is the same with as many prompts together as the engine
takes, as a script around transformers' ``generate`` would do it. Texts of all ways are compared. ``--model``
is a checkpoint folder; without it a random model of 17 M parameters that reads 336 px (576 tokens) is made,
and ``--new`` tokens are said (a random model never ends by itself). One thread, CPU time: a busy machine
distorts little. One JSON object is printed.
"""

from __future__ import annotations

import argparse
import gc
import json
import operator
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from bench_data import make_data, make_model
from bench_reference import Reference, one_pass

from viscot_core.engines.transformers.engine import LocalEngine
from viscot_core.models.load import LoadedModel, load_model
from viscot_core.runs.answering import Pending, answer_queries
from viscot_core.runs.loop import _batches
from viscot_core.runs.opening import Query, open_items
from viscot_core.runs.records import Prediction
from viscot_core.tasks.base import Item, Task
from viscot_core.tasks.refcoco import RefCoco, load_refcoco
from viscot_core.tasks.visual_cot.task import VisualCot, load_visual_cot


def measure_cot(loaded: LoadedModel, root: Path, new: int, batch: int) -> dict[str, Any]:
    """CPU seconds an item of the two-turn benchmark, both ways."""
    items = load_visual_cot(root).items
    engine = LocalEngine(loaded, batch_size=batch)
    engine.generate([])

    def slowly(together: int) -> list[tuple[str, str]]:
        reference = Reference(loaded, new, together)
        boxes = reference.detect(items)
        return list(zip(boxes, reference.answer(items, boxes), strict=True))

    def quickly() -> list[Prediction | Pending]:
        return _ask(VisualCot, engine, "cot", _chunks(items, engine.batch_size), new)

    Reference(loaded, new).detect(items[:1])  # the first call pays for set-up on either side
    return _compare(slowly, quickly, len(items), lambda p: (p.box_text, p.answer), engine.batch_size)


def measure_refcoco(loaded: LoadedModel, root: Path, new: int, batch: int) -> dict[str, Any]:
    """CPU seconds an expression, both ways."""
    items = load_refcoco(root).items
    Reference(loaded, new).refer(items[:1])
    engine = LocalEngine(loaded, batch_size=batch)

    def quickly() -> list[Prediction | Pending]:
        batches = _batches([(item, ()) for item in items], engine.batch_size, by_image=True)
        return _ask(RefCoco, engine, "refcoco", [[item for item, _ in batch] for batch in batches], new)

    def slowly(together: int) -> list[str]:
        return Reference(loaded, new, together).refer(items)

    return _compare(slowly, quickly, len(items), lambda p: p.box_text, engine.batch_size)


def _ask(
    task: type[Task], engine: LocalEngine, strategy: str, chunks: Sequence[Sequence[Item]], new: int
) -> list[Prediction | Pending]:
    """What ``runs.loop`` does with each batch, one batch at a time."""
    settings = {"max_new_tokens": new}
    batches = ([Query(loaded, strategy) for loaded in open_items(chunk)] for chunk in chunks)
    return [found for batch in batches for found in answer_queries(task, settings, engine, batch)]


def _chunks(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _forget_peak() -> None:
    """The kernel counts peak memory anew from what is resident now, so that each way is judged by its own."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_mib() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _compare(slowly: Any, quickly: Any, count: int, text: Any, batch: int) -> dict[str, Any]:
    """The reference's way, the same in batches of the engine's size, and the engine's."""
    seconds, said, peaks = {}, {}, {}
    ways = {
        "reference": lambda: slowly(1),
        "batched": lambda: slowly(batch),
        "viscot": lambda: [text(each) for each in quickly() if isinstance(each, Prediction)],
    }
    for name, work in ways.items():
        _forget_peak()
        start = time.process_time()
        said[name] = work()
        seconds[name] = time.process_time() - start
        peaks[name] = _peak_mib()
    return {
        "items": count,
        "batch": batch,
        **{f"{name}_cpu_s": round(spent / count, 4) for name, spent in seconds.items()},
        "ratio": round(seconds["reference"] / seconds["viscot"], 2),
        "ratio_batched": round(seconds["batched"] / seconds["viscot"], 2),
        "same_text": sum(map(operator.eq, said["reference"], said["viscot"])),
        "same_text_batched": sum(map(operator.eq, said["reference"], said["batched"])),
        **{f"peak_MiB_{name}": round(peak) for name, peak in peaks.items()},
    }


def measure_command(model: Path, root: Path, out: Path, new: int, sets: int, each: int) -> dict[str, Any]:
    """Wall and CPU seconds of one command against one process per pass and data set."""
    names = [f"set{number}" for number in range(sets)]
    for name in names:
        make_data(root, images=each, expressions=1, name=name)
    me = [
        sys.executable,
        str(Path(__file__).resolve()),
        "reference",
        "--model",
        str(model),
        "--new",
        str(new),
    ]
    start = _children()
    for name in names:
        for kind in ("detect", "answer"):
            rest = ["--data", str(root), "--dataset", name, "--kind", kind, "--out", str(out / name)]
            subprocess.run([*me, *rest], check=True)
    reference = _since(start)
    command = ["bench", "cot", "--model", str(model), "--data", str(root), "--out", str(out / "run")]
    start = _children()
    subprocess.run(
        [
            sys.executable,
            "-m",
            "viscot_cli.app",
            *command,
            "--max-new-tokens",
            str(new),
            "--max-truncated",
            "1",
        ],
        check=True,
    )
    viscot = _since(start)
    return {
        "data_sets": sets,
        "items": sets * each,
        "reference_wall_s": round(reference[0], 1),
        "viscot_wall_s": round(viscot[0], 1),
        "ratio_wall": round(reference[0] / viscot[0], 2),
        "reference_cpu_s": round(reference[1], 1),
        "viscot_cpu_s": round(viscot[1], 1),
        "ratio_cpu": round(reference[1] / viscot[1], 2),
    }


def _children() -> tuple[float, float]:
    """Wall seconds now, and CPU seconds of all child processes so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter(), used.ru_utime + used.ru_stime


def _since(start: tuple[float, float]) -> tuple[float, float]:
    wall, cpu = _children()
    return wall - start[0], cpu - start[1]


def main() -> None:
    """Measure what is asked for and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["cot", "refcoco", "command", "reference"])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--new", type=int, default=18, help="tokens said at most: a box is about 17")
    parser.add_argument("--batch", type=int, default=0, help="0: what fits")
    parser.add_argument(
        "--sets", type=int, default=11, help="command: the reference scripts' number of data sets"
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--dataset")
    parser.add_argument("--kind", choices=["detect", "answer"])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if args.what == "reference":
        one_pass(args.model, args.data, args.dataset, args.kind, args.out, args.new)
        return
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or make_model(Path(folder) / "random-17m")
        found: dict[str, Any] = {
            "model": model.name,
            "new_tokens": args.new,
            "threads": torch.get_num_threads(),
        }
        if args.what == "command":
            (Path(folder) / "out").mkdir()
            found["command"] = measure_command(
                model, Path(folder) / "data", Path(folder) / "out", args.new, args.sets, args.images
            )
        else:
            loaded = load_model(model, device="cpu")
            for number in [1] if args.what == "cot" else [8, 16]:
                root = make_data(Path(folder) / f"data{number}", images=args.images, expressions=number)
                measure = measure_cot if args.what == "cot" else measure_refcoco
                found[f"{args.what}_{number}"] = measure(loaded, root, args.new, args.batch)
        print(json.dumps(found))


if __name__ == "__main__":
    main()
