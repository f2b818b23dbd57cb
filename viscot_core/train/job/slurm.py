"""A run as a SLURM job: the same command line on every node, which meet on the first one."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from viscot_core.errors import UsageError, ViscotError
from viscot_core.files import atomic_write
from viscot_core.train.plan.plan_types import Plan

_ONLY_HERE = ("--slurm", "--rdzv", "--rdzv-id")  # each with its value
PORT = 29500


def slurm_script(plan: Plan, arguments: Sequence[str], *, port: int = PORT) -> str:
    """An sbatch file that runs ``viscot ARGUMENTS`` on every node; a requeued job resumes its run.

    Its output goes beside the run folder, in which only a run may write.
    """
    machine = plan.machine
    command = shlex.join([sys.executable, "-m", "viscot_cli.app", *_repeated(arguments)])
    lines = [
        "#!/bin/bash",
        f'#SBATCH --job-name="{plan.recipe}"',
        f"#SBATCH --nodes={machine.nodes}",
        "#SBATCH --ntasks-per-node=1",
        f"#SBATCH --gpus-per-node={machine.gpus}",
        "#SBATCH --exclusive",
        f'#SBATCH --output="{plan.run}.slurm-%j.log"',
        "#SBATCH --requeue",
        "set -euo pipefail",
        'HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        # When one node fails, srun ends all. SLURM sets the restart count only in a requeued job.
        f'srun --kill-on-bad-exit=1 {command} --rdzv "$HEAD:{port}" --rdzv-id "$SLURM_JOB_ID" '
        "${SLURM_RESTART_COUNT:+--resume}",
    ]
    return "\n".join(lines) + "\n"


def _repeated(arguments: Sequence[str]) -> Iterator[str]:
    """The words that each node repeats: not where this command was told to print or to meet."""
    words = iter(arguments)
    for word in words:
        if word in _ONLY_HERE:
            next(words, None)
        elif word.partition("=")[0] not in (*_ONLY_HERE, "--dry-run"):
            yield word


def submit(plan: Plan, script: str) -> str:
    """Write ``RUN.sbatch`` beside the run folder and hand it to sbatch; returns what sbatch said."""
    path = Path(f"{plan.run}.sbatch")
    with atomic_write(path) as file:
        file.write(script)
    try:
        done = subprocess.run(["sbatch", str(path)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UsageError(f"sbatch is not on this machine; copy {path} to one with SLURM.") from None
    if done.returncode:
        raise ViscotError(f"sbatch refused {path}: {done.stderr.strip()}")
    return done.stdout.strip()
