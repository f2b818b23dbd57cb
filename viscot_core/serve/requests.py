"""The part of OpenAI's chat completions that viscot supports: reading and checking a request.

A request is a *question* about the newest image of the conversation (strategy ``cot`` or ``direct``: the
server runs the turns), or ``raw``: its messages are continued as they are, for clients that run the turns
themselves.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, ValidationError

from viscot_core.ask import check_question
from viscot_core.boxes.geometry import Box, Frame
from viscot_core.conversation import IMAGE, Message
from viscot_core.engines.base import Sampling
from viscot_core.errors import UsageError
from viscot_core.serve.errors import ApiError, bad_request
from viscot_core.serve.guard.gate import check_elements
from viscot_core.serve.settings import Limits

STRATEGY_HEADER = "x-viscot-strategy"
ALIAS = "viscot"
"""The name that every viscot server accepts, beside the name of its model."""
ServedStrategy = Literal["cot", "direct", "zoom", "raw"]
UNSUPPORTED = ("tools", "functions", "audio", "logprobs", "top_logprobs", "logit_bias")
"""Fields that would change the answer's meaning; refused rather than ignored."""
SAMPLING = ("temperature", "top_p", "seed")
"""Fields that choose tokens: what of them has no effect is listed in the reply, as `IGNORED` fields are."""
IGNORED = (
    *("presence_penalty", "frequency_penalty", "repetition_penalty", "top_k", "min_p"),
    *("reasoning_effort", "verbosity"),
)
"""Fields that many clients send and viscot has no use for; the reply lists them."""


class _Url(BaseModel):
    url: str


class Part(BaseModel):
    """A piece of a message: text or an image."""

    type: Literal["text", "image_url"]
    text: str = ""
    image_url: _Url | None = None


class ChatMessage(BaseModel):
    """One message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]

    def parts(self) -> list[Part]:
        """The content as parts."""
        return [Part(type="text", text=self.content)] if isinstance(self.content, str) else self.content


class ChatExtras(BaseModel):
    """viscot's own field: the strategy, or the box (0..1 of the padded square) to look at."""

    model_config = ConfigDict(extra="forbid")
    strategy: ServedStrategy | None = None
    box: tuple[float, float, float, float] | None = None


class StreamOptions(BaseModel):
    """What a stream sends besides the text."""

    include_usage: StrictBool = False


Share = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
StopText = Annotated[str, Field(min_length=1, max_length=200)]


class ChatRequest(BaseModel):
    """The body of a chat completion; other fields are kept, to be refused or listed as ignored."""

    model_config = ConfigDict(extra="allow")
    model: str | None = None
    messages: list[ChatMessage] = Field(min_length=1, max_length=256)
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: StrictInt | None = Field(default=None, ge=1)
    max_completion_tokens: StrictInt | None = Field(default=None, ge=1)
    n: StrictInt | None = None
    temperature: Share | None = None
    top_p: Annotated[Share, Field(gt=0, le=1)] | None = None
    seed: Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = None
    viscot: ChatExtras | None = None


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """A request that may be answered.

    ``urls`` are its images: the one that ``question`` is about, or all those of ``messages`` in order (raw).
    ``sampling`` is None where the request leaves it to the engine.
    """

    strategy: ServedStrategy
    question: str
    messages: tuple[Message, ...]
    urls: tuple[str, ...]
    box: Box | None
    stream: bool
    usage_in_stream: bool
    max_new_tokens: int
    stop: tuple[str, ...]
    sampling: Sampling | None
    ignored: tuple[str, ...]


def read_request(
    body: bytes,
    strategy_header: str | None,
    names: tuple[str, ...],
    limits: Limits,
    *,
    usual: ServedStrategy = "cot",
    zooms: bool = False,
    samples: bool = True,
) -> CheckedRequest:
    """Check a body; ``usual`` answers where no strategy is named, ``zooms`` says that there is a zoom loop,
    ``samples`` that the engine takes a temperature.

    Raises:
        ApiError: 400 with the field that is wrong; 404 for a model that is not served.
    """
    check_elements(body, limits.elements)
    try:
        request = ChatRequest.model_validate_json(body)
        header = ChatExtras(strategy=strategy_header).strategy
    except ValidationError as error:
        raise _invalid(error) from error
    if request.model is not None and request.model not in names:
        raise ApiError(
            404, f"This server has no such model; it has {names[0]}.", "model_not_found", param="model"
        )
    _refuse(request)
    if sum(len(part.text) for message in request.messages for part in message.parts()) > limits.characters:
        raise bad_request(f"There are more than {limits.characters:,} characters of text.", "messages")
    extras = request.viscot or ChatExtras()
    # A box is looked at in two turns, whatever the server does else.
    strategy = extras.strategy or header or (usual if extras.box is None else "cot")
    if strategy == "zoom" and not zooms:
        raise bad_request(
            "This server has no zoom loop; 'viscot serve --policy zoom' has.", "viscot.strategy"
        )
    if extras.box is not None and strategy != "cot":
        raise bad_request("A box can only be given with the strategy cot.", "viscot.box")
    sampling = _sampling(request) if samples else None
    question, messages, urls = _raw(request) if strategy == "raw" else _question(request)
    if len(urls) > limits.images:
        raise bad_request(f"There are more than {limits.images} images in the request.", "messages")
    return CheckedRequest(
        strategy=strategy,
        question=question,
        messages=messages,
        urls=urls,
        box=_box(extras.box),
        stream=bool(request.stream),
        usage_in_stream=bool(request.stream_options and request.stream_options.include_usage),
        max_new_tokens=_max_new(request, limits),
        stop=(request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ()),
        sampling=sampling,
        ignored=_ignored(request, strategy, sampling),
    )


