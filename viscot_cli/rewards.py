"""``viscot rewards``: what an answer earns in training, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from viscot_cli import console
from viscot_cli.help import Commands
from viscot_cli.traces import Images, root_of, talks_of

if TYPE_CHECKING:
    from viscot_core.train.rewards.checking import CheckedTraces

app = typer.Typer(
    cls=Commands,
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    help="What an answer earns in training, and why.",
)

File = Annotated[
    Path, typer.Argument(metavar="FILE", help="A file of traces or of training rows, or a run folder.")
]


@app.command("list")
def list_(json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False) -> None:
    """All rewards: what each is for, its settings, what it does not pay for."""
    from viscot_core.train.rewards.named import REWARDS

    if json:
        for name, one in REWARDS.items():
            about = {"summary": one.summary, "settings": one.argument, "refuses": one.refuses}
            console.emit({"name": name, **about})
        return
    rows = [(name, one.summary, one.argument, one.refuses) for name, one in REWARDS.items()]
    console.table(("reward", "what it pays for", "settings after ':'", "earns nothing"), rows)


@app.command("check")
def check(
    file: File,
    reward: Annotated[
        str, typer.Option(help="Rewards with weights: iou,answer:anls=0.5,format (viscot rewards list).")
    ],
    images: Images = None,
    dialect: Annotated[str | None, typer.Option(help="How its calls are written, if unknown.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object per talk and line.")] = False,
) -> None:
    """What each talk would earn, part by part, and why; then the means, and the groups without a spread."""
    from viscot_core.errors import PartlyDone
    from viscot_core.train.rewards.checking import check_traces
    from viscot_core.train.rewards.named import rewards_of

    rewards = rewards_of(reward)
    root = images or root_of(file)
    done = check_traces(talks_of(file, root, dialect), root, rewards)
    for one in done.traces:
        parts = one.earned.parts
        if json:
            told = {name: {"value": part.value, "why": part.why} for name, part in parts.items()}
            about = {"talk": one.number, "id": one.id, "group": one.group}
            console.emit({**about, "total": one.earned.total, "parts": told})
            continue
        console.out(
            f"talk {one.number}{f' ({one.id})' if one.id is not None else ''}: {_value(one.earned.total)}"
        )
        for name, part in parts.items():
            console.out(f"  {name} {_value(part.value)}: {part.why}")
    _summary(done)
    unknown = len(done.traces) - done.known["total"]
    if unknown or done.left_out:
        raise PartlyDone(
            f"{unknown} of {len(done.traces)} talks have no total, as one of their rewards is not known; "
            f"{len(done.left_out)} more were left out."
        )


def _summary(done: CheckedTraces) -> None:
    count = len(done.traces)
    for name, known in done.known.items():
        mean = _value(done.means.get(name))
        console.say(f"mean {name}: {mean} ({known} of {count} talks)")
    if done.groups:
        console.say(f"{done.flat} of {done.groups} groups have equal totals: nothing is learned from those.")
    for reason in done.left_out[:5]:
        console.say(f"left out: {reason}")


def _value(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3f}"
