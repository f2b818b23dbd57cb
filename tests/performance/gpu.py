"""Every figure that only a GPU can give, from random weights of the real shapes, in one run of some minutes.

    python tests/performance/gpu.py [--minutes 8] [--only a,b,c,d,e,f,g] [--size 7b|toy] [--device cuda|cpu]
        [--ways graphs,static,growing,unfused] [--no-profile]

a  the benchmark of two-turn questions end to end, items/s and where the time goes, beside the counted limit
b  referring expressions a second, nine an image
c  milliseconds of a decoding step at 1, 16 and 48 rows, beside what the memory's bandwidth allows
d  transformers' own ``generate`` on the same prompts
e  training steps of stage 2 (LoRA at full depth; full fine-tuning at full width with few layers): tokens/s,
   MFU, peak memory beside the plan's estimate; padded, packed, one row, with and without recomputation
f  how far bf16, other attention kernels and quantised weights are from fp32: logits and greedy texts
g  peak memory beside what the project estimates

The sections run in the order given, each with a time limit, in a process of their own that is started again
behind a section that died; ``--out FILE.json`` is rewritten after each (``--add``: what it holds of other
sections stays). The last lines are one table. Random weights say garbage and never an end token: a box is
``--box-tokens``, an answer ``--answer-tokens`` long. ``--size toy --device cpu`` runs all of it in two
minutes on two cores.

*MFU* is useful FLOP over seconds and the card's dense 16-bit peak (``limits``: products with weights, causal
attention counted by pairs, the head at supervised positions; recomputation and padding are not useful).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Other scripts of this folder have names of libraries: it comes last.
sys.path[:] = [
    str(HERE.parents[1]),
    *(p for p in sys.path if Path(p or ".").resolve() != HERE),
    str(HERE),
]

from on_gpu.made import SIZES  # noqa: E402
from on_gpu.table import table  # noqa: E402
from on_gpu.viscot_side import WAYS  # noqa: E402
from on_gpu.watching import SECONDS, watch, worker  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--only", default="a,b,c,d,e,f,g", help="sections in the order they run")
    parser.add_argument("--size", choices=list(SIZES), default="7b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--add", action="store_true", help="keep the other sections that --out holds")
    parser.add_argument("--box-tokens", type=int, default=29, help="a box in LLaMA's tokens (28) and its end")
    parser.add_argument("--answer-tokens", type=int, default=6)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument(
        "--ways",
        default="graphs",
        help="of decoding: graphs,static,growing,unfused (graphs of plain kernels); the first for all",
    )
    parser.add_argument("--no-profile", action="store_true", help="sections a and b without a device profile")
    given = parser.parse_args()
    given.ways = given.ways.split(",")
    if unknown := [way for way in given.ways if way not in WAYS]:
        parser.error(f"there is no way {unknown[0]}; there are {', '.join(WAYS)}")
    given.only = [s.strip() for s in given.only.split(",") if s.strip()]
    if unknown := [s for s in given.only if s not in SECONDS]:
        parser.error(f"there is no section {unknown[0]}; there are {', '.join(SECONDS)}")
    if given.worker:
        worker(given)
        return
    record = watch(given)
    print(table(record), flush=True)
    sys.exit(1 if record["errors"] else 0)


if __name__ == "__main__":
    main()
