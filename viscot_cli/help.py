"""The help of commands: whole sentences, words that are never split, and two examples at the end of each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from viscot_cli.complete import with_offers

if TYPE_CHECKING:  # typer has its own copy of click
    from typer._click import Command, Context, HelpFormatter
else:
    HelpFormatter = typer.Context.formatter_class

_HYPHEN = "\ue000"  # of the private use area: no text has it

EXAMPLES: dict[str, tuple[str, str]] = {
    "": (
        'viscot infer photo.jpg "What is the total?"',
        "viscot tour",
    ),
    "tour": (
        "viscot tour",
        "viscot tour --model VisCoT-7b-336 --questions 100",
    ),
    "infer": (
        'viscot infer photo.jpg "What is the total?" --save answer.png',
        'viscot infer photos/ "Which brand?" --model VisCoT-7b-336 --out a.jsonl',
    ),
    "traces": (
        "viscot traces show trace.jsonl 3 --save steps.png",
        "viscot traces convert trace.jsonl --to ms-swift --out sft.jsonl",
    ),
    "traces show": (
        "viscot traces show trace.jsonl 3",
        "viscot traces show results/zoom 3 --save steps.png",
    ),
    "traces convert": (
        "viscot traces convert trace.jsonl --to deepeyes --out sft.jsonl",
        "viscot traces convert sft.jsonl --to trace --out trace.jsonl",
    ),
    "rewards": (
        "viscot rewards list",
        "viscot rewards check trace.jsonl --reward iou,answer,format",
    ),
    "rewards list": (
        "viscot rewards list",
        "viscot rewards list --json",
    ),
    "rewards check": (
        "viscot rewards check trace.jsonl --reward iou,answer,format",
        "viscot rewards check results/zoom --reward answer:anls,tool-bonus=0.5",
    ),
    "mcp": (
        "viscot mcp --root images/",
        "viscot mcp --root images/ --max-pixels 1000000",
    ),
    "chat": (
        "viscot chat photo.jpg --model VisCoT-7b-336",
        "viscot chat photo.jpg --model http://localhost:8000/v1#NAME",
    ),
    "demo": (
        "viscot demo --port 7860",
        "viscot demo --model VisCoT-7b-336,qwen3-vl-8b --load-in 4bit",
    ),
    "serve": (
        "viscot serve --model VisCoT-7b-336 --port 8000",
        "viscot serve --host 0.0.0.0 --api-key-env VISCOT_KEY",
    ),
    "data": (
        "viscot data fetch --for bench:docvqa,gqa --data data",
        "viscot data synth --out data/synth --train 40 --val 12",
    ),
    "data list": (
        "viscot data list",
        "viscot data list gqa docvqa",
    ),
    "data fetch": (
        "viscot data fetch --for bench:docvqa,gqa --dry-run",
        "viscot data fetch --for finetune --data /disk/data --yes",
    ),
    "data organize": (
        "viscot data organize --from ~/downloads",
        "viscot data organize --from ~/downloads --for bench --link copy",
    ),
    "data check": (
        "viscot data check --data data",
        "viscot data check my_rows.jsonl --images my_images --boxes qwen2.5-vl",
    ),
    "data convert": (
        "viscot data convert data/metadata/gqa_cot_train.jsonl --out gqa.json",
        "viscot data convert my_rows.parquet --to llava --out my_rows.json",
    ),
    "data mix": (
        "viscot data mix first.json second.json --out mixture",
        "viscot data mix first.json second.json --weight second=0.5 --out half",
    ),
    "data show": (
        "viscot data show data cub:17",
        "viscot data show data/viscot_363k.json 0 --save first.png",
    ),
    "data stats": (
        "viscot data stats data/viscot_363k.json",
        "viscot data stats data/benchmark/gqa.json --tokenizer VisCoT-7b-336",
    ),
    "data prefs": (
        "viscot data prefs --data data/rewards --boxes 6 --out prefs.jsonl",
        "viscot data prefs --data rows.jsonl --reward iou --out prefs.jsonl",
    ),
    "data synth": (
        "viscot data synth --out data/synth --train 40 --val 12 --seed 7",
        "viscot data synth --kind search --out data/search --train 0 --val 500",
    ),
    "models": (
        "viscot models list",
        "viscot models pull VisCoT-7b-336",
    ),
    "models list": (
        "viscot models list --family qwen3-vl",
        "viscot models list --json",
    ),
    "models pull": (
        "viscot models pull VisCoT-7b-336",
        "viscot models pull deepcs233/VisCoT-13b-336",
    ),
    "models push": (
        "viscot models push me/my-model runs/my-model",
        "viscot models push me/my-model runs/my-model --public",
    ),
    "models serve-command": (
        "viscot models serve-command VisCoT-7b-336 --for vllm",
        "viscot models serve-command Qwen/Qwen3-VL-8B-Instruct --for sglang",
    ),
    "models inspect": (
        "viscot models inspect VisCoT-7b-336",
        "viscot models inspect runs/7b-336/model",
    ),
    "models export": (
        "viscot models export VisCoT-7b-336 --layout hf --dtype bf16 --out hf",
        "viscot models export runs/7b-336 --layout llava --out llava",
    ),
    "models merge-lora": (
        "viscot models merge-lora runs/lora --out merged",
        "viscot models merge-lora runs/lora --out merged --dtype bf16",
    ),
    "recipes": (
        "viscot recipes list",
        "viscot recipes copy 7b-336 mine.yaml",
    ),
    "recipes list": (
        "viscot recipes list",
        "viscot recipes list --json",
    ),
    "recipes show": (
        "viscot recipes show 7b-336",
        "viscot recipes show 7b-336 --explain",
    ),
    "recipes copy": (
        "viscot recipes copy 7b-336 mine.yaml",
        "viscot recipes copy tiny mine.yaml --force",
    ),
    "recipes check": (
        "viscot recipes check mine.yaml",
        "viscot recipes check 7b-336 --set stages.finetune.epochs=2",
    ),
    "train": (
        "viscot train --recipe tiny --data data/synth --out runs/tiny --dry-run",
        "viscot train --recipe 13b-336 --data data --gpus 8",
    ),
    "pretrain": (
        "viscot pretrain --recipe 7b-336 --data data --gpus 8",
        "viscot pretrain --recipe 7b-336 --data my_data.json --images my_images",
    ),
    "finetune": (
        "viscot finetune --recipe 7b-336 --data my_data.json --eval-split 0.01",
        "viscot finetune --recipe 7b-336 --data data --gpus 8 --resume",
    ),
    "prefer": (
        "viscot prefer --recipe tiny-dpo --data data/dpo --out runs/dpo",
        "viscot prefer --recipe tiny-dpo --data data/dpo --out runs/dpo --resume",
    ),
    "reinforce": (
        "viscot reinforce --recipe tiny-grpo --data data/rewards --out runs/grpo",
        "viscot reinforce --recipe qwen3-vl-8b-grpo --data data --dry-run --gpus 8",
    ),
    "bench": (
        "viscot bench cot --data data --strategy cot,direct,gt-box",
        "viscot bench list",
    ),
    "bench cot": (
        "viscot bench cot --model VisCoT-7b-336 --data data --tasks docvqa,gqa",
        "viscot bench cot --model http://localhost:8000/v1#NAME --concurrency 32",
    ),
    "bench run": (
        "viscot bench run vstar,treebench --policy direct,zoom --repeats 4",
        "viscot bench run vstar --data data --limit 20 --out results/vstar",
    ),
    "bench tsv": (
        "viscot bench tsv cot --data data --out LMUData/VisualCoT.tsv",
        "viscot bench tsv vstar --data data --out LMUData/VStar.tsv",
    ),
    "bench refcoco": (
        "viscot bench refcoco --model VisCoT-7b-336 --data data",
        "viscot bench refcoco --data data --limit 100 --out results/few",
    ),
    "bench general": (
        "viscot bench general --model VisCoT-7b-336 --tasks pope,gqa",
        "viscot bench general --model VisCoT-7b-336 --tasks mme --out results/mme",
    ),
    "bench vqa": (
        "viscot bench vqa --questions my.jsonl --images my_images",
        "viscot bench vqa --questions my.jsonl --images my_images --style letter",
    ),
    "bench import": (
        "viscot bench import --data data --boxes detection --out results/theirs",
        "viscot bench import --data data --answers cot=answers --out results/theirs",
    ),
    "bench export": (
        "viscot bench export results/VisCoT-7b-336-cot",
        "viscot bench export results/VisCoT-7b-336-cot --to coco --out boxes",
    ),
    "bench list": (
        "viscot bench list",
        "viscot bench cot --data data --tasks docvqa,gqa --strategy cot,direct",
    ),
    "bench show": (
        "viscot bench show results/synth docvqa:17",
        "viscot bench show results/synth docvqa:17 --strategy cot --save item.png",
    ),
    "bench calibrate": (
        "viscot bench calibrate --model http://localhost:8000/v1#NAME",
        "viscot bench calibrate --model Qwen/Qwen2.5-VL-7B-Instruct --count 16",
    ),
    "score": (
        "viscot score results/synth --judge exact",
        "viscot score results/synth --judge openai:gpt-4o-mini --max-cost 2.00",
    ),
    "stats": (
        "viscot stats results/synth --out report.html",
        "viscot stats results/VisCoT-7b-336-cot --compare paper",
    ),
    "compare": (
        "viscot compare results/a results/b",
        "viscot compare results/a results/b --allow policy --judge shuffled",
    ),
    "audit": (
        "viscot audit results/synth --replace none,blank,random",
        "viscot audit results/zoom --replace blank,other,gt --out results/audit",
    ),
    "paper": (
        "viscot paper 3",
        "viscot paper 9 --sbatch --gpus 4",
    ),
    "doctor": (
        "viscot doctor",
        "viscot doctor --json",
    ),
}
"""Two command lines for the end of each help, by the command's words."""


