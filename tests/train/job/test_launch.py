"""Starting a run: which machine, how machines meet, what is told when a rank dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from viscot_core.errors import UsageError
from viscot_core.train.job import launch
from viscot_core.train.plan.plan_types import Rendezvous


def test_the_rank_that_died_first_is_shown_first(tmp_path: Path) -> None:
    for rank, when in ((0, 20), (1, 10)):
        place = tmp_path / "job/attempt_0" / str(rank)
        place.mkdir(parents=True)
        (place / "stderr.log").write_text(f"line of rank {rank}\n")
        said = {"message": {"message": f"Error: rank {rank} fell", "extraInfo": {"timestamp": when}}}
        (place / "error.json").write_text(json.dumps(said))
    told = launch.failure([tmp_path / "job"], 1)
    assert told.startswith("Rank 1 failed and all ranks were stopped: Error: rank 1 fell")
    assert "| line of rank 1" in told and str(tmp_path / "job/attempt_0/1/stderr.log") in told
    assert "code 9" in launch.failure([], 9)


def test_a_rank_that_dies_ends_the_run(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(Exception, match="stopped with code 3"):
        launch._run_ranks([sys.executable, "-c", "raise SystemExit(3)"], tmp_path)
    assert time.monotonic() - start < 20


def test_ctrl_c_reaches_the_ranks(tmp_path: Path) -> None:
    threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        launch._run_ranks([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path)
    assert time.monotonic() - start < 30


def test_a_port_in_use_is_told_at_second_0() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UsageError, match=r"Port \d+ of 127\.0\.0\.1 is in use"):
            launch._require_port(Rendezvous(endpoint))
        for elsewhere in (Rendezvous(endpoint, node_rank=1), Rendezvous(endpoint, options=("is_host=0",))):
            launch._require_port(elsewhere)
    launch._require_port(Rendezvous("203.0.113.9:29500"))  # another machine's address
    with pytest.raises(UsageError, match="HOST:PORT"):
        launch._require_port(Rendezvous("host"))


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"gpus": 8, "gpu_memory": 80.0, "processes": 2}, "--processes is for machines without GPUs"),
        ({"gpus": 0, "gpu_memory": 80.0}, "--gpu-memory describes a GPU and none is used"),
        ({"gpus": 0, "gpu_name": "A100"}, "--gpu describes a GPU and none is used"),
    ],
)
def test_what_does_not_count_on_a_machine_is_refused(asked: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        launch.this_machine(**asked, must_exist=False)


@pytest.mark.parametrize(
    "option", [("--node-rank", "1"), ("--rdzv-id", "a"), ("--rdzv-conf", "a=b"), ("--local-addr", "10.0.0.1")]
)
def test_how_machines_meet_needs_a_place(option: tuple[str, str], cli: Callable[..., Any]) -> None:
    ran = cli("train", "--recipe", "tiny", "--dry-run", *option)
    assert ran.code == 2 and f"{option[0]} only goes with --rdzv" in ran.err
    ran = cli("train", "--recipe", "tiny", "--dry-run", "--rdzv", "host:29500", "--nnodes", "2", *option)
    assert "only goes with" not in ran.err and "--nnodes=2" in ran.out
