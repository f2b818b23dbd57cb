"""This machine's hardware: GPUs, memory, cores, and the speed of the CPU in fp32 and bf16."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

GIB = 2**30
_M_MMAP_THRESHOLD = -3
"""mallopt's number for it (malloc.h); setting it ends the automatic growth."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One CUDA device; memory in GiB."""

    name: str
    total: float
    free: float


@lru_cache(maxsize=1)
def gpus() -> tuple[Gpu, ...]:
    """The CUDA devices torch can use."""
    import torch

    if not torch.cuda.is_available():
        return ()
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append(Gpu(torch.cuda.get_device_name(index), total / GIB, free / GIB))
    return tuple(found)


def ram_gib() -> float:
    """Memory that this process may use, GiB: the machine's, or the container's limit if that is lower."""
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        if limit.is_file() and (text := limit.read_text().strip()).isdigit():
            ram = min(ram, int(text))
    return ram / GIB


def free_memory() -> int:
    """Bytes of free memory (Linux; a cautious 8 GB on other systems)."""
    free = 8 << 30
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    return min(free, int(ram_gib() * GIB))


def return_large_blocks() -> None:
    """Give the memory of decoded images back to the system as soon as they are freed (glibc only).

    glibc raises the size from which a block is a mapping of its own with each such block that is freed, up to
    32 MB. Pillow's blocks of 16 MB then stay in the heaps of the threads that decoded them.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 4 << 20)


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class CpuSpeed:
    """Measured on this CPU: matrix products in Gflop/s (prefill), weights read in GB/s (decoding)."""

    gflops: float
    gbytes: float
    weight_bytes: int

    def answer_seconds(self, parameters: float = 6.7e9, prefill: int = 1900, decoded: int = 30) -> float:
        """Estimated seconds of a two-turn answer at 336 px, from the two measurements."""
        reading = self.weight_bytes * parameters / (self.gbytes * 1e9)
        return 2 * parameters * prefill / (self.gflops * 1e9) + decoded * reading


def measure_cpu(dtype: Literal["fp32", "bf16"]) -> CpuSpeed:
    """Time products with a ``[4096, 4096]`` weight: 128 rows (prefill), 1 row (decode)."""
    import torch

    kind, size = (torch.float32, 4) if dtype == "fp32" else (torch.bfloat16, 2)
    width, tokens = 4096, 128
    weight = torch.full((width, width), 0.5, dtype=kind)
    many, one = torch.ones(tokens, width, dtype=kind), torch.ones(1, width, dtype=kind)
    prefill = _best(lambda: torch.nn.functional.linear(many, weight))
    decode = _best(lambda: torch.nn.functional.linear(one, weight), repeat=4)
    return CpuSpeed(2 * width * width * tokens / prefill / 1e9, width * width * size / decode / 1e9, size)


def _best(work: Callable[[], object], *, repeat: int = 1) -> float:
    """Seconds per call: the fastest of three rounds, after one warm-up call."""
    work()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(repeat):
            work()
        times.append((time.perf_counter() - start) / repeat)
    return min(times)
