"""Load on ``viscot serve``: 32 clients, 500 questions on loopback, against one client asking one by one.

    python tests/performance/serve.py [--model DIR] [--clients 32] [--requests 500] [--data ROOT] [--stream]
                                      [--vllm-python .vllm/bin/python]

Every request is an image of its own (a made scene), so no cache helps; both runs ask a fresh server. Nothing
may be lost, and the answers of the crowd must be those of the lone client. With --stream the crowd's answers
come as streams; the time to their first words is told too. With --vllm-python the same crowd also asks the
same chain over vLLM, in float32 as the transformers engine on a CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from viscot_core.data.synth import write_dataset

GOAL = 3.0
SEED = 99


@dataclass(frozen=True)
class Reply:
    """What one request got: status (0: no reply), its text, seconds to its end and to its first word."""

    status: int
    text: str | None
    seconds: float
    first: float = 0.0


@dataclass(frozen=True)
class Round:
    """All replies of a run, in the order of the questions, its wall time and the server's own figures."""

    replies: list[Reply]
    seconds: float
    metrics: dict[str, float]

    @property
    def rate(self) -> float:
        return len(self.replies) / self.seconds

    def percentile(self, share: float, *, first: bool = False) -> float:
        times = sorted(reply.first if first else reply.seconds for reply in self.replies)
        return times[min(int(share * len(times)), len(times) - 1)]

    @property
    def lost(self) -> int:
        return sum(reply.status != 200 for reply in self.replies)


def bodies(folder: Path, count: int) -> list[dict[str, Any]]:
    """Requests about the first ``count`` images of a data root, which is made where there is none."""
    if not (folder / "benchmark" / "synth.json").exists():
        write_dataset(folder, train=0, val=count, seed=SEED)
    rows = json.loads((folder / "benchmark" / "synth.json").read_text())[:count]
    out = []
    for row in rows:
        images = row["image"] if isinstance(row["image"], list) else [row["image"]]
        image = (folder / images[0].partition("###")[0]).read_bytes()
        url = "data:image/jpeg;base64," + base64.b64encode(image).decode()
        text = row["conversations"][0]["value"].replace("<image>", "").partition("Please provide")[0].strip()
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
        out.append({"messages": [{"role": "user", "content": parts}], "max_tokens": 16})
    return out


@contextmanager
def server(model: str | None, queue: int, engine: Sequence[str] = ()) -> Iterator[str]:
    """The address of a ``viscot serve`` in a process of its own; it must leave well on SIGTERM."""
    command = [sys.executable, "-m", "viscot_cli.app", "serve", "--port", "0", "--queue", str(queue)]
    command += ["--timeout", "600", *(["--model", model] if model else []), *engine]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.search(r"http://[\d.:]+(?=/v1)", line):
                break
        else:
            raise SystemExit("the server did not start")
        yield found[0]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


async def ask(http: httpx.AsyncClient, url: str, body: dict[str, Any]) -> Reply:
    """One question, streamed where its body says so."""
    start = time.perf_counter()
    words: list[str] = []
    first = 0.0
    try:
        async with http.stream("POST", f"{url}/v1/chat/completions", json=body) as got:
            if got.status_code == 200 and body.get("stream"):
                async for line in got.aiter_lines():
                    if not line.startswith("data: {"):
                        continue
                    event = json.loads(line.removeprefix("data: "))
                    if "error" in event:
                        return Reply(0, None, time.perf_counter() - start)
                    if word := event["choices"][0]["delta"].get("content"):
                        first = first or time.perf_counter() - start
                        words.append(word)
            elif got.status_code == 200:
                words.append(json.loads(await got.aread())["choices"][0]["message"]["content"])
    except httpx.HTTPError:
        return Reply(0, None, time.perf_counter() - start)
    return Reply(got.status_code, "".join(words), time.perf_counter() - start, first)


async def ask_all(url: str, questions: Sequence[dict[str, Any]], clients: int) -> Round:
    """Each of ``clients`` asks its next question when its last one is answered."""
    replies: list[Reply | None] = [None] * len(questions)
    numbers = iter(range(len(questions)))

    async def client() -> None:
        async with httpx.AsyncClient(timeout=600, trust_env=False) as http:
            for number in numbers:
                replies[number] = await ask(http, url, questions[number])

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    seconds = time.perf_counter() - start
    text = httpx.get(f"{url}/metrics", trust_env=False).text
    metrics = {
        name: float(value)
        for name, value in (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    }
    return Round([reply for reply in replies if reply], seconds, metrics)


def measure(
    model: str | None, questions: Sequence[dict[str, Any]], clients: int, engine: Sequence[str] = ()
) -> Round:
    """One run against a fresh server with the options ``engine``, after a few questions that warm it up."""
    with server(model, max(64, 2 * clients), engine) as url:
        asyncio.run(ask_all(url, questions[-4:], 4))
        return asyncio.run(ask_all(url, questions, clients))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--alone", type=int, default=100, help="questions of the lone client")
    parser.add_argument("--stream", action="store_true", help="the crowd's answers come as streams")
    parser.add_argument("--data", type=Path, help="a root of 'viscot data synth' instead of made images")
    parser.add_argument("--vllm-python", help="an interpreter with vLLM: the crowd asks it too")
    options = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with TemporaryDirectory(prefix="viscot-serve-") as name:
        questions = bodies(options.data or Path(name), options.requests)
    alone = measure(options.model, questions[: options.alone], 1)
    asked = [{**each, "stream": options.stream} for each in questions]
    crowd = measure(options.model, asked, options.clients)
    same = sum(a.text == b.text for a, b in zip(alone.replies, crowd.replies, strict=False))
    prompts, batches = (crowd.metrics[f"viscot_batch_prompts_{what}"] for what in ("sum", "count"))
    facts: dict[str, Any] = {
        "requests": len(crowd.replies),
        "lost": crowd.lost + alone.lost,
        "alone: questions a second": round(alone.rate, 2),
        "alone: p50, p95 s": (round(alone.percentile(0.5), 3), round(alone.percentile(0.95), 3)),
        f"{options.clients} clients: questions a second": round(crowd.rate, 2),
        f"{options.clients} clients: p50, p95 s": (
            round(crowd.percentile(0.5), 3),
            round(crowd.percentile(0.95), 3),
        ),
        "times as many": round(crowd.rate / alone.rate, 2),
        "prompts in a batch, mean": round(prompts / batches, 1),
        "answers as the lone client's": f"{same} of {len(alone.replies)}",
    }
    if options.stream:
        first = tuple(round(crowd.percentile(share, first=True), 3) for share in (0.5, 0.95))
        facts[f"{options.clients} clients: first word p50, p95 s"] = first
    if options.vllm_python:
        engine = ["--engine", "vllm", "--python", options.vllm_python, "--dtype", "fp32"]
        beside = measure(options.model, asked, options.clients, engine)
        facts["vLLM: questions a second"] = round(beside.rate, 2)
        facts["vLLM: p50, p95 s"] = (round(beside.percentile(0.5), 3), round(beside.percentile(0.95), 3))
        facts["vLLM: times the transformers engine"] = round(beside.rate / crowd.rate, 2)
        equal = sum(a.text == b.text for a, b in zip(crowd.replies, beside.replies, strict=True))
        facts["vLLM: answers as the other's, lost"] = (f"{equal} of {len(asked)}", beside.lost)
    for what, figure in facts.items():
        print(f"{what:36} {figure}")
    if facts["lost"] or crowd.rate < GOAL * alone.rate or same != len(alone.replies):
        raise SystemExit("a goal is missed")


if __name__ == "__main__":
    main()
