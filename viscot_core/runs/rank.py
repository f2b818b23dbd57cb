"""One rank of a sharded benchmark: ``python -m viscot_core.runs.rank JOB``, started by ``shards.launch``."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from viscot_core.errors import ViscotError
from viscot_core.runs.shards import end_with_launcher
from viscot_core.terminal import visible


def main(path: str) -> int:
    """Run the job that the parent process wrote (``evaluate.evaluate``)."""
    end_with_launcher()
    from viscot_core.runs.evaluate import evaluate  # late: it takes seconds

    task, engine, out = pickle.loads(Path(path).read_bytes())
    try:
        evaluate(task, engine, out)
    except ViscotError as error:
        sys.stderr.write(visible(f"Error: {error}\n"))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
