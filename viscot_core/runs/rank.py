"""One rank of a sharded benchmark: ``python -m viscot_core.runs.rank JOB``, started by ``shards.launch``."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from viscot_core.errors import ViscotError
from viscot_core.tasks.benchmarks import bench_cot, bench_refcoco


def main(path: str) -> int:
    """Run the job that the parent process wrote; its other half is ``benchmarks``."""
    kind, options, more = pickle.loads(Path(path).read_bytes())
    try:
        bench_cot(options, **more) if kind == "cot" else bench_refcoco(options, **more)
    except ViscotError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
