"""``viscot chat``: several questions about one picture, each through the two turns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from viscot_cli import console
from viscot_cli.infer import (
    Attn,
    Device,
    Dtype,
    LoadIn,
    MaxNew,
    Model,
    Seed,
    Temperature,
    TopP,
    open_chain,
    show,
)

if TYPE_CHECKING:
    from viscot_core.asking import Asked
    from viscot_core.chain import VisualCoT

HELP = (
    "Ask about the picture; or: /box draws the last box and crop into a file, /crop saves the last crop, "
    "/direct QUESTION asks in one turn, /image FILE takes another picture, /quit leaves."
)


def chat(
    picture: Annotated[Path, typer.Argument(help="The picture to talk about.")],
    model: Model = None,
    max_new_tokens: MaxNew = 128,
    device: Device = "auto",
    dtype: Dtype = "auto",
    load_in: LoadIn = None,
    attn: Attn = "sdpa",
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
) -> None:
    """Ask several questions about one picture; /help lists what else it takes."""
    from viscot_core.images import open_image

    open_image(picture, exif=True)  # a bad path is told before a model is loaded
    chain = open_chain(model, device, dtype, load_in, attn, temperature, top_p, seed)
    console.say(HELP)
    session = Chat(chain, picture, max_new_tokens)
    while True:
        try:
            line = input(f"{session.picture.name}> ").strip()
        except EOFError:
            break
        if line in ("/quit", "/exit", "/q"):
            break
        if line:
            session.hear(line)


class Chat:
    """One conversation: the picture, the last answer, and what a line means."""

    def __init__(self, chain: VisualCoT, picture: Path, max_new_tokens: int = 128) -> None:
        self.chain = chain
        self.picture = picture
        self.max_new_tokens = max_new_tokens
        self.last: Asked | None = None
        self._saved = 0

    def hear(self, line: str) -> None:
        """Do what one line says; a mistake is told and the conversation goes on."""
        from viscot_core.errors import ViscotError

        command, _, rest = line.partition(" ")
        try:
            if command == "/image":
                self._take(rest.strip())
            elif command == "/direct":
                self._ask(rest, direct=True)
            elif command in ("/box", "/crop"):
                self._save(command)
            elif line.startswith("/"):
                console.say(HELP)
            else:
                self._ask(line, direct=False)
        except ViscotError as error:
            console.say(str(error))

    def _ask(self, question: str, *, direct: bool) -> None:
        from viscot_core.asking import Asked, Item

        answer = self.chain.ask(
            self.picture, question, strategy="direct" if direct else "cot", max_new_tokens=self.max_new_tokens
        )
        self.last = Asked(Item(self.picture, question), answer)
        show(self.last, with_name=False)

    def _take(self, name: str) -> None:
        from viscot_core.images import open_image

        picture = Path(name).expanduser()
        open_image(picture, exif=True)
        self.picture, self.last = picture, None

    def _save(self, what: str) -> None:
        from viscot_core.asking import save_crop, save_picture

        if self.last is None or self.last.answer is None or self.last.answer.strategy == "direct":
            console.say("There is no box yet; ask a question first.")
            return
        self._saved += 1
        target = Path(f"{self.picture.stem}-{what[1:]}-{self._saved}.png")
        (save_picture if what == "/box" else save_crop)(self.last, target)
        console.say(f"saved {target}")
