"""A loopback web server that speaks Range, ETag and If-Range, and misbehaves on request.

``Web.files`` maps paths to bytes; ``Web.faults`` maps paths to faults used up one per request: ``drop:N``
(close the connection after N bytes of body), ``stall:N``, ``short:N`` (declare N bytes less than are sent),
``long:N`` (declare N more), ``code:N[:RETRY_AFTER]``, ``no-range`` (200 for a range), ``garbage`` (other
bytes), ``weak`` (no validator), ``html`` (a page), ``gzip`` (encoded bytes), ``part`` (206 without a range:
half), ``changed`` (206 of another version), ``endless`` and ``unsized`` (no length), ``odd-etag`` (not
ASCII), ``wrong-range`` (206 from elsewhere). ``drop:N`` may have ``+no-range`` behind it. ``Web.log`` holds
what was ``Served``.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Served:
    """One request and what was sent for it so far."""

    method: str
    path: str
    range: str | None
    sent: int = 0


@dataclass
class Web:
    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    log: list[Served] = field(default_factory=list)
    bytes_per_second: float | None = None
    bytes_sent: int = 0
    commit: str = "c0ffee" + "0" * 34

    def sent(self, path: str) -> int:
        """Body bytes sent for a path over all requests."""
        return sum(served.sent for served in self.log if served.path == path)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.split("?")[0]
        if tree := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/[^/]+/?(.*)", path):
            self._tree(f"{tree[1]}/", f"{tree[1]}/{tree[2]}".rstrip("/") + "/")
            return
        # A hub's file address: /datasets/ORG/NAME/resolve/REVISION/FILE
        hub = re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        name = f"{hub[1]}/{hub[3]}" if hub else path
        data = self.web.files.get(name)
        faults = self.web.faults.get(name, [])
        fault = faults.pop(0) if faults and body else ""
        fault, *also = fault.split("+")
        kind, _, number = fault.partition(":")
        if data is None:
            self._error(404, name)
            return
        if kind == "code":
            code, _, after = number.partition(":")
            self._error(int(code), name, {"Retry-After": after} if after else {})
            return
        if kind == "garbage":
            data = bytes(len(data))
        if kind in ("html", "gzip", "part", "endless", "unsized") and data is not None:
            self._wrong_kind(kind, data, name)
            return
        etag = '"' + hashlib.sha256(data).hexdigest() + '"'
        asked = self.headers.get("Range")
        start = 0
        if asked and "no-range" not in (kind, *also) and self.headers.get("If-Range", etag) == etag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                self._error(416, name)
                return
        if kind == "changed" and start:
            data, etag = data[::-1], '"another"'
        if kind == "wrong-range" and start:
            start += 7
        if kind == "odd-etag":
            etag = '"\xfc"'
        part = data[start:]
        promise = len(part) + {"short": -1, "long": 1}.get(kind, 0) * (
            int(number) if kind in ("short", "long") else 0
        )
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(promise))
        self.send_header("Accept-Ranges", "bytes")
        if kind != "weak":
            self.send_header("ETag", etag)
        if hub:
            self.send_header("X-Repo-Commit", self.web.commit)
        # Noted before the client can have the answer, so that a test never looks too early.
        entry = Served(self.command, name, asked)
        self.web.log.append(entry)
        self.end_headers()
        if body:
            self._send(part, kind, number, entry)

    def _tree(self, repo: str, folder: str) -> None:
        """The hub's list of files under a folder of a data set."""
        found = [
            {"type": "file", "path": name.removeprefix(repo), "size": len(data), "oid": "0" * 40}
            for name, data in self.web.files.items()
            if name.startswith(folder)
        ]
        body = json.dumps([{"type": "directory", "path": "some", "oid": "0" * 40}, *found]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _wrong_kind(self, kind: str, data: bytes, name: str) -> None:
        """Answers that are not the file, or not provably all of it."""
        body = {
            "html": b"<html>No access</html>",
            "gzip": gzip.compress(data),
            "part": data[: len(data) // 2],
        }
        self.send_response(206 if kind == "part" else 200)
        if kind in body:
            self.send_header("Content-Length", str(len(body[kind])))
        if kind == "html":
            self.send_header("Content-Type", "text/html; charset=utf-8")
        if kind == "gzip":
            self.send_header("Content-Encoding", "gzip")
        if kind == "endless":
            self.send_header("Transfer-Encoding", "chunked")
        self.close_connection = kind in ("endless", "unsized")
        entry = Served(self.command, name, self.headers.get("Range"))
        self.web.log.append(entry)
        self.end_headers()
        try:
            self.wfile.write(body.get(kind, data if kind == "unsized" else b""))
            while kind == "endless" and entry.sent < 1 << 30:
                self.wfile.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
                entry.sent += 1 << 16
        except OSError:
            self.close_connection = True

    def _send(self, part: bytes, kind: str, number: str, entry: Served) -> None:
        stop = int(number) if kind in ("drop", "stall") else len(part)
        if kind == "short":
            stop = len(part) - int(number)
        sent, step = 0, 1 << 14
        try:
            while sent < min(stop, len(part)):
                block = part[sent : min(sent + step, stop)]
                entry.sent += len(block)
                self.web.bytes_sent += len(block)
                self.wfile.write(block)
                self.wfile.flush()
                sent += len(block)
                if self.web.bytes_per_second:
                    time.sleep(len(block) / self.web.bytes_per_second)
        except OSError:
            self.close_connection = True
            return
        if kind == "stall":
            time.sleep(1.5)
        if kind in ("drop", "stall", "long", "short"):
            self.close_connection = True

    def _error(self, code: int, name: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", "0")
        self.web.log.append(Served(self.command, name, self.headers.get("Range")))
        self.end_headers()


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server on a free loopback port, a thread a request, for the length of the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def serving() -> Iterator[Web]:
    """A web server for the length of the block."""
    web = Web()
    with listening(type("Handler", (_Handler,), {"web": web})) as web.url:
        yield web
