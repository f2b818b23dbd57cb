"""The plan as a table, for ``--dry-run``."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence

from viscot_core.train.plan.plan_types import Plan, StagePlan


def command_line(command: Sequence[str]) -> str:
    """The command as it can be pasted into a shell."""
    return shlex.join(command)


def summary(plan: Plan) -> list[list[str]]:
    """Rows of the plan's table: a label and one cell per stage. Estimates begin with ``~``."""
    rows: list[tuple[str, Callable[[StagePlan], str]]] = [
        ("data", lambda s: ", ".join(s.files)),
        ("samples", lambda s: _count(s.samples)),
        ("  counted or published", lambda s: s.samples_from),
        ("trained", lambda s: _trained(s)),
        ("frozen", lambda s: _count(s.frozen)),
        ("global batch", lambda s: str(s.global_batch_size)),
        ("  per device x accumulation x processes", _split),
        ("layers recomputed", _recomputed),
        ("steps", lambda s: _count(s.steps)),
        ("  of them warm-up", lambda s: _count(s.warmup_steps)),
        ("checkpoints to expect", lambda s: _count(s.checkpoints)),
        ("  kept at once", lambda s: _count(s.kept)),
        ("  each, GiB", lambda s: _about(s.checkpoint_gib, "{:,.1f}")),
        ("tokens", lambda s: "no estimate" if s.tokens is None else f"~{_millions(s.tokens, 0)}"),
        ("memory per process, GiB", lambda s: _about(s.memory_gib, "{:,.1f}")),
        ("host memory while loading, GiB a machine", lambda s: _about(s.loading_gib, "{:,.1f}")),
        (f"hours on {_machines(plan)}", lambda s: _about(s.hours, "{:,.1f}")),
    ]
    return [[label, *(cell(stage) for stage in plan.stages)] for label, cell in rows]


def _machines(plan: Plan) -> str:
    machine = plan.machine
    if not machine.gpus:
        return f"{machine.processes} CPU process" + ("es" if machine.processes > 1 else "")
    return f"{machine.processes} x {machine.gpu_name} (at 40 % of their peak)"


def _trained(stage: StagePlan) -> str:
    return ", ".join(f"{part} {_millions(n, 1)}" for part, n in stage.trained.items()) or "unknown"


def _millions(count: float, decimals: int) -> str:
    """With as many decimals, or more where these would say 0."""
    value = count / 1e6
    while value and not round(value, decimals):
        decimals += 1
    return f"{value:,.{decimals}f} M"


def _split(stage: StagePlan) -> str:
    return f"{stage.per_device_batch_size} x {stage.accumulation} x {stage.processes}"


def _recomputed(stage: StagePlan) -> str:
    if not stage.recompute:
        return "unknown" if stage.recompute is None else "none"
    return "all" if stage.recompute == 1 else f"1 of {stage.recompute}"


def _count(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def _about(value: float | None, form: str) -> str:
    return "no estimate" if value is None else f"~{form.format(value)}"
