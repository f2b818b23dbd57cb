"""The table of families and checks, how each calibrates, and what the last family cost, in Markdown.

    PYTHONPATH=. python tests/performance/families.py [--only qwen2.5-vl,smolvlm] [--no-calibration]

Models are tiny and random, made from a config (``support/made_families.py``); the checks are those of the
tests (``support/family_checks.py``). Random weights name no boxes, and calibration must say so; that it finds
a family's own format, as it is in images of the size that the model sees, shows an engine that writes it.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests/support")]
TORCHVISION = Path(sys.prefix) / "torchvision"
if TORCHVISION.is_dir():
    sys.path.append(str(TORCHVISION))
os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", TOKENIZERS_PARALLELISM="false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

FORMATS = ("thousand", "unit", "pixels")
"""What is tried beside a family's own box format."""


@dataclass(frozen=True)
class Ran:
    """What one command line did."""

    code: int
    out: str
    err: str


def viscot(*words: str | Path) -> Ran:
    """One command line in this process."""
    from viscot_cli.app import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    return Ran(code, out.getvalue(), err.getvalue())


def cell(check: Any, made: Any, reasons: list[str]) -> str:
    """``yes`` with its seconds, or the number of the reason below the table."""
    start = time.perf_counter()
    try:
        check(made)
    except Exception as error:
        reasons.append(f"{made.name}: {type(error).__name__}: {str(error).splitlines()[0]}")
        return f"**no** [{len(reasons)}]"
    return f"yes {time.perf_counter() - start:.1f} s"


def calibration(made: Any) -> str:
    """What calibration says of its random weights, and of a model that writes its family's own format."""
    from made_seer import Seer

    from viscot_core.boxes.registry import CODECS, codec
    from viscot_core.engines.open import EngineOptions, as_seen
    from viscot_core.tasks.calibrate import calibrate

    options, own = EngineOptions(str(made.folder)), made.loaded.family.box_format
    tried = [as_seen(codec(name), options) for name in dict.fromkeys((own or "thousand", *FORMATS))]
    noise = calibrate(made.engine, tried, count=4)
    read = sum(fit.read for fit in noise)
    fits = [fit.codec.name for fit in noise if fit.fits]
    row = f"| {made.name} | {read} of {sum(fit.replies for fit in noise)} | {', '.join(fits) or 'none'} |"
    if own is None:
        return f"{row} not certain: --box-format | |"
    every = [as_seen(each, options) for each in CODECS.values()]
    found = calibrate(Seer(as_seen(codec(own), options)), every)
    # Formats that write the same numbers in other brackets are all read.
    best = [fit.codec for fit in found if fit.mean_iou > found[0].mean_iou - 0.01]
    mine = next(each.name for each in best if each.name.partition("@")[0] == own)
    others = f" and {len(best) - 1} of its scale" if len(best) > 1 else ""
    return f"{row} {mine}{others} | {found[0].mean_iou:.3f} |"


def lines_about(file: Path, *names: str) -> int:
    """Lines of the statements that define one of ``names``, and of other lines that name one."""
    source = file.read_text(encoding="utf-8")
    found: set[int] = set()
    for node in ast.parse(source).body:
        targets = getattr(node, "targets", [])
        defined = {getattr(node, "name", None), *(getattr(target, "id", None) for target in targets)}
        if defined & set(names):
            found.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    for number, line in enumerate(source.splitlines(), 1):
        if any(name in line for name in names):
            found.add(number)
    return len(found)


def cost() -> list[str]:
    """What the last family is made of: files and lines."""
    parts = {
        "viscot_core/families/generic/backbones.py": ("_MOLMO2",),
        "tests/support/made_tile_families.py": ("make_molmo2", "MOLMO"),
        "tests/support/made_families.py": ("make_molmo2",),
    }
    counts = {file: lines_about(ROOT / file, *names) for file, names in parts.items()}
    total = f"| {len(counts)} files | {sum(counts.values())} |"
    return [
        "| Molmo 2, the last | lines |",
        "|---|---|",
        *(f"| {f} | {n} |" for f, n in counts.items()),
        total,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="families, separated by commas")
    parser.add_argument("--no-calibration", action="store_true")
    given = parser.parse_args()
    from made_parts import declare_torchvision

    kept = declare_torchvision()  # noqa: F841 - declared as long as it lives
    from family_checks import CHECKS, Made
    from made_families import FAMILIES

    names = [name for name in given.only.split(",") if name] or list(FAMILIES)
    reasons: list[str] = []
    calibrated: list[str] = []
    print("| family | " + " | ".join(CHECKS) + " |")
    print("|---" * (len(CHECKS) + 1) + "|", flush=True)
    with tempfile.TemporaryDirectory() as work:
        for name in names:
            made = Made(name, Path(work) / name, viscot)
            made.work.mkdir()
            cells = [cell(check, made, reasons) for check in CHECKS.values()]
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
            if not given.no_calibration:
                calibrated.append(calibration(made))
    print("".join(f"\n[{number}] {reason}" for number, reason in enumerate(reasons, 1)))
    if calibrated:
        print("\n| family | random weights: boxes read | what fits | its own format is | mean IoU |")
        print("|---|---|---|---|---|")
        print("\n".join(calibrated))
    print("\n" + "\n".join(cost()))


if __name__ == "__main__":
    main()
