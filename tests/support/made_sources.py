"""A made-up world of sources: files, a zip, a tgz, a tar in parts, a hub file; served on loopback."""

from __future__ import annotations

import io
import random
import tarfile
import zipfile

from web_server import Web

from viscot_core.sources.catalog import Catalog

HUB = "someone/Images"


def contents(seed: int, count: int, folder: str, size: int = 20_000) -> dict[str, bytes]:
    draw = random.Random(seed)
    return {f"{folder}/{n:03d}.jpg": draw.randbytes(draw.randrange(size)) for n in range(count)}


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def tarred(files: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def make_world(web: Web, *, parts: int = 5, files: int = 40) -> tuple[Catalog, dict[str, bytes]]:
    """Fill ``web`` and return its catalogue and the tree a complete fetch gives (less ``.viscot``)."""
    web.files["/rows/one.json"] = b'[{"a": 1}]'
    web.files["/rows/two.json"] = b"[" + b" " * 70_000 + b"]"
    zips, tars, split = (contents(seed, files, "x/pics") for seed in (1, 2, 3))
    web.files["/z.zip"], web.files["/t.tgz"] = zipped(zips), tarred(tars, "w:gz")
    whole = tarred(split)
    size = -(-len(whole) // parts)
    for number in range(parts):
        web.files[f"{HUB}/split/part_{number:02d}"] = whole[number * size : (number + 1) * size]
    web.files[f"{HUB}/big.json"] = b"[]" * 60_000
    tree = {
        "rows/one.json": web.files["/rows/one.json"],
        "rows/two.json": web.files["/rows/two.json"],
        "big.json": web.files[f"{HUB}/big.json"],
        **{name.replace("x/pics", "zip/pics"): data for name, data in zips.items()},
        **{name.replace("x/pics", "tgz"): data for name, data in tars.items()},
        **{name.replace("x/pics", "cot/pics"): data for name, data in split.items()},
    }
    return catalog_of(web.url, parts, len(whole)), tree


def catalog_of(url: str, parts: int, split_size: int) -> Catalog:
    hub_parts = {"hub": HUB, "path": "split/part_{part:02d}", "parts": parts, "size": split_size}
    return Catalog.model_validate(
        {
            "links": {"cot/other": "cot/pics"},
            "sources": [
                {
                    "name": "rows",
                    "title": "rows",
                    "license": "none",
                    "purposes": ["bench"],
                    "downloads": [
                        {
                            "url": url + "/rows/{set}.json",
                            "to": "rows/{set}.json",
                            "each": {"one": 10, "two": 70000},
                        }
                    ],
                },
                {
                    "name": "zip",
                    "title": "a zip",
                    "license": "none",
                    "purposes": ["finetune"],
                    "downloads": [
                        {"url": url + "/z.zip", "to": "zip", "archive": "zip", "keep_from": ["pics"]}
                    ],
                },
                {
                    "name": "tgz",
                    "title": "a tgz",
                    "license": "none",
                    "purposes": ["finetune"],
                    "downloads": [
                        {"url": url + "/t.tgz", "to": "tgz", "archive": "tar", "keep_after": ["pics"]}
                    ],
                },
                {
                    "name": "split",
                    "title": "a tar in parts",
                    "license": "none",
                    "purposes": ["finetune"],
                    "downloads": [{**hub_parts, "to": "cot", "archive": "tar", "keep_from": ["pics"]}],
                },
                {
                    "name": "hub-file",
                    "title": "a hub file",
                    "license": "none",
                    "downloads": [{"hub": HUB, "path": "big.json", "size": 120000, "to": "big.json"}],
                },
                {"name": "gated", "title": "by hand", "license": "none", "gate": "ask", "folder": "hand"},
            ],
        }
    )


if __name__ == "__main__":  # a fetch that can be killed: python made_sources.py URL PARTS SPLIT_SIZE ROOT
    import sys
    from pathlib import Path

    from viscot_core.sources.catalog import select
    from viscot_core.sources.fetch import fetch
    from viscot_core.sources.plan import plan

    made, root = catalog_of(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])), Path(sys.argv[4])
    print("start", flush=True)
    outcome = fetch(root, plan(root, select(made, ["all"])), made)
    print(outcome.failed, flush=True)
    sys.exit(1 if outcome.failed else 0)
