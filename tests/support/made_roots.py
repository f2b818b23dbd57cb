"""Data roots for tests: rows of every kind, real or made up, with images drawn at the annotated sizes."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from viscot_core.data.annotations import Conversation, DetectionRow, MetadataRow, RefcocoRow, Row, Rows
from viscot_core.sources.annotated import images_of


def draw(path: Path, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 30, 40)).save(path, "JPEG" if path.suffix in (".jpg", ".jpeg") else "PNG")


def real_root(shared: Path, root: Path, rows: int) -> int:
    """The first ``rows`` rows of every real file, and their images; returns how many were drawn."""
    source = shared / "reference_data"
    sizes: dict[str, tuple[int, int]] = {}
    kinds: dict[str, type[Row]] = {
        "benchmark_det": DetectionRow,
        "refcoco": RefcocoRow,
        "metadata": MetadataRow,
    }
    for folder, kind in kinds.items():
        for path in sorted((source / folder).glob("*.jsonl")):
            lines = path.read_text().splitlines()[:rows]
            target = root / folder / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text("\n".join(lines) + "\n")
            for row in Rows(target, kind):
                sizes.update((named.path, named.size) for named in images_of(row) if named.size)
    for path in sorted((source / "benchmark").glob("*.json")):
        target = root / "benchmark" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        kept = [row.to_disk() for _, row in zip(range(rows), Rows(path, Conversation), strict=False)]
        target.write_text(json.dumps(kept))
    for name, size in sizes.items():
        draw(root / name, size)
    return len(sizes)


def made_root(root: Path) -> None:
    """Two images, three rows that name them, one of every common kind of file."""
    draw(root / "cot/gqa/1.jpg", (640, 480))
    draw(root / "cot/gqa/2.jpg", (300, 500))
    turns = [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "a"}]
    train = [
        {"id": 1, "image": ["cot/gqa/1.jpg", "cot/gqa/1.jpg###[10, 10, 600, 470]"], "conversations": turns},
        {"id": 2, "image": "cot/gqa/2.jpg", "conversations": turns},
        {"id": 3, "conversations": turns},
    ]
    (root / "train.json").write_text(json.dumps(train, indent=1))
    row = {
        "img_path": "cot/gqa/1.jpg",
        "expression": "q",
        "bbox": [0, 0, 640, 480],
        "width": 640,
        "height": 480,
    }
    (root / "benchmark_det").mkdir()
    (root / "benchmark_det/gqa.jsonl").write_text(json.dumps(row) + "\n")