def _invalid(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(step) for step in first["loc"]) or None
    message = str(first["msg"])[:200]
    return bad_request(f"The request is not valid: {where or 'body'}: {message}.", where)


def _refuse(request: ChatRequest) -> None:
    more = request.model_extra or {}
    for name in UNSUPPORTED:
        if more.get(name):
            raise bad_request(f"'{name}' is not supported.", name, "unsupported")
    if request.n not in (None, 1):
        raise bad_request("'n' can only be 1; send the request again for another answer.", "n", "unsupported")
    form = more.get("response_format")
    if form and not (isinstance(form, dict) and form.get("type") == "text"):
        raise bad_request("'response_format' can only be text.", "response_format", "unsupported")


def _max_new(request: ChatRequest, limits: Limits) -> int:
    # 128 new tokens are the reference's limit.
    limit = request.max_completion_tokens or request.max_tokens or min(128, limits.new_tokens)
    if limit > limits.new_tokens:
        raise bad_request(f"An answer may be {limits.new_tokens} tokens long at most.", "max_tokens")
    return limit


def _sampling(request: ChatRequest) -> Sampling | None:
    """As the request says; without a temperature the engine chooses. A draw without a seed is a new one."""
    if request.temperature is None:
        return None
    seed = secrets.randbits(63) if request.seed is None else request.seed
    return Sampling(request.temperature, 1.0 if request.top_p is None else request.top_p, seed)


def _ignored(request: ChatRequest, strategy: ServedStrategy, sampling: Sampling | None) -> tuple[str, ...]:
    more = request.model_extra or {}
    used = () if sampling is None else SAMPLING[:1] if sampling.greedy else SAMPLING
    found = [name for name in SAMPLING if name not in used and getattr(request, name) is not None]
    found += [name for name in IGNORED if more.get(name) is not None]
    if any(message.role in ("system", "developer") for message in request.messages):
        found.append("system message")
    if strategy != "raw" and sum(message.role == "user" for message in request.messages) > 1:
        found.append("earlier questions")
    return tuple(found)


def _box(coords: tuple[float, float, float, float] | None) -> Box | None:
    if coords is None:
        return None
    x0, y0, x1, y1 = coords
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise bad_request(
            "A box is [x0, y0, x1, y1] in 0..1 of the padded square, corners in order.", "viscot.box"
        )
    return Box(x0, y0, x1, y1, Frame.SQUARE)


def _question(request: ChatRequest) -> tuple[str, tuple[Message, ...], tuple[str, ...]]:
    """The text of the last user message, and the newest image in it or before it."""
    last = request.messages[-1]
    if last.role != "user":
        raise bad_request("The last message must be the user's question.", "messages")
    words = " ".join(part.text.strip() for part in last.parts() if part.type == "text" and part.text.strip())
    try:
        question = check_question(words)
    except UsageError as error:
        raise bad_request(str(error), "messages") from error
    here = _urls(last)
    if len(here) > 1:
        raise bad_request("A question is about one image; send one image_url.", "messages")
    urls = [url for message in request.messages if message.role == "user" for url in _urls(message)]
    if not urls:
        raise bad_request("An image is missing: send an image_url part with the question.", "messages")
    return question, (), (urls[-1],)


def _raw(request: ChatRequest) -> tuple[str, tuple[Message, ...], tuple[str, ...]]:
    messages: list[Message] = []
    urls: list[str] = []
    for message in request.messages:
        if message.role in ("system", "developer"):
            continue
        text = ""
        for part in message.parts():
            if part.type == "image_url":
                text += IMAGE
            elif IMAGE in part.text:
                raise bad_request(f"{IMAGE} marks an image in a prompt; remove it.", "messages")
            else:
                # An image stands on its line before the text, as in the prompts of training.
                text += (
                    "\n" + part.text
                    if text.endswith(IMAGE) and part.text[:1] not in ("", "\n")
                    else part.text
                )
        if message.role == "user":
            urls += _urls(message)
        elif IMAGE in text:
            raise bad_request("Only the user's messages may contain images.", "messages")
        messages.append(Message(message.role, text))
    if not messages or messages[-1].role != "user":
        raise bad_request("The last message must be the user's.", "messages")
    return "", tuple(messages), tuple(urls)


def _urls(message: ChatMessage) -> list[str]:
    out = []
    for part in message.parts():
        if part.type == "image_url":
            if part.image_url is None:
                raise bad_request("An image_url part needs image_url.url.", "messages")
            out.append(part.image_url.url)
    return out
