"""``viscot serve`` from the command line: refusals before a model is loaded, and a whole life."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from serve_help import question

Cli = Callable[..., Any]


def test_what_is_wrong_is_told_before_a_model_is_loaded(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    for words, sentence in (
        (("--api-key-env", "NO_SUCH_KEY"), "NO_SUCH_KEY is empty"),
        (("--allow-urls", "https://example.org/*"), "takes hosts like example.org"),
        (("--host", "203.0.113.7"), "choose another --port or --host"),
        (("--port", "0", "--model", "no-such-model"), "no-such-model"),
    ):
        ran = cli("serve", *words)
        assert ran.code != 0 and sentence in ran.err, ran.err
        assert ran.err.count("\n") == 1, "one sentence"


def test_a_taken_port_is_told(cli: Cli) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for command in ("serve", "demo"):
            ran = cli(command, "--port", port)
            assert ran.code == 2 and f"port {port}" in ran.err and "--port" in ran.err


@pytest.mark.slow
def test_a_server_says_where_it_is_answers_and_leaves_on_sigterm(repo: Path) -> None:
    """Asked as README.md asks it: with curl, and with viscot infer."""
    with _started(repo) as (process, lines):
        found = re.search(r"http://127\.0\.0\.1:\d+/v1", lines[0])
        assert found is not None and "Only programs on this machine" in lines[1]
        body = question(max_tokens=8)
        reply = httpx.post(f"{found[0]}/chat/completions", json=body, timeout=600, trust_env=False)
        assert reply.status_code == 200 and reply.json()["viscot"]["box_status"]
        output = _readme_asks(repo, found[0])
        assert '"box_status"' in output and "data: [DONE]" in output and "\nanswer " in output
    assert process.returncode in (0, -signal.SIGTERM)
    assert lines[2:] == [], "it leaves without a word"


@pytest.mark.slow
def test_idle_sockets_and_a_length_given_twice_as_a_user_starts_it(repo: Path) -> None:
    """340 sockets that say nothing, which had 20 of 20 calls answered with 503; and smuggling, with a key."""
    key = {"Authorization": "Bearer s3cret"}
    smuggles = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
    smuggles += "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"
    with _started(repo, "--api-key-env", "KEY") as (_, lines), ExitStack() as stack:
        port = int(lines[0].partition("127.0.0.1:")[2].partition("/")[0])
        for _ in range(340):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
        url = f"http://127.0.0.1:{port}/v1/models"
        codes = [httpx.get(url, headers=key, timeout=30, trust_env=False).status_code for _ in range(20)]
        assert codes == [200] * 20
        client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
        client.sendall(f"{smuggles}\r\n0\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        reply = b""
        while block := client.recv(65536):
            reply += block
        assert reply.startswith(b"HTTP/1.1 400") and reply.count(b"HTTP/1.1") == 1


@contextmanager
def _started(repo: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """``viscot serve`` with the tiny model, and the lines that it says: two, and more after its SIGTERM."""
    model = repo / "tests" / "golden" / "tiny_llava"
    command = [
        sys.executable,
        "-m",
        "viscot_cli.app",
        "serve",
        "--port",
        "0",
        "--model",
        str(model),
        *options,
    ]
    env = {**os.environ, "KEY": "s3cret"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=repo, env=env) as process:
        try:
            assert process.stderr is not None
            lines = [process.stderr.readline(), process.stderr.readline()]
            yield process, lines
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(120)
        lines += process.stderr.readlines()


def _readme_asks(repo: Path, address: str) -> str:
    """What README.md's example of a client prints, with the server's address put in."""
    (block,) = (
        text
        for text in re.findall(
            r"^```bash\n(.*?)^```", (repo / "README.md").read_text(), re.MULTILINE | re.DOTALL
        )
        if "curl" in text
    )
    script = block.replace("http://127.0.0.1:8000/v1", address)
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=repo,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout
