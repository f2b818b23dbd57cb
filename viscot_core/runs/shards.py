"""One benchmark on many GPUs: ranks share the images, each with a model of its own; nothing is exchanged.

``--gpus N`` starts N ranks through torchrun and joins what they wrote; inside ``srun`` every task is a rank.
A rank that dies loses its batch in flight: the same command, on any number of GPUs, continues the run.
"""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from viscot_core.errors import EngineError, UsageError
from viscot_core.processes import die_with_parent, parent_of

SESSION = "VISCOT_BENCH_SESSION"
LAUNCHER = "VISCOT_BENCH_LAUNCHER"
"""The process that started torchrun."""
JOB = "VISCOT_BENCH_JOB"
"""The pickled job in base64. Only this user can read the environment, and no kill leaves a file."""


@dataclass(frozen=True)
class Shard:
    """Which share of the images this process has; ``session`` is None for a run of one process."""

    rank: int = 0
    world: int = 1
    local: int = 0
    session: str | None = None

    @property
    def is_alone(self) -> bool:
        return self.session is None


def shard_of(environment: Mapping[str, str] = os.environ) -> Shard:
    """This process's share: of torchrun's ranks (started by ``launch``), of srun's tasks, or all.

    A batch script of SLURM outside srun is one process, whatever its allocation.
    """
    if SESSION in environment and "WORLD_SIZE" in environment:
        rank, world, local = (int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        return Shard(rank, world, local, environment[SESSION])
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if tasks > 1:
        # With the restart count a requeued job is a session of its own: it never appends to a line that the
        # kill cut short.
        names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
        session = "slurm" + "_".join(environment.get(name, "0") for name in names)
        return Shard(int(environment["SLURM_PROCID"]), tasks, int(environment["SLURM_LOCALID"]), session)
    return Shard()


def device_of(shard: Shard, device: str) -> str:
    """The device of a rank: its own GPU where there are several and none was named."""
    if shard.is_alone or device not in ("auto", "cuda"):
        return device
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{shard.local % count}" if count else device


def check_gpus(gpus: int, device: str) -> None:
    """Raise UsageError where more ranks are asked for than there are GPUs; a CPU takes any number."""
    if device == "cpu":
        return
    from viscot_core import hardware

    found = len(hardware.gpus())
    if gpus > found:
        raise UsageError(f"--gpus {gpus}: this machine has {found}; give --gpus {found} or --device cpu.")


def end_with_launcher() -> None:
    """Let this rank end with torchrun, which ends with the process that called ``launch``.

    A rank begins with imports of seconds: one whose launcher has died meanwhile ends at once.
    """
    die_with_parent()
    launcher = parent_of(os.getppid())
    if launcher is not None and str(launcher) != os.environ.get(LAUNCHER):
        sys.exit(1)


def launch(job: bytes, gpus: int) -> None:
    """Start ``gpus`` ranks of a pickled job (``rank.py``) and wait for them.

    Raises:
        EngineError: a rank died; what all ranks finished is kept.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    ranks = [f"--nproc-per-node={gpus}", "-m", "viscot_core.runs.rank"]
    environment = {**os.environ, SESSION: uuid.uuid4().hex[:8], LAUNCHER: str(os.getpid())}
    environment[JOB] = base64.b64encode(job).decode()
    # torchrun would set it to 1, which leaves most cores idle where ranks run on CPUs.
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // gpus)))
    die = partial(die_with_parent, os.getpid())
    process = subprocess.Popen([*command, *ranks], env=environment, preexec_fn=die)
    try:
        code = process.wait()
    except KeyboardInterrupt:  # the terminal sent it to the ranks too: let them end
        process.wait()
        raise
    if code:
        raise EngineError(f"A rank ended with code {code} (see above); the same command continues the run.")
