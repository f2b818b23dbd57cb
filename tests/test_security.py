"""SECURITY.md promises only what a test holds."""

from __future__ import annotations

import re
from pathlib import Path

NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")


def test_every_test_that_security_md_names_exists(repo: Path) -> None:
    text = (repo / "SECURITY.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "| attack |" not in line]
    assert len(rows) > 50 and all(NAMED.search(row) for row in rows), "each row names a test"
    missing = [
        f"{file}::{name}"
        for file, name in NAMED.findall(text)
        if not re.search(rf"^(async )?def {name}\(", (repo / "tests" / file).read_text("utf-8"), re.MULTILINE)
    ]
    assert not missing
