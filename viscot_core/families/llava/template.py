"""LLaVA's conversation templates: text between images, with the spans the model learns to say.

The mask is made here, while rendering; nothing splits strings afterwards. ``vicuna_v1`` and ``plain`` are the
reference's (UPSTREAM, protocol).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from viscot_core.conversation import IMAGE, Message
from viscot_core.families.base import Spans

EOS = "</s>"


@dataclass(frozen=True, slots=True)
class Template:
    """How turns are joined.

    ``plain`` (stage 1) keeps images and captions only and ends with a newline. ``strip`` drops the white
    space around a message: the benchmark's prompts have two spaces before ASSISTANT, training rows one, and a
    very small model should not have to learn the difference.
    """

    name: str
    system: str
    plain: bool = False
    strip: bool = False

    def prompt(self, messages: Sequence[Message]) -> str:
        """The text that a model is to continue, images as ``<image>``."""
        return render(messages, self, generate=True).text

    def spans(self, messages: Sequence[Message]) -> Spans:
        """The text as training reads it, split where supervision starts and ends."""
        found: list[tuple[str, bool]] = []
        for number, chunk in enumerate(render(messages, self).chunks):
            if number:
                found.append((IMAGE, False))
            at = 0
            for start, end in chunk.spoken:
                found += [(chunk.text[at:start], False), (chunk.text[start:end], True)]
                at = end
            found.append((chunk.text[at:], False))
        return tuple(span for span in found if span[0])


_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)

TEMPLATES: dict[str, Template] = {
    "vicuna_v1": Template("vicuna_v1", _VICUNA_SYSTEM),
    "tiny": Template("tiny", "Look, then answer.", strip=True),
    "plain": Template("plain", "", plain=True),
}


@dataclass(frozen=True, slots=True)
class Chunk:
    """Text between two images; ``spoken`` are the character spans that the model learns to say."""

    text: str
    spoken: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Chunks:
    """A conversation ready to tokenize: ``len(chunks) - 1`` images stand between the chunks."""

    chunks: tuple[Chunk, ...]

    @property
    def n_images(self) -> int:
        return len(self.chunks) - 1

    @property
    def text(self) -> str:
        return IMAGE.join(chunk.text for chunk in self.chunks)


class _Writer:
    """Collects text and images into chunks and notes which characters are spoken."""

    def __init__(self) -> None:
        self._done: list[Chunk] = []
        self._text = ""
        self._spoken: list[tuple[int, int]] = []

    def say(self, text: str, *, spoken: bool = False) -> None:
        start = len(self._text)
        self._text += text
        if spoken and text:
            self._spoken.append((start, len(self._text)))

    def say_with_images(self, text: str) -> None:
        first, *rest = text.split(IMAGE)
        self.say(first)
        for part in rest:
            self.image()
            self.say(part)

    def image(self) -> None:
        # Spans count from the start of their own chunk: chunks are tokenized one by one.
        self._done.append(Chunk(self._text, tuple(self._spoken)))
        self._text, self._spoken = "", []

    def finish(self) -> Chunks:
        return Chunks((*self._done, Chunk(self._text, tuple(self._spoken))))


def render(turns: Sequence[Message], template: Template, *, generate: bool = False) -> Chunks:
    """Join ``turns`` in the template's words.

    With ``generate`` the text ends where the model is to speak. Only the assistant's messages are spoken:
    the space after ``ASSISTANT:``, the words and the end token. ``<image>`` inside one is plain text.

    Raises:
        ValueError: a role other than user or assistant.
    """
    writer = _Writer()
    if template.plain:
        return _render_plain(turns, writer)
    writer.say(template.system + " ")
    for turn in turns:
        if turn.role == "user":
            text = turn.text.strip() if template.strip else turn.text
            writer.say("USER:")
            if text:
                writer.say_with_images(" " + text + " ")
        elif turn.role == "assistant":
            writer.say("ASSISTANT:")
            # The space is learned too, so a prompt to continue ends in "ASSISTANT:" without it (below).
            writer.say(" " + turn.text + EOS, spoken=True)
        else:
            raise ValueError(f"a message's role is 'user' or 'assistant', not {turn.role!r}")
    if generate:
        writer.say("ASSISTANT:")
    return writer.finish()


def _render_plain(turns: Sequence[Message], writer: _Writer) -> Chunks:
    for turn in turns:
        if turn.role == "user":
            for _ in range(turn.text.count(IMAGE)):
                writer.image()
        else:
            writer.say(turn.text + "\n", spoken=True)
    return writer.finish()
