"""A run as a SLURM job: the same command line on every node, which meet on the first one."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from viscot_core.errors import PartlyDone, UsageError, ViscotError
from viscot_core.files import atomic_write
from viscot_core.train.plan.plan_types import Plan

WORDS = {
    "--partition": "partition",
    "--account": "account",
    "--time": "time",
    "--memory": "mem",
    "--cpus": "cpus-per-task",
}
"""Options of `viscot train` that only a job script has, and sbatch's name of each."""
PORT = 29500
_ONLY_HERE = ("--slurm", "--rdzv", "--rdzv-id", "--sbatch", *WORDS)  # each with its value
_OURS = {"nodes": "--nnodes", "ntasks-per-node": "", "ntasks": ""}
"""What `--sbatch` may not change: one task on each node starts that node's processes."""
_KEY = re.compile(r"[a-z][a-z0-9-]*")
_SIGNAL = "TERM@120"
"""SLURM warns the processes two minutes before the time limit: they save and leave (`train/stopping.py`)."""


def settings(given: dict[str, str], passed: Sequence[str]) -> dict[str, str]:
    """What the user asks of SLURM: ``given`` by option name (`WORDS`), then ``--sbatch KEY=VALUE``.

    Raises:
        UsageError: no KEY=VALUE, a key that viscot sets itself, or a key given twice.
    """
    found = {WORDS[option]: value for option, value in given.items()}
    for text in passed:
        key, sign, value = text.partition("=")
        if not sign or not _KEY.fullmatch(key):
            raise UsageError(
                f"--sbatch {text!r} is not KEY=VALUE, such as qos=long (exclusive= has no value)."
            )
        if key in _OURS:
            instead = _OURS[key] or "nothing else"
            raise UsageError(f"--sbatch {key} cannot be changed: one task runs on each node; use {instead}.")
        if key in found:
            raise UsageError(f"SLURM's {key} is given twice; give it once.")
        found[key] = value
    return found


def slurm_script(
    plan: Plan, arguments: Sequence[str], asked: dict[str, str] | None = None, *, port: int = PORT
) -> str:
    """An sbatch file that runs ``viscot ARGUMENTS`` on every node; a requeued job resumes its run.

    ``asked`` are sbatch's own settings (`settings`); they replace those here. The job's output goes beside
    the run folder, in which only a run may write.

    Raises:
        UsageError: a value has a line break or another control character.
    """
    machine = plan.machine
    command = shlex.join([sys.executable, "-m", "viscot_cli.app", *_repeated(arguments)])
    header = {
        "job-name": plan.recipe,
        "nodes": str(machine.nodes),
        "ntasks-per-node": "1",
        "gpus-per-node": str(machine.gpus),
        # A whole node, unless the user says how much of it.
        **({} if asked and {"mem", "cpus-per-task"} & asked.keys() else {"exclusive": ""}),
        "output": f"{plan.run.replace('%', '%%')}.slurm-%j.log",
        "requeue": "",
        "signal": _SIGNAL,
        **(asked or {}),
    }
    for text in (command, *header.values()):
        _require_one_line(text)
    lines = [
        "#!/bin/bash",
        *(
            f"#SBATCH --{key}={shlex.quote(value)}" if value else f"#SBATCH --{key}"
            for key, value in header.items()
        ),
        "set -euo pipefail",
        "trap : TERM  # the processes get it too: they save, and this script waits for them",
        'HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        # When one node fails, srun ends all. SLURM sets the restart count only in a requeued job.
        "code=0",
        f'srun --kill-on-bad-exit=1 {command} --rdzv "$HEAD:{port}" --rdzv-id "$SLURM_JOB_ID" '
        "${SLURM_RESTART_COUNT:+--resume} || code=$?",
        f"# {PartlyDone.exit_code}: stopped by SLURM after saving; the job goes on when it is started again",
        f'if [ "$code" -eq {PartlyDone.exit_code} ]; then scontrol requeue "$SLURM_JOB_ID"; fi',
        'exit "$code"',
    ]
    return "\n".join(lines) + "\n"


def _require_one_line(text: str) -> None:
    """`UsageError` for control characters: a line break in a value would be a line of the script."""
    if any(not character.isprintable() for character in text):
        raise UsageError(
            f"{text!r} has a line break or a control character, which a job script cannot hold; "
            "rename the file or change the option."
        )


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
