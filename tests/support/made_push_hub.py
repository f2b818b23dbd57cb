"""A model hub on this machine that takes uploads: the calls of huggingface_hub's commit over LFS."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from web_server import listening


@dataclass
class PushHub:
    """What was uploaded, by path; ``card``: a card that is there already; ``status`` refuses every write."""

    token: str = "hf_" + "a" * 30
    card: str | None = None
    status: int = 200
    upload_status: int = 200
    """What the store of large files answers."""
    signature: str = "sesame-open"
    """In the addresses of that store: whoever has it may write there."""
    page: bytes | None = None
    """Said instead of who the user is."""
    url: str = ""
    created: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": self.token,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
        }


def _handler(hub: PushHub) -> type[BaseHTTPRequestHandler]:
    def _signed(oid: str) -> str:
        return f"{hub.url}/put/{oid}?X-Amz-Signature={hub.signature}"

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _say(self, content: object, status: int = 200, **headers: str) -> None:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"content-length": str(len(data)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if hub.page is not None:
                self._say(hub.page)
            elif path == "/api/whoami-v2":
                known = self.headers.get("authorization") == f"Bearer {hub.token}"
                self._say({"name": "me", "type": "user", "auth": {}} if known else {}, 200 if known else 401)
            elif path.endswith("README.md") and hub.card is not None:
                self._say(hub.card.encode(), etag='"1"', x_repo_commit="0" * 40)
            else:
                self._say({"error": "Entry not found"}, 404, x_error_code="EntryNotFound")

        do_HEAD = do_GET

        def do_PUT(self) -> None:
            hub.blobs[self.path.partition("?")[0].rsplit("/", 1)[-1]] = self._body()
            self._say({}, hub.upload_status)

        def do_POST(self) -> None:
            path, body = self.path.partition("?")[0], self._body()
            if hub.status != 200:
                self._say({"error": "You may not write here"}, hub.status)
            elif path == "/api/repos/create":
                hub.created = json.loads(body)
                self._say({"url": f"{hub.url}/me/model", "name": "me/model", "id": "1"})
            elif path.endswith("/validate-yaml"):
                self._say({"errors": [], "warnings": []})
            elif "/preupload/" in path:
                names = [one["path"] for one in json.loads(body)["files"]]
                self._say({"files": [self._mode(name) for name in names]})
            elif path.endswith("/objects/batch"):
                wanted = json.loads(body)["objects"]
                made = [{**o, "actions": {"upload": {"href": _signed(o["oid"])}}} for o in wanted]
                self._say({"transfer": "basic", "objects": made})
            elif "/commit/" in path:
                self._commit([json.loads(line) for line in body.splitlines()])
            else:
                self._say({"error": path}, 404)

        def _mode(self, name: str) -> dict[str, Any]:
            large = name.endswith((".safetensors", ".bin", ".model"))
            return {"path": name, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}

        def _commit(self, lines: list[dict[str, Any]]) -> None:
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    hub.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.files[value["path"]] = hub.blobs[value["oid"]]
            hub.commits += 1
            where = f"{hub.url}/me/model/commit/{'0' * 40}"
            self._say({"success": True, "commitOid": "0" * 40, "commitUrl": where, "pullRequestUrl": None})

        def _body(self) -> bytes:
            if self.headers.get("transfer-encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline().strip(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("content-length", 0)))

    return Handler


@contextmanager
def serving(hub: PushHub) -> Iterator[PushHub]:
    """The hub, while it can be reached at ``hub.url``."""
    with listening(_handler(hub)) as hub.url:
        yield hub
