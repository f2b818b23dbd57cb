"""What a model says after one prompt, token by token: over at its end, its limit or a stop text.

Both ways of decoding (``engine.py``, ``prefix.py``) feed their tokens into one of these, so that a text is
cut, counted and streamed in one place, alone or in a batch.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from viscot_core.boxes.attention_map import AttentionMap
from viscot_core.boxes.formats import Resize
from viscot_core.boxes.geometry import Size
from viscot_core.conversation import THOUGHTS, opened_thought, thought_end
from viscot_core.engines.base import GREEDY, Generation, Request, Sampling
from viscot_core.families.base import Processor
from viscot_core.families.inputs import Prompt
from viscot_core.images.view import resized

_TAIL = 16
"""So many tokens at a prompt's end hold the mark that opens a thought, if there is one."""


class DecodeState:
    """The new tokens of ``request``, at most ``limit``, after ``prompt_tokens``; chosen by ``sampling``.

    ``opened`` is what the prompt ended in of a thought: the text begins with it.
    """

    def __init__(
        self,
        processor: Processor,
        request: Request,
        limit: int,
        prompt_tokens: int = 0,
        sampling: Sampling = GREEDY,
        opened: str = "",
        seen: Size | None = None,
    ) -> None:
        self.limit = limit
        self.request = request
        self.sampling = sampling
        self._opened = opened
        self._prompt_tokens = prompt_tokens
        self._seen = seen
        self._processor = processor
        # Without a stop text and without a listener the ids are decoded once, at the end (`generation`).
        self._streams = bool(request.stop) or request.on_text is not None
        self.watched = self._streams or request.cancelled is not None
        """Whether each token must be told as soon as it is there."""
        self.reset()

    def reset(self) -> None:
        """Forget what was said: the prompt is continued once more."""
        self.open = True
        self._ids: list[int] = []
        self._end: tuple[int, ...] = ()
        self._logprobs: list[float] = []
        self._first: tuple[tuple[str, float], ...] = ()
        self._attention: AttentionMap | None = None
        self._streamed = ""

    def on_first(self, ids: Sequence[int], logprobs: Sequence[float]) -> None:
        """The likeliest first tokens."""
        self._first = tuple((self._processor.text([i]), p) for i, p in zip(ids, logprobs, strict=True))

    def on_attention(self, found: AttentionMap) -> None:
        """Where the prompt's last token looked."""
        self._attention = found

    def on_token(self, token: int, logprob: float | None = None) -> None:
        """The next token; it is ignored once the text is over."""
        # Rows of a batch end at different steps, and replayed steps are read late (`graphs.READ_EVERY`).
        if not self.open:
            return
        if self.request.cancelled is not None and self.request.cancelled():
            self.open = False
            return
        if logprob is not None:
            self._logprobs.append(logprob)
        if token in self._processor.stop_ids:
            self.open, self._end = False, (token,)
            return
        self._ids.append(token)
        self.open = len(self._ids) < self.limit
        if self._streams:
            self._stream()

    @property
    def said(self) -> int:
        """How many tokens were said, the end token included."""
        return len(self._ids) + len(self._end)

    def generation(self) -> Generation:
        """What was said so far."""
        said = self._opened + self._processor.text(self._ids)
        text, stopped = _before_stop(said, self.request.stop)
        # The end token is no word, but it was generated: it counts.
        ids = (*self._ids, *self._end)
        finished = bool(self._end) or stopped
        # A client that left ends a text as well: that is no limit.
        truncated = not finished and len(self._ids) >= self.limit
        return Generation(
            text.strip(),
            len(ids),
            finished,
            prompt_tokens=self._prompt_tokens,
            truncated=truncated,
            ids=ids,
            logprobs=tuple(self._logprobs) if self.request.logprobs else None,
            thought_tokens=self._thought_tokens(said),
            top_logprobs=self._first,
            attention=self._attention,
            seen=self._seen,
        )

    def _thought_tokens(self, said: str) -> int:
        """How many tokens it takes until the thought in ``said`` is over; 0 where there is none."""
        end = thought_end(said)
        if not end:
            return 0

        def length(count: int) -> int:
            return len(self._opened + self._processor.text(self._ids[:count]))

        # Texts of more tokens are no shorter, so that the place can be found by halves.
        return bisect_left(range(len(self._ids) + 1), end, key=length)

    def _stream(self) -> None:
        """End at a stop text; tell what can no longer change."""
        text, stopped = _before_stop(
            self._opened + self._processor.settled_text(self._ids), self.request.stop
        )
        if stopped:
            self.open = False
        else:
            # What may be the beginning of a stop text is held back: it would have to be taken back later.
            text = text[: len(text) - _begun_stop(text, self.request.stop)]
        text = text.strip()
        # A special token or the first bytes of a letter add no text: then nothing is told.
        if self.request.on_text is not None and text != self._streamed:
            self._streamed = text
            self.request.on_text(text)


@dataclass(frozen=True, slots=True)
class Decoding:
    """A prompt and what is said after it."""

    prompt: Prompt
    state: DecodeState

    @property
    def ids(self) -> list[int]:
        """The prompt's tokens."""
        return self.prompt.rendered.ids


def begun(
    processor: Processor, request: Request, resize: Resize | None, context: int, sampling: Sampling
) -> Decoding | Generation:
    """The request as tokens, or why it cannot be asked; ``context`` tokens hold prompt and answer."""
    if request.tools:
        return Generation("", 0, False, "a model on this machine takes no tools of a server's protocol")
    images = tuple(resized(view, resize) for view in request.images)
    try:
        rendered = processor.render(request.messages, [view.image.size for view in images], generate=True)
    except ValueError as error:
        return Generation("", 0, False, str(error))
    count = len(rendered.ids)
    room = context - count
    # Refused, not cut: the reference cut such prompts at 2048 tokens and answered half a question.
    if room < 1:
        reason = f"the prompt's {count} tokens do not fit the model's context of {context}"
        return Generation("", 0, False, reason)
    # A template may write the mark that opens a thought: the text then begins with it.
    opened = opened_thought(processor.text(rendered.ids[-_TAIL:]))
    wanted = request.max_new_tokens * (THOUGHTS if opened or processor.thinks else 1)
    if request.attention is not None:
        wanted, sampling = 1, GREEDY
    seen = rendered.seen[0] if rendered.seen else None
    state = DecodeState(processor, request, min(wanted, room), count, sampling, opened, seen)
    return Decoding(Prompt(request.messages, rendered, images), state)


def _before_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop text, and whether there was one."""
    found = [place for each in stop if (place := text.find(each)) >= 0]
    return (text[: min(found)], True) if found else (text, False)


def _begun_stop(text: str, stop: Sequence[str]) -> int:
    """How many characters at the text's end may be the beginning of a stop text."""
    # Proper beginnings only: a whole stop text is what `_before_stop` finds.
    begun = [size for each in stop for size in range(1, len(each)) if text.endswith(each[:size])]
    return max(begun, default=0)
