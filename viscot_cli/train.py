"""``viscot train | pretrain | finetune``: both stages of a recipe, or one of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from viscot_cli import console

if TYPE_CHECKING:
    from viscot_core.train.plan import Plan

Recipe_ = Annotated[
    str, typer.Option("--recipe", "-r", help="A shipped recipe (viscot recipes list) or a YAML file.")
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Run folder; by default runs/NAME.")]
Data = Annotated[
    str | None, typer.Option("--data", help="Data root, or one JSON/JSONL file of your own rows.")
]
Images = Annotated[
    str | None, typer.Option("--images", help="Folder the rows' picture paths are relative to.")
]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="a.b=value, e.g. stages.finetune.learning_rate=1e-5.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print recipe, command, steps and estimates; start nothing.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint, also after kill -9.")]
Gpus = Annotated[
    int | None, typer.Option("--gpus", min=0, help="GPUs of a machine; by default all (0: CPU).")
]
GpuMemory = Annotated[float | None, typer.Option("--gpu-memory", min=1.0, help="Memory of a GPU, GiB.")]
Gpu = Annotated[
    str | None, typer.Option("--gpu", help="Kind of GPU the estimate of hours is for, e.g. A100.")
]
Processes = Annotated[int, typer.Option("--processes", min=1, help="Processes of a machine without GPUs.")]
Nnodes = Annotated[int, typer.Option("--nnodes", min=1, help="Machines; start the same command on each.")]
Rdzv = Annotated[str | None, typer.Option("--rdzv", help="host:port of the first machine, where all meet.")]
RdzvId = Annotated[str, typer.Option("--rdzv-id", help="Name of the job at the meeting point.")]
RdzvConf = Annotated[
    list[str] | None, typer.Option("--rdzv-conf", help="key=value for torchrun, e.g. is_host=1.")
]
NodeRank = Annotated[int | None, typer.Option("--node-rank", min=0, help="Number of this machine, from 0.")]
LocalAddr = Annotated[
    str | None, typer.Option("--local-addr", help="Address of this machine the others reach.")
]
Slurm = Annotated[
    Literal["print", "submit"] | None, typer.Option("--slurm", help="Print an sbatch file, or submit it.")
]
Lora = Annotated[int | None, typer.Option("--lora", min=1, help="Fine-tune adapters of this rank instead.")]
LoadIn = Annotated[
    Literal["4bit", "8bit"] | None, typer.Option("--load-in", help="Quantise the frozen weights (QLoRA).")
]
AllowBad = Annotated[
    int | None, typer.Option("--allow-bad", min=0, help="Bad samples the preflight tolerates.")
]
Report = Annotated[
    Literal["tensorboard", "wandb"] | None, typer.Option("--report", help="Where the curves go.")
]


def train(
    recipe: Recipe_, data: Data = None, out: Out = None, images: Images = None, set_: Set = None,
    dry_run: DryRun = False, resume: Resume = False, gpus: Gpus = None, gpu_memory: GpuMemory = None,
    gpu: Gpu = None, processes: Processes = 1, nnodes: Nnodes = 1, rdzv: Rdzv = None,
    rdzv_id: RdzvId = "viscot", rdzv_conf: RdzvConf = None, node_rank: NodeRank = None,
    local_addr: LocalAddr = None, slurm: Slurm = None, lora: Lora = None, load_in: LoadIn = None,
    allow_bad: AllowBad = None, report: Report = None,
) -> None:  # fmt: skip
    """Train every stage of a recipe; pretrain is skipped where a projector is given."""
    _train("all", dict(locals()))


def pretrain(
    recipe: Recipe_, data: Data = None, out: Out = None, images: Images = None, set_: Set = None,
    dry_run: DryRun = False, resume: Resume = False, gpus: Gpus = None, gpu_memory: GpuMemory = None,
    gpu: Gpu = None, processes: Processes = 1, nnodes: Nnodes = 1, rdzv: Rdzv = None,
    rdzv_id: RdzvId = "viscot", rdzv_conf: RdzvConf = None, node_rank: NodeRank = None,
    local_addr: LocalAddr = None, slurm: Slurm = None, allow_bad: AllowBad = None, report: Report = None,
) -> None:  # fmt: skip
    """Train stage 1 only: the projector; RUN/projector.safetensors is what it makes."""
    _train("pretrain", {"lora": None, "load_in": None, **locals()})


def finetune(
    recipe: Recipe_, data: Data = None, out: Out = None, images: Images = None, set_: Set = None,
    dry_run: DryRun = False, resume: Resume = False, gpus: Gpus = None, gpu_memory: GpuMemory = None,
    gpu: Gpu = None, processes: Processes = 1, nnodes: Nnodes = 1, rdzv: Rdzv = None,
    rdzv_id: RdzvId = "viscot", rdzv_conf: RdzvConf = None, node_rank: NodeRank = None,
    local_addr: LocalAddr = None, slurm: Slurm = None, lora: Lora = None, load_in: LoadIn = None,
    allow_bad: AllowBad = None, report: Report = None,
) -> None:  # fmt: skip
    """Train stage 2 only: from a base model with its projector, on the recipe's data or your own."""
    _train("finetune", dict(locals()))


