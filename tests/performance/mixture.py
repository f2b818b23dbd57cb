"""How fast a mixture of 2.4 million rows is built, opened and read, and what memory that takes.

Run it: ``python tests/performance/mixture.py [--rows N]``. Writes about 2.7 GB of made-up rows (a JSON list,
as published mixtures are) and the mixture to a temporary folder and removes both. Prints one JSON object.

Times are CPU seconds of one process: the machine may be busy. Private memory is what no file stands behind
(Anonymous); pages of the mapped files are the system's cache, which all processes share and which it
takes back when it needs room.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

from viscot_core.data.mix import build
from viscot_core.data.mixture import Mixture, MixtureSource
from viscot_core.data.rows import raw_rows

GOALS = {"rows_per_s": 100_000, "open_s": 2.0, "private_MB": 100.0, "row_us": 10.0}
SENTENCE = "The small round thing beside the tall one is what the question asks about, and it is blue. "


def write_rows(path: Path, count: int) -> None:
    """A JSON list of ``count`` conversations of two to ten turns, about 1.1 kB each, as json.dump does."""
    draw = random.Random(0)
    kinds = [made_row(draw) for _ in range(500)]
    with path.open("w") as file:
        for number in range(count):
            row = kinds[number % len(kinds)]
            key = "question_id" if "question_id" in row else "id"
            file.write((", " if number else "[") + json.dumps(row | {key: number}))
        file.write("]")


def made_row(draw: random.Random) -> dict[str, Any]:
    """A row in one of the two layouts of the published mixture: LLaVA's, or the CoT converter's."""
    pairs = draw.choice((1, 2, 2, 3, 5))
    turns = []
    for pair in range(pairs):
        mark = "<image>\n" if pair == 0 else ""
        turns.append({"from": "human", "value": mark + SENTENCE * draw.randrange(1, 3)})
        turns.append({"from": "gpt", "value": SENTENCE * draw.randrange(1, 4) + 'a "quoted" \\ word'})
    name = f"cot/made/{draw.randrange(10**9):09d}.jpg"
    if pairs != 2:
        return {"id": 0, "image": name, "conversations": turns}
    images = [name, f"{name}###[{draw.randrange(99)}, 20, 300, 400]"]
    facts = {"dataset": "made", "split": "train", "question_id": 0}
    return {**facts, "image": images, "conversations": turns}


def private_mb() -> float:
    """Memory of this process alone, in MB; pages it only reads from files are not its own."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous")) / 1000


def read_some(folder: Path, count: int, seed: int, out: Any) -> None:
    """A loader worker's part: open, read ``count`` random rows, report times and memory."""
    before, start = private_mb(), time.process_time()
    mixture = Mixture.open(folder)
    opened = time.process_time() - start
    draw = random.Random(seed)
    wanted = [draw.randrange(len(mixture)) for _ in range(count)]
    for index in wanted[:1000]:
        mixture.raw(index)
    start = time.process_time()
    for index in wanted:
        mixture[index]
    row = (time.process_time() - start) / count
    start = time.process_time()
    for index in wanted:
        mixture.raw(index)
    raw = (time.process_time() - start) / count
    out.put((opened, row * 1e6, raw * 1e6, private_mb(), private_mb() - before))


def in_workers(folder: Path, workers: int, count: int) -> list[tuple[float, ...]]:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=read_some, args=(folder, count, n, queue)) for n in range(workers)]
    for process in processes:
        process.start()
    found = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    return found


def json_loads_us(listing: Path) -> float:
    """The yardstick: Python's json on a row. A quiet machine takes about 4 us for one of 1.1 kB."""
    rows = [row.data for row in islice(raw_rows(listing), 20_000)]
    start = time.process_time()
    for row in rows:
        json.loads(row)
    return (time.process_time() - start) / len(rows) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_400_000)
    parser.add_argument("--reads", type=int, default=100_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        listing, folder = Path(temporary) / "rows.json", Path(temporary) / "mixture"
        write_rows(listing, asked.rows)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        build(folder, [MixtureSource("made", str(listing))])
        seconds = time.process_time() - start
        yardstick = json_loads_us(listing)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000
        alone = in_workers(folder, 1, asked.reads)[0]
        four = in_workers(folder, 4, asked.reads)
        start = time.process_time()
        Mixture.open(listing)
        whole = time.process_time() - start
        result = {
            "rows": asked.rows,
            "GB": round(listing.stat().st_size / 1e9, 2),
            "rows_per_s": round(asked.rows / seconds),
            "json_loads_us": round(yardstick, 2),
            "build_grows_MB": round(grown, 1),
            "open_s": round(alone[0], 4),
            "row_us": round(alone[1], 2),
            "raw_row_us": round(alone[2], 2),
            "private_MB": round(alone[3], 1),
            "private_of_the_mixture_MB": round(alone[4], 1),
            "four_workers_private_MB": round(sum(one[3] for one in four), 1),
            "index_one_file_s": round(whole, 2),
        }
    worse = {"open_s", "private_MB", "row_us"}
    met = {k: result[k] <= goal if k in worse else result[k] >= goal for k, goal in GOALS.items()}
    print(json.dumps({**result, "goals": GOALS, "met": met}))


if __name__ == "__main__":
    main()
