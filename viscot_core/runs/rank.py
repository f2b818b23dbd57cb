"""One rank of a sharded benchmark: ``python -m viscot_core.runs.rank``, started by ``shards.launch``."""

from __future__ import annotations

import base64
import os
import pickle
import sys

from viscot_core.errors import ViscotError
from viscot_core.runs.shards import JOB, end_with_launcher
from viscot_core.terminal import visible


def main() -> int:
    """Run the job that the launching process gave (``evaluate.evaluate``)."""
    end_with_launcher()
    from viscot_core.runs.evaluate import evaluate  # late: it takes seconds

    task, engine, out, sampling = pickle.loads(base64.b64decode(os.environ[JOB]))
    try:
        evaluate(task, engine, out, sampling=sampling)
    except ViscotError as error:
        sys.stderr.write(visible(f"Error: {error}\n"))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
