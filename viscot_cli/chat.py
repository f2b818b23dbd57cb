"""``viscot chat``: several questions about one image, each answered in two turns."""

from __future__ import annotations

import itertools
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from viscot_cli import console
from viscot_cli.grouped import grouped
from viscot_cli.model_options import ModelOptions, print_answer
from viscot_cli.zoom_options import ZoomOptions, strategy_of
from viscot_core.errors import EngineError, UsageError
from viscot_core.files import expanded
from viscot_core.terminal import visible

if TYPE_CHECKING:
    from viscot_core.ask import Strategy, VisualCoT
    from viscot_core.infer.asking import InferResult

HELP = """Ask about the image, or:
  /box              draw the last box, crop and answer into a file
  /crop             save the last crop into a file
  /direct QUESTION  ask in one turn, without box and crop
  /image FILE       ask about another image
  /quit             end the chat (Ctrl-D does too)"""


@grouped
def chat(
    image: Annotated[Path, typer.Argument(help="The image to ask about.")],
    *,
    zoom: ZoomOptions,
    model_options: ModelOptions,
) -> None:
    """Ask several questions about one image; /help lists the other commands."""
    from viscot_core.images.reading import open_image

    image = expanded(image)
    open_image(image, as_seen=True)  # a bad path is reported before a model is loaded
    zoom = zoom.for_model(model_options.options())
    strategy = strategy_of(zoom)
    cot = model_options.open(boxes=strategy == "cot", zoom=zoom)
    console.say(HELP)
    with suppress(ImportError):  # arrow keys and a history, where Python was built with them
        import readline  # noqa: F401
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # a byte that is no text spoils its line only
    session = ChatSession(cot, image, model_options.max_new_tokens, strategy)
    while True:
        try:
            line = input(visible(f"{session.image.name}> ") if sys.stdin.isatty() else "").strip()
        except EOFError:
            break
        except KeyboardInterrupt:
            console.say("\nLeave with /quit or Ctrl-D.")
            continue
        if line in ("/quit", "/exit", "/q"):
            break
        if line:
            session.run_line(line)


class ChatSession:
    """One conversation: the image, the last answer, and what each line of input does."""

    def __init__(
        self, cot: VisualCoT, image: Path, max_new_tokens: int = 128, strategy: Strategy = "cot"
    ) -> None:
        self.cot = cot
        self.image = image
        self.max_new_tokens = max_new_tokens
        self.strategy: Strategy = strategy
        self.last: InferResult | None = None

    def run_line(self, line: str) -> None:
        """Do what one line says; a mistake or a failure is reported and the conversation goes on."""
        command, _, rest = line.partition(" ")
        try:
            if command == "/image":
                self._change_image(rest.strip())
            elif command == "/direct":
                self._ask(rest, "direct")
            elif command in ("/box", "/crop"):
                self._save(command[1:])
            elif line.startswith("/"):
                console.say(HELP if command == "/help" else f"There is no {command}.\n{HELP}")
            else:
                self._ask(line, self.strategy)
        except KeyboardInterrupt:
            console.say("Stopped.")
        except Exception as error:  # noqa: BLE001 - shown; one line never ends the conversation
            console.say(console.explain(error)[0])

    def _ask(self, question: str, strategy: Strategy) -> None:
        from viscot_core.infer.asking import InferResult
        from viscot_core.infer.items import InferItem

        with _stopped_by_ctrl_c() as stopped:
            try:
                answer = self.cot.ask(
                    self.image,
                    question,
                    strategy=strategy,
                    max_new_tokens=self.max_new_tokens,
                    cancelled=stopped,
                )
            except EngineError:
                if not stopped():
                    raise
                console.say("Stopped.")
                return
        self.last = InferResult(InferItem(self.image, question), strategy, answer)
        print_answer(self.last, with_name=False)

    def _change_image(self, name: str) -> None:
        from viscot_core.images.reading import open_image

        if not name:
            raise UsageError("Which image? Write /image FILE.")
        image = expanded(name)
        open_image(image, as_seen=True)
        self.image, self.last = image, None

    def _save(self, what: str) -> None:
        from viscot_core.infer.saving import save_crop, save_drawing

        if self.last is None or self.last.answer is None or self.last.answer.look is None:
            raise UsageError(f"There is no {what} yet; ask a question first.")
        names = (Path(f"{self.image.stem}-{what}-{number}.png") for number in itertools.count(1))
        target = next(path for path in names if not path.exists())
        (save_drawing if what == "box" else save_crop)(self.last, target)
        console.say(f"saved {target}")


@contextmanager
def _stopped_by_ctrl_c() -> Iterator[Callable[[], bool]]:
    """Ctrl-C in the block makes the function that it yields True; pressed again it interrupts at once.

    An engine that is told to stop ends between two tokens, so that its caches stay whole.
    """
    pressed = threading.Event()
    # Only the main thread gets signals.
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return

    def press(*_: object) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()
        console.say("\nStopping after this token; Ctrl-C again stops at once.")

    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
