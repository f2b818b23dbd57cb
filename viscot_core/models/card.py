"""The model card of a checkpoint: how to ask it, how it was trained, what was measured. Nothing private.

Paths of this machine, servers and keys stay here: of the recipe's paths only the last name is shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from viscot_core.addresses import without_password
from viscot_core.yaml_text import load_yaml

MARK = "<!-- Written by viscot models push; a card without this line is left as it is. -->"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FIGURES = {"eval_answers": "answers right", "eval_box": "boxes right (IoU at least 0.5)"}


def card(name: str, folder: Path) -> str:
    """``README.md`` of ``folder`` as the hub's model ``name``."""
    recipe = _recipe(folder)
    about: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "image-text-to-text"}
    about["tags"] = ["viscot", "visual-chain-of-thought"]
    if bases := list(_bases(recipe)):
        about["base_model"] = bases
    lines = ["---", yaml.safe_dump(about, sort_keys=False).strip(), "---", MARK, "", f"# {name}", ""]
    lines += ["A model that says where to look, looks again at that part of the image, then answers.", ""]
    commands = [f"viscot models pull {name}", f'viscot infer IMAGE "QUESTION" --model {name}']
    lines += ["```bash", *commands, "```", ""]
    lines += _measured(folder)
    if recipe:
        shown = yaml.safe_dump(_public(recipe), sort_keys=False, allow_unicode=True).strip()
        lines += ["## Recipe", "", "Folders are left out.", "", "```yaml", shown, "```", ""]
    return "\n".join(lines)


def _recipe(folder: Path) -> dict[str, Any]:
    path = folder / "recipe.yaml"
    if not path.is_file():
        return {}
    found = load_yaml(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    return found if isinstance(found, dict) else {}


def _bases(recipe: dict[str, Any]) -> Iterator[str]:
    """What the model was made from, as far as the hub knows it by that name."""
    for key in ("base_llm", "checkpoint", "vision_tower"):
        value = (recipe.get("model") or {}).get(key)
        if isinstance(value, str) and _HUB_ID.fullmatch(value) and not Path(value).exists():
            yield value


def _public(value: Any) -> Any:
    """The same without this machine's paths and without passwords in addresses."""
    if isinstance(value, dict):
        return {key: _public(child) for key, child in value.items() if child is not None}
    if isinstance(value, list):
        return [_public(child) for child in value]
    return without_folders(value) if isinstance(value, str) else value


def without_folders(value: str) -> str:
    """The last name of a path of this machine; any other text without passwords in addresses."""
    here = value.startswith(("/", "~", "./", "../")) or ("/" in value and Path(value).exists())
    return Path(value).name if here else without_password(value)


def _measured(folder: Path) -> list[str]:
    """The last evaluation of the last stage that was evaluated, with its intervals."""
    logs = sorted(folder.glob("stages/*/evaluations.jsonl"))
    if not logs:
        return []
    rows = [json.loads(line) for line in logs[-1].read_text(encoding="utf-8").splitlines() if line.strip()]
    if not rows:
        return []
    last = rows[-1]
    where = f"at step {last['step']} of the stage `{logs[-1].parent.name}`"
    lines = ["## Figures", "", f"Of rows and questions that it did not learn, {where}:", ""]
    lines += ["| figure | value | 95 % interval | of |", "|---|---:|---:|---:|"]
    if "eval_loss" in last:
        lines.append(f"| loss | {last['eval_loss']:.4f} | | {last['eval_rows']:.0f} rows |")
    for key, text in _FIGURES.items():
        if key in last:
            low, high = last.get(f"{key}_low"), last.get(f"{key}_high")
            interval = "" if low is None else f"{low:.3f} - {high:.3f}"
            lines.append(f"| {text} | {last[key]:.3f} | {interval} | {last[f'{key}_of']:.0f} questions |")
    return [*lines, ""]
