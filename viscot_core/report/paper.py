"""How each table of the paper is made again: commands in their order, with what they cost; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from viscot_core.errors import UsageError
from viscot_core.gpus import peak_tflops
from viscot_core.openai_api.keys import OPENAI_KEY
from viscot_core.score.costs import CHARACTERS_PER_TOKEN, TYPICAL_REPLY, load_price
from viscot_core.score.prompt import PromptBuilder
from viscot_core.score.verdicts import Pair

RESULTS = "results/paper"
JUDGE = "gpt-4o-mini"
"""The judge of the commands: the paper's own, gpt-3.5-turbo-1106, is no longer served."""
PAIR_CHARACTERS = 130
"""A question, its reference and an answer, about."""


@dataclass(frozen=True, slots=True)
class PaperTable:
    """How one table is made: ``commands`` in order; ``runs`` are the folders whose figures fill it."""

    table: int
    title: str
    commands: tuple[str, ...]
    runs: tuple[str, ...]
    tflop: float
    """All that is computed, 1e12 FLOP; 0 where it is not counted."""
    share: float
    """What share of a GPU's peak the commands reach, as measured."""
    judged: int
    """Answers that the judge scores."""

    def hours(self, gpu: str, count: int = 1) -> float | None:
        """Estimated hours on ``count`` GPUs of that name; None where either is not known."""
        peak = peak_tflops(gpu)
        if not self.tflop or peak is None:
            return None
        return self.tflop / (peak * self.share * count) / 3600

    @property
    def needs(self) -> tuple[str, ...]:
        """What the commands need beside data and weights: a sentence each."""
        text = "\n".join(self.commands)
        general = "lmms-eval: pip install 'viscot[general]'"
        key = (
            f"the judge's key in {OPENAI_KEY} (viscot score --estimate tells the price from the real answers)"
        )
        return (*([general] if "viscot bench general" in text else ()), *([key] if self.judged else ()))

    @property
    def dollars(self) -> float | None:
        """Estimated price of the judge; None without one (`viscot score --estimate` counts real prompts)."""
        price = load_price(JUDGE)
        if not self.judged or price is None:
            return None
        prompt = PromptBuilder().build(Pair("", "", ""))
        characters = len(prompt.system) + len(prompt.user) + PAIR_CHARACTERS
        return price.cost(self.judged * characters // CHARACTERS_PER_TOKEN, self.judged * TYPICAL_REPLY)


@cache
def paper_tables() -> dict[int, PaperTable]:
    """Every table that can be made again, by number."""
    text = files("viscot_core.report").joinpath("paper_steps.yaml").read_text(encoding="utf-8")
    return {number: _steps(number, entry) for number, entry in yaml.safe_load(text)["tables"].items()}


def paper_table(number: int) -> PaperTable:
    """How table ``number`` is made.

    Raises:
        UsageError: the paper has no such table, or it holds no figures of a model.
    """
    tables = paper_tables()
    if number not in tables:
        raise UsageError(f"Table {number} is not one of {', '.join(map(str, tables))}.")
    return tables[number]


def _steps(number: int, entry: dict[str, Any]) -> PaperTable:
    commands = [f"viscot data fetch --for {','.join(entry['fetch'])} --data data"] if "fetch" in entry else []
    commands += [f"viscot models pull {name}" for name in entry.get("models", ())]
    commands += entry["steps"]
    scored = tuple(f"{RESULTS}/{name}" for name in entry.get("score", ()))
    commands += [f"viscot score {run} --judge openai:{JUDGE}" for run in scored]
    runs = scored or tuple(f"{RESULTS}/{name}" for name in entry.get("stats", ()))
    commands += [f"viscot stats {run} --compare paper" for run in runs]
    tflop = sum(part["items"] * part["tflop"] for part in entry.get("work", ()))
    share = entry.get("share", 0.0)
    return PaperTable(number, entry["title"], tuple(commands), runs, tflop, share, entry.get("judged", 0))


def sbatch(steps: PaperTable, *, gpus: int = 1) -> str:
    """A job script that runs the commands of a table one after the other; it can be submitted again.

    Every command continues what an earlier job left, and one that is only partly done (exit code 3) does not
    stop those behind it.
    """
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name=viscot-table-{steps.table}",
        f"#SBATCH --gpus-per-node={gpus}",
        "#SBATCH --nodes=1",
        f"#SBATCH --output=viscot-table-{steps.table}-%j.log",
        "# Submit it where data/ and results/ shall lie, with viscot's environment active. Your cluster's",
        "# own options go to sbatch: sbatch --partition=gpu --account=lab --time=12:00:00 THIS_FILE",
        "# Nodes without the internet: run 'data fetch' and 'models pull' on the login node before the job,",
        *(["# 'score' and 'stats' there after it,"] if steps.judged else []),
        "# and delete these lines here.",
        *(f"# Needs {need}." for need in steps.needs),
        "set -uo pipefail",
    ]
    for command in steps.commands:
        many = gpus > 1 and command.startswith(("viscot bench cot", "viscot bench refcoco"))
        whole = command + (f" --gpus {gpus}" if many else "")
        whole += " --yes" if command.startswith("viscot data fetch") else ""
        lines.append(f"{whole} || [ $? -eq 3 ] || exit 1")
    return "\n".join(lines) + "\n"
