"""The processes of one job: joining, and letting the first one do what must be done once."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed


def join() -> None:
    """Join the job that torchrun started (nothing to do without it)."""
    if "RANK" in os.environ and not distributed.is_initialized():
        gpu = torch.cuda.is_available()
        if gpu:
            # NCCL uses the current device, which is GPU 0 in every process until then.
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        # The first rank may take its time over a cache while the others wait.
        distributed.init_process_group("nccl" if gpu else "gloo", timeout=timedelta(hours=2))


def leave() -> None:
    """Leave the job and end this process; returns only where there is no job.

    torch's threads of gloo release what they received, and need Python's lock for it: a thread that asks for
    the lock while Python shuts down aborts the process ("terminate called without an active exception"), and
    torchrun reports a finished run as a crash. DeepSpeed's model keeps the groups alive past
    ``destroy_process_group``, so the threads are always there. All that Python does at an exit is done here
    first, except for taking its modules down.
    """
    if distributed.is_initialized():
        distributed.destroy_process_group()
        threading._shutdown()  # type: ignore[attr-defined]  # as multiprocessing ends its processes
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(0)


def rank() -> int:
    """This process's number in the job, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def count() -> int:
    """Processes in the job."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


@contextmanager
def first_alone() -> Iterator[None]:
    """The first process runs the block alone, then all others run it and find its files."""
    if rank() != 0:
        wait()
    # Where the block raises here, the barrier below is not reached: the others wait until torchrun ends them.
    yield
    if rank() == 0:
        wait()


def wait() -> None:
    """Wait for every process of the job."""
    if distributed.is_initialized():
        distributed.barrier()


def agree(problem: str | None) -> str | None:
    """The first rank's problem, on every rank, so that all stop together; None where it has none."""
    box = [problem]
    if distributed.is_initialized():
        distributed.broadcast_object_list(box, src=0)
    return box[0]
