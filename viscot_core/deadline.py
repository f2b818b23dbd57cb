"""Call what strangers wrote, such as a chat template, for a limited time."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

TEMPLATE_SECONDS = 10.0
"""A chat template comes with its model: a program by strangers, which may not end."""

T = TypeVar("T")


def call_within(seconds: float, work: Callable[[], T]) -> T:
    """The result of ``work``, which is stopped after ``seconds``; what it raises is raised here.

    It stops between two steps of Python, so a single step in C (a huge power) is not interrupted.

    Raises:
        TimeoutError: it was stopped.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except (Exception, SystemExit) as error:  # noqa: BLE001 - raised again by the caller
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        # Python has no other way to end a loop in a thread, and signals reach the main thread only. No
        # `except Exception` holds this one up.
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)
        )
        raise TimeoutError(f"stopped after {seconds:g} s")
    if errors:
        raise errors[0]
    return results[0]
