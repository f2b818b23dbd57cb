"""``viscot data prefs``: pairs of looks of which one is preferred, from what each of them earns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from viscot_cli import console
from viscot_cli.grouped import grouped
from viscot_cli.model_options import ModelOptions
from viscot_core.errors import DataError, PartlyDone, UsageError


@grouped
def prefs(
    data: Annotated[Path, typer.Option(help="A data root (its train.json), or a file of rows with answers.")],
    out: Annotated[Path, typer.Option(help="The JSONL to write: prompt, chosen, rejected, images.")],
    *,
    images: Annotated[
        Path | None, typer.Option(help="The folder that image paths are relative to [the file's own].")
    ] = None,
    boxes: Annotated[int, typer.Option(min=2, help="Looks at each item.")] = 6,
    reward: Annotated[
        str, typer.Option(help="What a look earns, with weights (viscot rewards list).")
    ] = "answer,iou",
    margin: Annotated[
        float, typer.Option(min=0, help="Least difference between the best look and the worst.")
    ] = 0.1,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many items, evenly spread.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions that run together.")] = 8,
    model_options: ModelOptions,
) -> None:
    """Look several times at each item, score the answers, and write the best look against the worst.

    Without --temperature, or with 0, looks are drawn at temperature 1.
    """
    from viscot_core.engines.base import Sampling
    from viscot_core.policies.two_turn import TwoTurn
    from viscot_core.train.evaluation.held_out import spread
    from viscot_core.train.evaluation.questions import questions_of
    from viscot_core.train.preferences.looks import PairCounts, looks_at, pairs_of
    from viscot_core.train.preferences.pairs import write_pairs
    from viscot_core.train.rewards.named import rewards_of

    rewards = rewards_of(reward)
    file = data / "train.json" if data.is_dir() else data
    items = [item for item, strategy in questions_of(file, images or file.parent) if strategy == "cot"]
    if not items:
        raise DataError(f"{file} has no row that asks for a box; 'viscot data synth' makes some.")
    if limit is not None:
        items = [items[number] for number in spread(len(items), limit)]
    temperature = model_options.temperature or 1.0
    sampling = Sampling(temperature, model_options.top_p, model_options.seed)
    cot = replace(model_options, temperature=0.0).open(batch_size, fused=True)
    if not cot.engine.traits.samples:
        raise UsageError("This server does not take a temperature, so all looks would be the same.")
    two_turn = TwoTurn(cot.wording, cot.crop_policy, box_tokens=model_options.max_new_tokens)
    counts = PairCounts()
    with console.progress("items", len(items)) as advance:
        looks = looks_at(
            items, cot.engine, two_turn, rewards, boxes=boxes, sampling=sampling,
            max_new_tokens=model_options.max_new_tokens,
        )  # fmt: skip
        pairs = list(pairs_of(looks, counts, margin=margin, progress=advance))
    if not pairs:
        why = f"; {counts.reasons[0]}" if counts.reasons else ""
        raise DataError(
            f"No pair came of {counts.items} items: {counts.equal} have looks that earn the same, "
            f"{counts.failed} failed and {counts.unknown} have no whole reply that could be scored{why}. "
            "A higher --temperature or more --boxes give looks that differ."
        )
    console.out(f"{out}: {write_pairs(out, pairs)} pairs of {counts.items} items")
    if counts.equal:
        console.say(f"{counts.equal} items have no pair: their looks earn the same (--margin {margin:g})")
    for reason in counts.reasons[:5]:
        console.say(f"failed: {reason}")
    if counts.failed or counts.unknown:
        raise PartlyDone(
            f"{counts.failed} items failed and {counts.unknown} have no whole reply that could be scored."
        )
