"""How fast judge calls go: 2,000 of them against a loopback server that takes 200 ms for each.

Run it: ``python tests/performance/judge.py``. ``--faults`` prints a table instead: what became of 60
answers when a third of the requests, and when all of them, meet a fault. Otherwise it prints one JSON
object: seconds one at a time (measured on 25 calls), seconds with 32 at once, the ratio, and the client's
CPU time per call. The server is a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import socket
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

from judge_server import PASSING_FAULTS, Action, JudgeServer, completion, error
from made_runs import sample_run

from viscot_core.errors import EngineError
from viscot_core.openai_api import waiting
from viscot_core.score.base import JudgeOptions
from viscot_core.score.openai import OpenAIJudge
from viscot_core.score.scoring import score_run
from viscot_core.score.verdicts import Outcome, Pair, ScoreLog, State, Verdict, read_scores, scores_path

LATENCY = 0.2


def serve(pipe: Connection) -> None:
    """Serve until the other side of the pipe closes."""
    with JudgeServer(lambda number, body: completion("score: 0.8", delay=LATENCY)) as server:
        pipe.send(server.url)
        pipe.poll(None)


def timed(url: str, pairs: list[Pair], concurrency: int) -> tuple[float, float]:
    """Wall and CPU seconds of judging ``pairs`` and appending every verdict to a scores file."""
    with tempfile.TemporaryDirectory() as folder:
        judge = OpenAIJudge(
            "made-up",
            base_url=url,
            options=JudgeOptions(concurrency=concurrency, cache=Path(folder) / "cache"),
        )
        with ScoreLog(scores_path(Path(folder), "made-up"), judge.identity) as log:

            def done(pair: Pair, outcome: Outcome) -> None:
                assert outcome.state is State.SCORED, outcome
                log.append([Verdict("cot", "made-up", pair.question, outcome, pair.digest())])

            wall, cpu = time.perf_counter(), time.process_time()
            judge.judge(pairs, done)
            return time.perf_counter() - wall, time.process_time() - cpu


def measure(calls: int, concurrency: int) -> dict[str, float]:
    """The figures this file is about."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=serve, args=(there,), daemon=True)
    server.start()
    url = here.recv()
    pairs = [Pair(f"What number is on card {i}?", str(i), str(i)) for i in range(calls)]
    alone, _ = timed(url, pairs[:25], 1)
    wall, cpu = timed(url, pairs, concurrency)
    server.terminate()
    one_by_one = alone / 25 * calls
    return {
        "calls": calls,
        "concurrency": concurrency,
        "one_at_a_time_s": round(one_by_one, 1),
        "wall_s": round(wall, 2),
        "ratio": round(one_by_one / wall, 1),
        "cpu_ms_per_call": round(1000 * cpu / calls, 2),
    }


GOOD = completion("score: 0.5")
LASTING_FAULTS: dict[str, Action] = {
    "401": error(401),
    "404 model": error(404),
    "content filter": completion(None, finish="content_filter"),
    "unreadable verdict": completion("It is fine."),
    "two scores": completion("score: 0.2 or rather score: 0.9"),
}


def fault_table() -> str:
    """Markdown: per fault, with a third and with all requests hit, where the 60 answers of a run ended.

    *lost*: answers without a score after the same command once more, against a server that works.
    *wrongly 0*: scores in the file that the judge, which only ever says 0.5, did not give.
    """
    lines = [
        "| fault | share | requests | " + " | ".join(State) + " | lost | wrongly 0 |",
        "|---|" + "---:|" * 8,
    ]
    for name, fault in {**PASSING_FAULTS, **LASTING_FAULTS, "refused": None}.items():
        for share, words in ((3, "1/3"), (1, "all")) if fault else ((1, "all"),):
            with tempfile.TemporaryDirectory() as folder:
                cells = [name, words, *struck(Path(folder), fault, share)]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def struck(folder: Path, fault: Action | None, share: int) -> list[int]:
    """One row of the table: every ``share``-th request meets ``fault``; None: there is no server at first."""
    run = sample_run(folder / "run", items=60, strategies=("cot",))
    attempts = 8 if share > 1 else 2
    options = JudgeOptions(concurrency=8, timeout=0.3, attempts=attempts, cache=folder / "cache")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    judge = OpenAIJudge(
        "made-up",
        base_url=f"http://127.0.0.1:{port}/v1",
        options=options,
    )
    server = JudgeServer(lambda number, body: fault if fault and number % share == 0 else GOOD, port)
    with server if fault else contextlib.nullcontext(), contextlib.suppress(EngineError):
        score_run(run, judge)
    first = read_scores(scores_path(run, "openai:made-up")).verdicts.values()
    states = Counter(v.outcome.state for v in first)
    states[State.PENDING] += 60 - len(first)
    zero = sum(v.outcome.score not in (None, 0.5) for v in first)
    with JudgeServer(lambda number, body: GOOD, port):
        report = score_run(run, judge, retry_unscored=True)
    return [
        len(server.requests),
        *(states[s] for s in State),
        report.items - report.states[State.SCORED],
        zero,
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--faults", action="store_true")
    arguments = parser.parse_args()
    if arguments.faults:
        waiting.FIRST_WAIT = 0.01
        print(fault_table())
        sys.exit()
    print(json.dumps(measure(arguments.calls, arguments.concurrency)))
