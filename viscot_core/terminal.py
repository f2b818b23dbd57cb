"""Text from models, servers and files, made harmless for a terminal.

An escape sequence in a model's answer or a tensor's name could clear the screen, write to the clipboard or
hide what follows. Files and JSON keep the text as it is.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import TextIO

# C0 without tab and newline, DEL, C1 (some terminals take U+009B for ESC [), marks that turn the direction of
# what follows, and halves of surrogate pairs, which no terminal can encode.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""``text`` with each control character spelled out (``\x1b``); tabs and newlines stay."""
    return _UNSAFE.sub(_spelled, text.replace("\r\n", "\n"))


def json_safe(line: str) -> str:
    r"""A JSON text with the same characters written as ``\u009b``; it reads back as the same values."""
    # JSON itself escapes what is below U+0020; the others stand in strings only.
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", line)


def _spelled(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what ``sys.stderr`` is when a line comes: who replaced it may have closed the one before."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class VisibleFormatter(logging.Formatter):
    """Formats a log line, with its traceback, for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))
