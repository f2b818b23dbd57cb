"""A model hub on this machine, as ``viscot models pull`` asks it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from web_server import listening

SHA = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """A model hub; notes what was asked and can drop or spoil a file on its way.

    ``files`` are those of ``repo``, ``others`` those of further repositories by their id.
    """

    files: dict[str, bytes]
    repo: str = "someone/tiny-viscot"
    others: dict[str, dict[str, bytes]] = field(default_factory=dict)
    url: str = ""
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    drop_after: dict[str, int] = field(default_factory=dict)
    """Bytes after which the connection is cut, once per file."""
    spoil: set[str] = field(default_factory=set)
    gated: bool = False
    """Whether it gives no file before its license is accepted."""
    etag: str = ""
    """Sent for every file, instead of its sha256."""

    def of(self, path: str) -> dict[str, bytes] | None:
        """The files of the repository that a path names."""
        words = path.removeprefix("/api/models").strip("/").split("/")
        return {**self.others, self.repo: self.files}.get("/".join(words[:2]))

    @staticmethod
    def tree(files: dict[str, bytes]) -> list[dict[str, Any]]:
        """What the hub's listing says of them."""
        rows: list[dict[str, Any]] = []
        for name, content in files.items():
            if "/" in name:  # the hub lists one level
                continue
            row: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
            if name.endswith((".safetensors", ".bin")):
                digest = hashlib.sha256(content).hexdigest()
                row["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
            rows.append(row)
        return rows


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _json(self, content: object, body: bool, status: int = 200) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            code = {404: "RepoNotFound", 403: "GatedRepo"}.get(status)
            if code is not None:
                self.send_header("x-error-code", code)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def _answer(self, body: bool) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append((self.command, path, self.headers.get("range")))
            files, name = hub.of(path), path.rsplit("/", 1)[-1]
            if files is not None and path.startswith("/api/"):
                siblings = [{"rfilename": name} for name in files]
                about = {"id": "x", "sha": SHA, "siblings": siblings}
                return self._json(hub.tree(files) if "/tree/" in path else about, body)
            if files is None or name not in files:
                return self._json({"error": "Repository not found"}, body, status=404)
            if hub.gated:
                return self._json({"error": "Access to the model is restricted"}, body, status=403)
            return self._file(name, files[name], body)

        def _file(self, name: str, content: bytes, body: bool) -> None:
            start = 0
            if (wanted := self.headers.get("range")) is not None:
                start = int(wanted.removeprefix("bytes=").split("-")[0])
            self.send_response(206 if start else 200)
            self.send_header("etag", f'"{hub.etag or hashlib.sha256(content).hexdigest()}"')
            self.send_header("x-repo-commit", SHA)
            self.send_header("accept-ranges", "bytes")
            self.send_header("content-length", str(len(content) - start))
            if start:
                self.send_header("content-range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if not body:
                return
            if name in hub.spoil:
                content = content[:-64] + bytes(64)
            if (cut := hub.drop_after.pop(name, None)) is not None:
                self.wfile.write(content[start:cut])
                self.wfile.flush()
                self.connection.close()
                self.close_connection = True
                return
            self.wfile.write(content[start:])

    return Handler


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub, while it can be reached at ``hub.url``."""
    with listening(_handler(hub)) as hub.url:
        yield hub


def pull(hub: Hub, cache: Path, below: Path, name: str | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own (the hub's address is read once, at import)."""
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "VISCOT_CACHE": str(cache),
        "NO_PROXY": "127.0.0.1",
    }
    # mm_vision_tower "tiny_clip" is found beside the snapshot's folder or below the working directory.
    return subprocess.run(
        [sys.executable, "-m", "viscot_cli.app", "models", "pull", name or hub.repo],
        env=environment,
        cwd=below,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
