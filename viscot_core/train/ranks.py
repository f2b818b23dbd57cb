"""The processes of one job: joining, and letting the first one do what must be done once."""

from __future__ import annotations

import os
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
    """Leave the job properly, so that the others do not wait."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


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
