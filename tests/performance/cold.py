"""How long a first answer takes beside what nobody can save: importing torch and the model's class.

    python tests/performance/cold.py [--pairs 7] [--image IMAGE] [--question WORDS]

Each pair runs both in processes of their own, one after the other, so that a busy minute meets both. CPU
seconds (user and system) and wall seconds are printed as one JSON object: the middle of each way, and the
middle of the pairs' ratios. ``answer`` is ``viscot infer`` of the bundled model.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

EXAMPLES = Path(__file__).resolve().parents[2] / "viscot_core" / "examples"
IMPORTS = "import torch; from transformers import LlavaForConditionalGeneration"


def seconds(command: list[str]) -> tuple[float, float]:
    """CPU and wall seconds of a process and its children."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--image", type=Path, default=min(EXAMPLES.glob("*.jpg")))
    parser.add_argument("--question", default="what is written on the green card?")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # An installed package is compiled once; without this, a checkout's would be compiled at every start.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    ways = {
        "imports": [sys.executable, "-c", IMPORTS],
        "answer": [sys.executable, "-m", "viscot_cli.app", "infer", str(given.image), given.question],
    }
    for command in ways.values():
        seconds(command)  # files into the system's cache
    taken = [{name: seconds(command) for name, command in ways.items()} for _ in range(given.pairs)]
    found: dict[str, object] = {"pairs": given.pairs}
    for place, kind in enumerate(("cpu", "wall")):
        for name in ways:
            found[f"{name}_{kind}_s"] = round(median(one[name][place] for one in taken), 2)
        ratios = sorted(one["answer"][place] / one["imports"][place] for one in taken)
        found[f"ratio_{kind}"] = round(median(ratios), 3)
        found[f"ratio_{kind}_range"] = [round(ratios[0], 2), round(ratios[-1], 2)]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
