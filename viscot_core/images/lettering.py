"""Words on drawings, in any script that a font here covers.

``DejaVuSans.ttf`` beside this file has Latin, Greek and Cyrillic letters and common symbols; for other
characters fonts of the system are tried, and ``$VISCOT_FONT`` (a font file) before all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import groupby
from pathlib import Path

from PIL import ImageDraw, ImageFont

from viscot_core.files import expanded

_OWN = Path(__file__).with_name("DejaVuSans.ttf")
_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts")
_CJK = re.compile(
    r"(Noto\w*(CJK|SC|TC|JP|KR)|SourceHan|wqy|DroidSansFallback|uming|ukai|ipa[a-z]*g|TakaoP?Gothic|VL-|Nanum"
    r"|UnDotum|PingFang|Hiragino|msyh|simsun|msgothic|malgun|unifont|arialuni)",
    re.IGNORECASE,
)
"""Names of fonts with Chinese, Japanese and Korean characters that systems commonly have."""
_NO_CHARACTER = "\U0010ffff"
"""No font has it: its glyph is the box that stands for a missing one."""


def width_of(text: str, size: int) -> float:
    """Width in pixels of one line of letters of ``size``."""
    return sum(font.getlength(piece) for font, piece in _pieces(text, size))


def write(
    pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, ink: tuple[int, int, int]
) -> None:
    """Draw one line whose upper left corner is ``at``."""
    x = float(at[0])
    baseline = at[1] + _fonts(size)[0].getmetrics()[0]
    for font, piece in _pieces(text, size):
        pen.text((x, baseline), piece, fill=ink, font=font, anchor="ls")
        x += font.getlength(piece)


def _pieces(text: str, size: int) -> Iterator[tuple[ImageFont.FreeTypeFont, str]]:
    """Neighbouring characters of one font together, so that they keep their kerning."""
    # Half a surrogate pair, from a model or a file, is no character that a font could have.
    text = text.encode("utf-8", "replace").decode()
    for number, characters in groupby(text, key=lambda character: _font_for(character, size)):
        yield _fonts(size)[number], "".join(characters)


@lru_cache(maxsize=10_000)
def _font_for(character: str, size: int) -> int:
    """Number of the first font that has the character; 0 where none has it."""
    fonts = _fonts(size)
    return next((number for number, font in enumerate(fonts) if _has(font, character)), 0)


def _has(font: ImageFont.FreeTypeFont, character: str) -> bool:
    return bytes(font.getmask(character)) != bytes(font.getmask(_NO_CHARACTER))


@cache
def _fonts(size: int) -> list[ImageFont.FreeTypeFont]:
    """In the order in which they are tried."""
    found = []
    for path in (*_chosen(), _OWN, *_system_fonts()):
        try:
            found.append(ImageFont.truetype(path, size))
        except OSError:  # no font, or of a kind that FreeType cannot read
            continue
    return found


def _chosen() -> list[Path]:
    return [expanded(own)] if (own := os.environ.get("VISCOT_FONT")) else []


def _system_fonts() -> list[Path]:
    files = (file for folder in _FOLDERS for file in sorted(expanded(folder).rglob("*.[to]t[fc]")))
    return [file for file in files if _CJK.match(file.name)]
