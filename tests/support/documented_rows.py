"""The rows that docs/data-formats.md shows, by layout, and files of such rows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs/data-formats.md"
EXAMPLES = {
    name: (options, json.loads(text))
    for name, options, text in re.findall(r"```json (\S+) ?(.*?)\n(.*?)```", PAGE.read_text(), re.DOTALL)
}


def write_documented(folder: Path, *rows: Any, name: str = "rows.jsonl") -> Path:
    """Rows as JSON Lines in ``folder``; returns the file."""
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / name