def _train(want: Literal["all", "pretrain", "finetune"], given: dict[str, Any]) -> None:
    from viscot_core.errors import UsageError
    from viscot_core.train import launch, options
    from viscot_core.train.plan import Rendezvous, make_plan

    nodes = given["nnodes"]
    if nodes > 1 and not given["rdzv"] and not given["slurm"]:
        raise UsageError(f"--nnodes {nodes} needs --rdzv HOST:PORT, the address of the first machine.")
    only_looks = given["dry_run"] or given["slurm"] is not None
    data = given["data"] or ("DATA" if given["dry_run"] else None)
    recipe, place, notes = options.resolve(
        given["recipe"], given["set_"] or (), want, data, given["images"],
        lora=given["lora"], load_in=given["load_in"], allow_bad=given["allow_bad"], report_to=given["report"],
    )  # fmt: skip
    machine = launch.this_machine(
        given["gpus"], given["gpu_memory"], given["gpu"],
        nodes=nodes, processes=given["processes"], must_exist=not only_looks,
    )  # fmt: skip
    meeting = None
    if given["rdzv"]:
        meeting = Rendezvous(
            given["rdzv"], node_rank=given["node_rank"], job=given["rdzv_id"],
            options=tuple(given["rdzv_conf"] or ()), local_address=given["local_addr"],
        )  # fmt: skip
    run = given["out"] or Path("runs") / recipe.name
    if only_looks:
        plan = make_plan(
            recipe, machine, run=run, data=place.root, images=place.images, rendezvous=meeting, notes=notes
        )
        if given["slurm"]:
            _slurm(plan, submit=given["slurm"] == "submit" and not given["dry_run"])
        else:
            _show(recipe, plan)
        return
    plan = launch.prepare(
        recipe, machine, run=run, data=place.root, images=place.images, rendezvous=meeting, notes=notes
    )
    for text in (*plan.notes, *plan.warnings):
        console.say(f"Note: {text}")
    node = "" if given["node_rank"] is None else str(given["node_rank"])
    launch.start(recipe, plan, resume=_continues(run, given["resume"], nodes), node=node)
    console.out(f"The trained model is {run}; try it: viscot infer PICTURE QUESTION --model {run}")


def _continues(run: Path, resume: bool, nodes: int) -> bool:
    """Whether to resume: as told, or as the person at the terminal answers."""
    from viscot_core.train import folder

    if resume or nodes > 1 or not folder.holds_run(run) or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return resume
    return typer.confirm(f"{run} holds a run already. Continue it?", err=True)


def _slurm(plan: Plan, *, submit: bool) -> None:
    from viscot_core.train import launch

    script = launch.slurm_script(plan, sys.argv[1:])
    if not submit:
        console.out(script)
        return
    console.out(launch.submit(plan, script))


def _show(recipe: Any, plan: Plan) -> None:
    from viscot_core.train.recipe import dump_recipe
    from viscot_core.train.show import command_line, summary

    console.out("# The resolved recipe")
    console.out(dump_recipe(recipe))
    for kind, command in zip(plan.stages, plan.commands, strict=True):
        console.out(f"# {kind.kind}: the exact command\n{command_line(command)}\n")
    console.table(
        ["", *(stage.kind for stage in plan.stages)], summary(plan), title="Plan (~ marks an estimate)"
    )
    if plan.disk_gib is not None:
        console.out(f"disk, all stages: ~{plan.disk_gib:,.0f} GiB under {plan.run}")
    for text in plan.notes:
        console.out(f"note: {text}")
    for text in plan.warnings:
        console.out(f"warning: {text}")
    for text in plan.refusals:
        console.out(f"would refuse to start: {text}")
