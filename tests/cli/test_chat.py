"""``viscot chat`` as people type it: commands, its end, what goes wrong in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Run = Callable[..., Any]
QUESTION = "What is written on the sign?"


def test_chat(
    cli: Run, golden: Path, tiny: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = iter(
        [
            "/box",
            QUESTION,
            "/box",
            "/crop",
            f"/image {golden / 'images' / 'portrait.jpg'}",
            "/direct Which color is the large shape?",
            "/image gone.jpg",
            "/crpo",
            "/image",
            "/crop",
            "",
            "/what",
            "/quit",
        ]
    )
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    ran = cli("chat", golden / "images" / "landscape.jpg", *tiny)
    assert ran.code == 0, ran.err
    assert "Total amount due: The sign says road 6, 6, 666." in ran.out
    assert "The large shape is dark green." in ran.out
    assert "There is no box yet" in ran.err and "no image at gone.jpg" in ran.err
    assert "There is no /crpo." in ran.err
    assert "Write /image FILE" in ran.err and "There is no crop yet" in ran.err
    assert "/direct QUESTION" in ran.err
    assert Image.open(tmp_path / "landscape-box-1.png").width > 640
    assert Image.open(tmp_path / "landscape-crop-1.png").size == (230, 230)


def test_chat_ends_with_its_input(
    cli: Run, golden: Path, tiny: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(_: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", end)
    assert cli("chat", golden / "images" / "landscape.jpg", *tiny).code == 0


@pytest.mark.parametrize("kind", ["damaged", "unexpected", "stopped"])
def test_chat_survives(
    kind: str,
    cli: Run,
    golden: Path,
    tiny: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A byte that is no text, an error nobody expected, Ctrl-C in an answer and at the prompt."""
    import signal

    from viscot_core.ask import VisualCoT

    lines: list[str | type[BaseException]] = [QUESTION, KeyboardInterrupt, QUESTION, "/quit"]
    real, asked = VisualCoT.ask, []

    def ask(self: VisualCoT, *args: Any, **how: Any) -> Any:
        asked.append(args)
        if len(asked) == 1 and kind == "unexpected":
            raise AttributeError("nobody expected this")
        if len(asked) == 1 and kind == "stopped":
            signal.raise_signal(signal.SIGINT)
            assert how["cancelled"]()
        return real(self, *args, **how)

    def read(_: str) -> str:
        line = lines.pop(0)
        if isinstance(line, str):
            return line
        raise line

    if kind == "damaged":
        lines[0] = "caf\udce9?"
    monkeypatch.setattr(VisualCoT, "ask", ask)
    monkeypatch.setattr("builtins.input", read)
    before = signal.getsignal(signal.SIGINT)
    ran = cli("chat", golden / "images" / "landscape.jpg", *tiny)
    assert ran.code == 0 and not lines and signal.getsignal(signal.SIGINT) is before
    assert ran.out.count("answer  ") == 1
    words = {
        "damaged": "damaged character",
        "unexpected": "nobody expected",
        "stopped": "Stopped.",
    }
    assert words[kind] in ran.err and "/quit or Ctrl-D" in ran.err
