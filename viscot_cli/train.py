"""``viscot train | pretrain | finetune | prefer | reinforce``: all stages of a recipe, or one of them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from viscot_cli import console
from viscot_core.errors import UsageError

if TYPE_CHECKING:
    from viscot_core.train.plan.plan_types import Plan
    from viscot_core.train.recipe.options import Want
    from viscot_core.train.recipe.schema import Recipe

Recipe_ = Annotated[
    str, typer.Option("--recipe", "-r", help="A shipped recipe (viscot recipes list) or a YAML file.")
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Run folder; by default runs/NAME.")]
Data = Annotated[
    str | None, typer.Option("--data", help="Data root, or one file of your own rows (docs/data-formats.md).")
]
Images = Annotated[str | None, typer.Option("--images", help="Folder the rows' image paths are relative to.")]
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
Processes = Annotated[
    int | None, typer.Option("--processes", min=1, help="Processes of a machine without GPUs.")
]
Nnodes = Annotated[int, typer.Option("--nnodes", min=1, help="Machines; start the same command on each.")]
Rdzv = Annotated[str | None, typer.Option("--rdzv", help="host:port of the first machine, where all meet.")]
RdzvId = Annotated[str | None, typer.Option("--rdzv-id", help="Name of the job at the meeting point.")]
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
Sbatch = Annotated[
    list[str] | None, typer.Option("--sbatch", help="KEY=VALUE for sbatch, e.g. qos=long. Repeatable.")
]
Partition = Annotated[str | None, typer.Option("--partition", help="SLURM: the partition.")]
Account = Annotated[str | None, typer.Option("--account", help="SLURM: the account that pays.")]
Time = Annotated[str | None, typer.Option("--time", help="SLURM: the time limit, e.g. 2-00:00:00.")]
Memory = Annotated[str | None, typer.Option("--memory", help="SLURM: memory of a machine, e.g. 500G.")]
Cpus = Annotated[int | None, typer.Option("--cpus", min=1, help="SLURM: CPU cores of a machine.")]
Lora = Annotated[int | None, typer.Option("--lora", min=1, help="Fine-tune adapters of this rank instead.")]
LoadIn = Annotated[
    Literal["4bit", "8bit"] | None, typer.Option("--load-in", help="Quantise the frozen weights (QLoRA).")
]
AllowBad = Annotated[
    int | None, typer.Option("--allow-bad", min=0, help="Bad samples allowed: in the preflight, in a stage.")
]
Report = Annotated[
    Literal["tensorboard", "wandb", "trackio"] | None, typer.Option("--report", help="Where the curves go.")
]
Boxes = Annotated[
    str | None, typer.Option(help="How the rows of --data write boxes, e.g. qwen2.5-vl; default: viscot.")
]
PushToHub = Annotated[
    str | None, typer.Option("--push-to-hub", metavar="ORG/NAME", help="Upload the trained model (HF_TOKEN).")
]
EvalData = Annotated[
    str | None, typer.Option("--eval-data", help="Held-out rows: their loss and answers go into the log.")
]
EvalSplit = Annotated[
    float | None, typer.Option("--eval-split", help="Hold this share of the images out, e.g. 0.01.")
]
EvalSteps = Annotated[int | None, typer.Option("--eval-steps", min=1, help="Evaluate every so many steps.")]


def _command(want: Want, text: str) -> Callable[..., None]:
    """One of the commands; all take the same options."""

    def command(
        recipe: Recipe_, data: Data = None, out: Out = None, images: Images = None, set_: Set = None,
        dry_run: DryRun = False, resume: Resume = False, gpus: Gpus = None, gpu_memory: GpuMemory = None,
        gpu: Gpu = None, processes: Processes = None, nnodes: Nnodes = 1, rdzv: Rdzv = None,
        rdzv_id: RdzvId = None, rdzv_conf: RdzvConf = None, node_rank: NodeRank = None,
        local_addr: LocalAddr = None, slurm: Slurm = None, lora: Lora = None, load_in: LoadIn = None,
        allow_bad: AllowBad = None, report: Report = None, partition: Partition = None,
        account: Account = None, time: Time = None, memory: Memory = None, cpus: Cpus = None,
        sbatch: Sbatch = None, eval_data: EvalData = None, eval_split: EvalSplit = None,
        eval_steps: EvalSteps = None, boxes: Boxes = None, push_to_hub: PushToHub = None,
    ) -> None:  # fmt: skip
        from viscot_core.train.evaluation.split import with_split
        from viscot_core.train.job import launch
        from viscot_core.train.job.own_rows import own_rows
        from viscot_core.train.plan.make_plan import make_plan
        from viscot_core.train.plan.plan_types import Rendezvous
        from viscot_core.train.recipe import options
        from viscot_core.train.recipe.load import load_recipe

        if nnodes > 1 and not (rdzv or slurm):
            raise UsageError(f"--nnodes {nnodes} needs --rdzv HOST:PORT, the address of the first machine.")
        if not (rdzv or slurm):
            names = ("--rdzv-id", "--rdzv-conf", "--node-rank", "--local-addr")
            _goes_with("--rdzv HOST:PORT", names, (rdzv_id, rdzv_conf, node_rank, local_addr))
        given = {"--partition": partition, "--account": account, "--time": time, "--memory": memory}
        given |= {"--cpus": None if cpus is None else str(cpus)}
        if not slurm:
            _goes_with("--slurm print or submit", [*given, "--sbatch"], [*given.values(), sbatch])
        only_looks = dry_run or slurm is not None
        kept_in = out or Path("runs") / load_recipe(recipe, options.before_evaluation(set_ or ())).name
        pairs = data if want == "dpo" else None  # read as they are; what is no pair is refused by row
        rows = own_rows(None if pairs else data, images, eval_data, boxes, None if only_looks else kept_in)
        rows = replace(rows, data=pairs) if pairs else rows
        chosen, place, notes = options.resolve(
            recipe, set_ or (), want, rows.data or ("DATA" if dry_run else None), rows.images,
            lora=lora, load_in=load_in, allow_bad=allow_bad, report_to=report,
            evaluation=options.EvalChoice(rows.eval_data, eval_split, eval_steps),
        )  # fmt: skip
        machine = launch.this_machine(
            gpus, gpu_memory, gpu, nodes=nnodes, processes=processes, must_exist=not only_looks
        )
        job = tuple(rdzv_conf or ())
        meeting = Rendezvous(rdzv, "c10d", node_rank, rdzv_id or "viscot", job, local_addr) if rdzv else None
        notes += rows.notes
        run = out or Path("runs") / chosen.name
        if not only_looks:
            chosen, more = with_split(chosen, place.root, run)
            notes += more
        # `prepare` raises on the plan's errors; --dry-run and --slurm show them with the plan.
        look = make_plan if only_looks else launch.prepare
        plan = look(
            chosen, machine, run=run, data=place.root, images=place.images, rendezvous=meeting, notes=notes
        )
        if slurm:
            asked = {name: value for name, value in given.items() if value is not None}
            _slurm(plan, asked, sbatch or (), submit=slurm == "submit" and not dry_run)
            return
        if dry_run:
            _show(chosen, plan)
            return
        for line in (*plan.notes, *plan.warnings):
            console.say(f"Note: {line}")
        if push_to_hub:
            from viscot_core.models.push import require_pushable

            require_pushable(push_to_hub)
        node = "" if node_rank is None else str(node_rank)
        launch.start(chosen, plan, resume=_continues(run, resume, nnodes), node=node)
        console.out(f"The trained model is {run}; try it: viscot infer IMAGE QUESTION --model {run}")
        if push_to_hub and not node_rank:
            _push(push_to_hub, run)

    command.__doc__ = text
    return command


def _push(name: str, run: Path) -> None:
    """Upload what was trained; where that fails, the model is here and the command to try again is said."""
    from viscot_core.errors import PartlyDone, ViscotError
    from viscot_core.models.push import push

    try:
        console.out(push(name, run, say=console.say))
    except ViscotError as error:
        raise PartlyDone(f"{error} The model is whole here: viscot models push {name} {run}") from error


train = _command("all", "Train every stage of a recipe; pretrain is skipped where a projector is given.")
pretrain = _command(
    "pretrain", "Train stage 1 only: the projector; RUN/projector.safetensors is what it makes."
)
finetune = _command(
    "finetune", "Train stage 2 only: from a base model with its projector, on the recipe's data or your own."
)
prefer = _command(
    "dpo",
    "Learn from pairs, a better look and a worse one (viscot data prefs makes them): the recipe's dpo stage.",
)
reinforce = _command(
    "grpo", "Learn from rewards: the model looks several times at each question (the recipe's grpo stage)."
)


def _goes_with(other: str, names: Sequence[str], values: Sequence[object]) -> None:
    """`UsageError` where one of the options ``names`` is given without the ``other`` that it needs."""
    for name, value in zip(names, values, strict=True):
        if value not in (None, []):
            raise UsageError(f"{name} only goes with {other}; give both or neither.")


def _continues(run: Path, resume: bool, nodes: int) -> bool:
    """Whether to resume: as told, or as the person at the terminal answers."""
    from viscot_core.train.state import run_folder

    asks = sys.stdin.isatty() and sys.stderr.isatty()
    if resume or nodes > 1 or not asks or not run_folder.holds_run(run):
        return resume
    return typer.confirm(f"{run} holds a run already. Continue it?", err=True)


def _slurm(plan: Plan, asked: dict[str, str], passed: Sequence[str], *, submit: bool) -> None:
    from viscot_core.train.job import slurm

    script = slurm.slurm_script(plan, sys.argv[1:], slurm.settings(asked, passed))
    for text in plan.warnings:
        console.say(f"Note: {text}")
    for text in plan.refusals:
        console.say(f"would refuse to start: {text}")
    if not submit:
        console.out(script.rstrip())
    if plan.refusals:
        done = "Nothing was submitted" if submit else "Do not submit this script yet"
        raise UsageError(f"{done}: the job would refuse to start, for the reasons above.")
    if submit:
        console.out(slurm.submit(plan, script))
        return
    # Without the folder of its output file, a job ends before it has a log.
    folder = shlex.quote(str(Path(plan.run).parent))
    console.say(f"next: mkdir -p {folder} && sbatch THAT_FILE (--slurm submit does both)")


def _show(recipe: Recipe, plan: Plan) -> None:
    from viscot_core.train.plan.plan_table import command_line, summary
    from viscot_core.train.recipe.load import dump_recipe

    console.out("# The resolved recipe")
    console.out(dump_recipe(recipe))
    for kind, command in zip(plan.stages, plan.commands, strict=True):
        console.out(f"# {kind.kind}: the exact command\n{command_line(command)}\n")
    console.table(
        ["", *(stage.kind for stage in plan.stages)], summary(plan), title="Plan (~ marks an estimate)"
    )
    if plan.disk_gib is not None:
        console.out(f"disk, all stages: ~{plan.disk_gib:,.0f} GiB under {plan.run}")
    if plan.machine.gpus:
        console.out(f"note: hours are for {plan.machine.gpu_name}; --gpu names another kind of GPU")
    for text in plan.notes:
        console.out(f"note: {text}")
    for text in plan.warnings:
        console.out(f"warning: {text}")
    for text in plan.refusals:
        console.out(f"would refuse to start: {text}")
    if plan.refusals:
        raise UsageError("The run would refuse to start, for the reasons above.")