class _WholeWords(HelpFormatter):
    """Breaks lines between words only: never at the hyphen of ``--box-format`` or ``gt-box``."""

    def write_text(self, text: str) -> None:
        super().write_text(_guarded(text))

    def write_dl(self, rows: Sequence[tuple[str, str]], *args: Any, **named: Any) -> None:
        super().write_dl([(name, _guarded(text)) for name, text in rows], *args, **named)

    def getvalue(self) -> str:
        return str(super().getvalue()).replace(_HYPHEN, "-")


def _guarded(text: str) -> str:
    return re.sub(r"(?<=[\w-])-(?=\w)|-(?=-)", _HYPHEN, text)


class _Context(typer.Context):
    formatter_class = _WholeWords


class Commands(TyperGroup):
    """A group whose help says of each command its whole first sentence."""

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        """The commands that are not hidden, in their order."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, _first_sentence(one.help or "")) for name, one in found if one and not one.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _first_sentence(text: str) -> str:
    paragraph = " ".join(text.partition("\n\n")[0].split())
    sentence, stop, _ = paragraph.partition(". ")
    return sentence + stop.strip()


def dressed(command: Command, words: str) -> Command:
    """``command``, and what is inside it, with examples and completion; ``words`` call it: ``data fetch``."""
    command.context_class = _Context
    with_offers(command, words)
    if words in EXAMPLES:
        lines = "\n".join(f"  {line}" for line in EXAMPLES[words])
        # click keeps the lines of a paragraph that starts with \b.
        command.epilog = f"\b\nExamples:\n{lines}" + (f"\n\n{command.epilog}" if command.epilog else "")
    for name, one in getattr(command, "commands", {}).items():
        dressed(one, f"{words} {name}".strip())
    return command
