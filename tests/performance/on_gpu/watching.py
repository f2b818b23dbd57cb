"""The process that runs the sections, and the one that watches it: a section that dies ends itself only."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from on_gpu.answering import section_a, section_b
from on_gpu.bench import Bench, short
from on_gpu.decoding import section_c, section_d
from on_gpu.memory import section_g
from on_gpu.precision import section_f
from on_gpu.training import section_e

ENTRY = Path(__file__).resolve().parents[1] / "gpu.py"
SECONDS = {"a": 70, "b": 40, "c": 40, "d": 40, "e": 95, "f": 70, "g": 10}
"""A section's longest at ``--minutes 8``; loading and warming up are not counted."""
GRACE = 20.0  # between the alarm inside a section and the end of its process

RUNS = {
    "a": section_a,
    "b": section_b,
    "c": section_c,
    "d": section_d,
    "e": section_e,
    "f": section_f,
    "g": section_g,
}


def worker(given: argparse.Namespace) -> None:
    """Run sections into the state file until the time is up."""
    import torch

    if given.device == "cpu":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    bench = Bench(given, given.worker)
    record = bench.record
    record["device"] = torch.cuda.get_device_name() if bench.cuda else "cpu"
    import transformers

    record["versions"] = {"python": sys.version.split()[0], "torch": torch.__version__,
                          "transformers": transformers.__version__}  # fmt: skip
    try:
        for section in given.only:
            if section not in "eg":
                bench.loaded  # noqa: B018 - loading is no section's time
            bench.measured  # noqa: B018
            limit = min(SECONDS[section] * given.minutes / 8, record["ends"] - time.time() - 3)
            if limit < 3:
                record["errors"][section] = "no time left"
                bench.save()
                continue
            record["running"] = {"section": section, "since": time.time(), "limit": limit}
            bench.save()
            print(f"section {section}, at most {limit:.0f} s", flush=True)
            start = time.time()
            try:
                with bench.limited(limit):
                    RUNS[section](bench)
            except Exception as error:
                record["errors"][section] = short(error)
                traceback.print_exc()
            if section in record["errors"]:
                bench.unload()
            record["done"].append(section)
            record["seconds"][section] = round(time.time() - start, 1)
            record["running"] = None
            bench.save()
    finally:
        shutil.rmtree(bench.work, ignore_errors=True)


def watch(given: argparse.Namespace) -> dict[str, Any]:
    """Start the worker, and again behind a section that killed it or outlived its limit."""
    state = given.out.resolve()
    before = json.loads(state.read_text()) if given.add and state.exists() else {}
    begun, ends = time.time(), time.time() + 60 * given.minutes
    record: dict[str, Any] = {
        "size": given.size, "asked_device": given.device, "box_tokens": given.box_tokens,
        "answer_tokens": given.answer_tokens, "ends": ends, "sections": {}, "errors": {}, "seconds": {},
        "done": [], "running": None,
    }  # fmt: skip
    for name in ("measured", "load", "installed"):
        record |= {name: before[name]} if name in before else {}
    for name in ("sections", "seconds"):
        record[name] = {k: v for k, v in before.get(name, {}).items() if k not in given.only}
    state.write_text(json.dumps(record))
    left, idle = list(given.only), 0
    while left and time.time() < ends - 5 and idle < 2:
        words = [sys.executable, "-u", str(ENTRY), "--worker", str(state), "--only", ",".join(left)]
        for name in ("minutes", "size", "device", "box_tokens", "answer_tokens", "ways"):
            words += [f"--{name.replace('_', '-')}", text_of(getattr(given, name))]
        words += ["--no-profile"] if given.no_profile else []
        child = subprocess.Popen(words, start_new_session=True, env=environment(given.device))
        why = "its process died"
        while child.poll() is None:
            time.sleep(0.5)
            now = json.loads(state.read_text())["running"]
            late = now and time.time() > now["since"] + now["limit"] + GRACE
            if late or time.time() > ends + GRACE:
                why = "its process was ended: it did not stop in time"
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        record = json.loads(state.read_text())
        now = record["running"]
        if now:
            record["errors"][now["section"]] = f"{why} (exit code {child.returncode})"
            record["done"].append(now["section"])
            record["running"] = None
        idle = 0 if now or child.returncode == 0 else idle + 1
        if child.returncode and not now:
            record["errors"]["start"] = f"the worker ended with exit code {child.returncode} before a section"
        state.write_text(json.dumps(record, indent=1))
        left = [s for s in left if s not in record["done"] and s not in record["errors"]]
    record["wall_s"] = round(time.time() - begun, 1)
    for section in left:
        record["errors"].setdefault(section, "no time left")
    state.write_text(json.dumps(record, indent=1))
    return record


def text_of(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def environment(device: str) -> dict[str, str]:
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
             "TQDM_DISABLE": "1"}  # fmt: skip
    if device == "cpu":
        quiet["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
    return {**os.environ, **quiet}
