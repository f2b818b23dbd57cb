"""Fetching into a folder, and what came."""

from __future__ import annotations

from pathlib import Path

from viscot_core.sources.catalog import Catalog, select
from viscot_core.sources.fetch import FetchOutcome, fetch
from viscot_core.sources.plan import plan
from viscot_core.sources.transfer import Patience

QUICK = Patience(attempts=4, first_wait=0.001, longest_wait=0.05)


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def images(root: Path) -> dict[str, bytes]:
    """The tree without viscot's own records and without what is reached through links."""
    return {
        name: data
        for name, data in tree(root).items()
        if not name.startswith(".viscot/") and not (root / name).parent.is_symlink()
    }


def get(root: Path, catalog: Catalog, *wanted: str) -> FetchOutcome:
    return fetch(root, plan(root, select(catalog, wanted or ("all",))), catalog, patience=QUICK)
