"""Start a planned run: in this process for a single CPU process, else through torchrun, stage by stage.

plan = launch.prepare(recipe, machine, run=Path("runs/x"), data=root, images=root)
launch.start(recipe, plan)
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from viscot_core.errors import DataError, PartlyDone, UsageError, ViscotError
from viscot_core.processes import die_with_parent
from viscot_core.train.plan.make_plan import make_plan
from viscot_core.train.plan.plan_types import Machine, Plan, Rendezvous
from viscot_core.train.recipe.schema import Recipe
from viscot_core.train.state import run_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

TAIL = 30  # lines of the failing rank's log that are shown


def this_machine(
    gpus: int | None = None,
    gpu_memory: float | None = None,
    gpu_name: str | None = None,
    *,
    nodes: int = 1,
    processes: int | None = None,
    must_exist: bool = True,
) -> Machine:
    """This machine, or the one that is described; ``processes``: of a machine without GPUs, by default 1.

    Raises:
        UsageError: more GPUs than this machine has (where they ``must_exist``), or an option that has no
            meaning on such a machine.
    """
    from viscot_core import hardware

    described = gpus == 0 or (gpus is not None and not must_exist and gpu_memory)
    found = () if described else hardware.gpus()  # looking imports torch
    wanted = len(found) if gpus is None else gpus
    if must_exist and wanted > len(found):
        raise UsageError(
            f"{wanted} GPUs are requested and this machine has {len(found)}; give --gpus {len(found)}."
        )
    if wanted and processes:
        raise UsageError("--processes is for machines without GPUs; leave it out or give --gpus 0.")
    if not wanted and (gpu_memory or gpu_name):
        option = "--gpu-memory" if gpu_memory else "--gpu"
        raise UsageError(f"{option} describes a GPU and none is used; leave it out or give --gpus N.")
    memory = gpu_memory or (min(gpu.total for gpu in found) if found else 80.0)
    name = gpu_name or (found[0].name if found else "A100")
    return Machine(wanted, memory, name, nodes, processes or 1, hardware.ram_gib())


def prepare(
    recipe: Recipe,
    machine: Machine,
    *,
    run: Path,
    data: Path,
    images: Path,
    rendezvous: Rendezvous | None = None,
    notes: Sequence[str] = (),
) -> Plan:
    """The plan of a run on this machine. `DataError` lists the plan's errors, if there are any."""
    plan = make_plan(recipe, machine, run=run, data=data, images=images, rendezvous=rendezvous, notes=notes)
    if plan.refusals:
        raise DataError("Training cannot start:\n  " + "\n  ".join(plan.refusals))
    if rendezvous:
        _require_port(rendezvous)
    run.parent.mkdir(parents=True, exist_ok=True)
    return plan


def start(recipe: Recipe, plan: Plan, *, resume: bool = False, node: str = "") -> Path:
    """Run every stage; returns the run folder, which is then a checkpoint.

    Ctrl-C stops all ranks; their checkpoints are kept. SIGTERM lets them save first. Where several machines
    share the folder, the first one starts the run and the others join it.

    Raises:
        UsageError: the folder is in use or holds another run.
        PartlyDone: the run was told to stop (SIGTERM); ``resume`` continues it.
        ViscotError: a process died; the message has the end of its log.
    """
    run = Path(plan.run)
    many = plan.machine.nodes > 1
    with run_folder.locked(run, f"-{node or os.uname().nodename}" if many else ""):
        run_folder.claim(run, recipe, resume=resume, shared=many)
        run_folder.write(run, recipe, plan)
        if (
            plan.machine.processes == 1
            and not plan.machine.gpus
            and not any(s.zero_stage for s in recipe.stages)
        ):
            from viscot_core.train import worker

            worker.run(run, recipe)
            return run
        for command, stage in zip(plan.commands, run_folder.stage_folders(run, recipe), strict=True):
            _run_ranks(command, run)
            if not run_folder.has_model(stage):  # told to stop, here or on another machine
                raise PartlyDone(f"Stopped by a signal in stage {stage.name}; --resume continues {run}.")
    return run


def _require_port(meeting: Rendezvous) -> None:
    """`UsageError` where this machine hosts the rendezvous and its port is taken."""
    host, _, port = meeting.endpoint.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"--rdzv is HOST:PORT, such as node0:29500, not '{meeting.endpoint}'.")
    if meeting.node_rank or "is_host=0" in meeting.options:
        return
    with socket.socket() as probe:
        # A port whose old connections only wait to expire can be listened on.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:  # other errors: another machine's address, a name of the job's own network
            if error.errno == errno.EADDRINUSE:
                raise UsageError(f"Port {port} of {host} is in use; give another one with --rdzv.") from None


def _run_ranks(command: Sequence[str], run: Path) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    before = set((run / "logs").glob("*"))
    # A session of its own: Ctrl-C reaches torchrun once, from this process, and torchrun stops every rank.
    child = subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=die_with_parent)
    with _forwarding_signals(child) as passed:
        code = child.wait()
    if signal.SIGINT in passed:
        raise KeyboardInterrupt
    if passed and code:  # before the ranks could listen: nothing new to save
        raise PartlyDone(f"Stopped by a signal; --resume continues {run}.")
    if code:
        attempts = [path for path in (run / "logs").glob("*") if path not in before]
        raise ViscotError(failure(attempts, code))


@contextmanager
def _forwarding_signals(child: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Forward Ctrl-C to the child and SIGTERM to its ranks; the value lists the signals that came.

    torchrun answers SIGTERM by killing its ranks after 30 seconds, too soon for a large model to be saved.
    """
    passed: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        passed.append(number)
        if number != signal.SIGTERM or not (ranks := _children(child.pid)):
            child.send_signal(number)
            return
        for rank in ranks:
            with suppress(ProcessLookupError):
                os.kill(rank, number)

    if threading.current_thread() is not threading.main_thread():  # handlers can only be set there
        yield passed
        return
    kept = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield passed
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _children(process: int) -> list[int]:
    """The ids of a process's children (Linux; none elsewhere)."""
    try:
        tasks = list(Path(f"/proc/{process}/task").iterdir())
        return [int(word) for task in tasks for word in (task / "children").read_text().split()]
    except OSError:
        return []


def failure(logs: Sequence[Path], code: int) -> str:
    """The message of a failed run: the first rank that died, the end of its log, and where the rest is."""
    errors = sorted((_when(path), path) for log in logs for path in log.rglob("error.json"))
    if not errors:
        return f"The training processes stopped with code {code}; their output is above."
    # The first one to die is the cause; the others were stopped because of it.
    path = errors[0][1]
    written = path.with_name("stderr.log")
    lines = written.read_text(encoding="utf-8", errors="replace").splitlines() if written.exists() else []
    said = _message(path)
    shown = "\n".join(f"  | {line}" for line in lines[-TAIL:])
    rank = path.parent.name
    return f"Rank {rank} failed and all ranks were stopped: {said}\n{shown}\n  The whole log: {written}"


def _when(path: Path) -> float:
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["message"]["extraInfo"]["timestamp"])
    except (OSError, ValueError, KeyError, TypeError):
        return path.stat().st_mtime


def _message(path: Path) -> str:
    try:
        message = json.loads(path.read_text(encoding="utf-8"))["message"]["message"]
    except (OSError, ValueError, KeyError, TypeError):
        return "it left no message"
    return str(message).strip().splitlines()[-1]
