"""The exact command that runs each stage, as a list of words: paths with spaces need no quoting."""

from __future__ import annotations

import sys
from pathlib import Path

from viscot_core.train.planned import Machine, Rendezvous
from viscot_core.train.schema import Recipe


def commands(
    recipe: Recipe, machine: Machine, run: str | Path, rendezvous: Rendezvous | None = None
) -> tuple[tuple[str, ...], ...]:
    """The command of each stage of ``recipe`` on ``machine``, writing to the folder ``run``.

    One process without DeepSpeed runs the worker itself; all else goes through torchrun.
    """
    found: list[tuple[str, ...]] = []
    for stage in recipe.stages:
        worker = ("-m", "viscot_core.train.worker", "--run-folder", str(run), "--stage", stage.kind)
        if machine.processes == 1 and not machine.gpus and stage.zero_stage == 0 and not rendezvous:
            found.append((sys.executable, *worker))
        else:
            found.append(
                (sys.executable, "-m", "torch.distributed.run", *_torchrun(machine, run, rendezvous), *worker)
            )
    return tuple(found)


def _torchrun(machine: Machine, run: str | Path, rendezvous: Rendezvous | None) -> list[str]:
    argv = [f"--nproc_per_node={machine.local_processes}", f"--nnodes={machine.nodes}"]
    if rendezvous:
        argv += [f"--rdzv_backend={rendezvous.backend}", f"--rdzv_endpoint={rendezvous.endpoint}"]
        argv += [f"--rdzv_id={rendezvous.job}"]
        if rendezvous.node_rank is not None:
            argv += [f"--node_rank={rendezvous.node_rank}"]
        if rendezvous.options:
            argv += [f"--rdzv_conf={','.join(rendezvous.options)}"]
        if rendezvous.local_address:
            argv += [f"--local_addr={rendezvous.local_address}"]
    else:
        argv += ["--standalone"]  # picks a free port: a port in use is no error
    logs = Path(run) / "logs"
    return [
        *argv,
        f"--log_dir={logs}",
        "--redirects=3",
        "--tee=3",
        "--local_ranks_filter=0",
        "--max_restarts=0",
    ]
