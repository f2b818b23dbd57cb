"""Every word the model reads, quoted once.

Turns become a ``Rendered`` conversation: text chunks between pictures, each with the character spans the
model is trained to say. The mask is made here, while rendering; nothing splits strings afterwards. Wording
and templates are the reference's (``vicuna_v1`` and ``plain``; UPSTREAM protocol), so that figures compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

IMAGE = "<image>"
EOS = "</s>"

BOX_REQUEST = (
    "Please provide the bounding box coordinate of the region that can help you answer the question better."
)
ANSWER_REQUEST = "Please answer the question based on the original image and local detail image."
REFCOCO_BEFORE = "Locate the region this sentence describes: "
REFCOCO_AFTER = ". Please provide the bounding box coordinates."


@dataclass(frozen=True, slots=True)
class Turn:
    """One message; ``role`` is ``human`` or ``gpt`` as on disk; ``<image>`` in the text marks a picture."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Template:
    """How turns are joined.

    ``plain`` (stage 1) keeps pictures and captions only and ends with a newline. ``strip`` drops the white
    space around a message: the benchmark's prompts have two spaces before ASSISTANT, training rows one, and a
    very small model should not have to learn the difference.
    """

    name: str
    system: str
    plain: bool = False
    strip: bool = False


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
    """Text between two pictures; ``spoken`` are the character spans that the model learns to say."""

    text: str
    spoken: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation ready to tokenize: ``len(chunks) - 1`` pictures stand between the chunks.

    ``turns`` are what was rendered, for engines whose server has a template of its own.
    """

    chunks: tuple[Chunk, ...]
    turns: tuple[Turn, ...] = field(default=(), compare=False)

    @property
    def n_images(self) -> int:
        return len(self.chunks) - 1

    @property
    def text(self) -> str:
        return IMAGE.join(chunk.text for chunk in self.chunks)


class _Writer:
    """Collects text and pictures into chunks and notes which characters are spoken."""

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
        self._done.append(Chunk(self._text, tuple(self._spoken)))
        self._text, self._spoken = "", []

    def finish(self, turns: Sequence[Turn]) -> Rendered:
        return Rendered((*self._done, Chunk(self._text, tuple(self._spoken))), tuple(turns))


def render(turns: Sequence[Turn], template: Template, *, generate: bool = False) -> Rendered:
    """Join ``turns`` in the template's words.

    With ``generate`` the text ends where the model is to speak. Only gpt turns are spoken: the space after
    ``ASSISTANT:``, the words and the end token. ``<image>`` inside a gpt turn is plain text, never a picture.

    Raises:
        ValueError: a role other than human or gpt.
    """
    writer = _Writer()
    if template.plain:
        return _render_plain(turns, writer)
    writer.say(template.system + " ")
    for turn in turns:
        if turn.role == "human":
            text = turn.text.strip() if template.strip else turn.text
            writer.say("USER:")
            if text:
                writer.say_with_images(" " + text + " ")
        elif turn.role == "gpt":
            writer.say("ASSISTANT:")
            writer.say(" " + turn.text + EOS, spoken=True)
        else:
            raise ValueError(f"a turn's role is 'human' or 'gpt', not {turn.role!r}")
    if generate:
        writer.say("ASSISTANT:")
    return writer.finish(turns)


def _render_plain(turns: Sequence[Turn], writer: _Writer) -> Rendered:
    for turn in turns:
        if turn.role == "human":
            for _ in range(turn.text.count(IMAGE)):
                writer.image()
        else:
            writer.say(turn.text + "\n", spoken=True)
    return writer.finish(turns)


def with_images_first(text: str) -> str:
    """A human message as training reads it: every ``<image>`` moved to the front, each on its own line."""
    count = text.count(IMAGE)
    if not count:
        return text
    words = text.replace(IMAGE, "").strip()
    return (f"{IMAGE}\n" * count + words).strip()


def detection_turns(question: str) -> tuple[Turn, ...]:
    """Turn 1 of the benchmark: where to look. The question is lower-cased and followed by a full stop."""
    return (Turn("human", f"{IMAGE}\n{question.lower()}. {BOX_REQUEST}"),)


def answer_turns(question: str, box_text: str) -> tuple[Turn, ...]:
    """Turn 2 of the benchmark: question, the box in the assistant's words, then the crop and the request."""
    return (
        Turn("human", f"{IMAGE}\n{question}"),
        Turn("gpt", box_text),
        Turn("human", f"{IMAGE}\n{ANSWER_REQUEST}{question} "),
    )


def direct_turns(question: str) -> tuple[Turn, ...]:
    """The baseline without a box: question, answer."""
    return (Turn("human", f"{IMAGE}\n{question} "),)


def text_only_turns(question: str, box_text: str) -> tuple[Turn, ...]:
    """The no-image baseline (paper Table 6): the box as words, no second picture, an empty second message."""
    return (Turn("human", f"{IMAGE}\n{question} {BOX_REQUEST}"), Turn("gpt", box_text), Turn("human", ""))


def refcoco_turns(expression: str) -> tuple[Turn, ...]:
    """Referring expression comprehension (RefCOCO, +, g); the expression is lower-cased."""
    return (Turn("human", f"{IMAGE}\n{REFCOCO_BEFORE}{expression.lower()}{REFCOCO_AFTER}"),)


def cot_turns(question: str, box_text: str, answer: str) -> tuple[Turn, ...]:
    """A training sample on disk: question + box request, box, bare ``<image>``, answer."""
    return (
        Turn("human", f"{IMAGE}\n{question} {BOX_REQUEST}"),
        Turn("gpt", box_text),
        Turn("human", IMAGE),
        Turn("gpt", answer),
    )
