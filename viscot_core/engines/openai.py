"""Any OpenAI-compatible server as an engine: vLLM, SGLang, llama.cpp, transformers serve, hosted models.

Images travel as data URLs inside the messages, the crop as the second one.

An address and a name do not say which weights answer: what stands behind ``http://localhost:8000/v1#viscot``
changes from one start to the next. So replies are kept, and answered from, only in a folder the user names:
that is to declare that the name means one model. A run folder keeps every finished item anyway.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from viscot_core.addresses import without_password
from viscot_core.boxes.formats import Resize
from viscot_core.conversation import Message
from viscot_core.engines.base import GREEDY, Generation, Request, Sampling, Traits, draws, thinking_identity
from viscot_core.errors import BudgetSpent
from viscot_core.families.table import square_of, text_template
from viscot_core.openai_api.budget import Usage
from viscot_core.openai_api.client import Client
from viscot_core.openai_api.faults import Fault, Kind
from viscot_core.openai_api.keys import openai_key
from viscot_core.openai_api.limits import probability_fields, reply_fields, sampling_fields
from viscot_core.openai_api.messages import Messages
from viscot_core.openai_api.options import ApiOptions
from viscot_core.openai_api.replies import Reply


class OpenAIEngine:
    """An ``Engine`` behind ``url`` (``http://HOST:PORT/v1``). Safe to call from several threads.

    ``resize`` gives the size an image of another size is to be sent in (see ``Codec.resize``). ``thinking``
    tells its chat template to think or not; None leaves that to the server.

    Raises:
        UsageError: no key where the host needs one, or one that no key can be.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        options: ApiOptions | None = None,
        resize: Resize | None = None,
        sampling: Sampling = GREEDY,
        thinking: bool | None = None,
    ) -> None:
        self.options, self.sampling, self.thinking = options or ApiOptions(), sampling, thinking
        self.url, self.name, self.resize = url.rstrip("/"), model, resize
        self._client = Client(self.url, openai_key(url), self.options)
        form = self.options.images
        # Another size would mean other pixels, and boxes in pixels of it other places.
        seen = None if form.whole or form.max_side or resize else square_of(model)
        self._square = seen
        self._messages = Messages(resize, 4 * self.options.concurrency, form, seen)

    @property
    def usage(self) -> Usage:
        """What was asked and paid so far."""
        return self._client.usage

    @property
    def versions(self) -> frozenset[str]:
        """What the server has said of itself so far."""
        return frozenset(self._client.usage.versions)

    @property
    def identity(self) -> dict[str, str]:
        """Where, who, and in which sizes: what can change the text as far as a client can know."""
        extra = dict(self.options.extra_body)
        return {
            "engine": "api",
            # A password or a key is no part of who answers.
            "url": without_password(self.url),
            "model": self.name,
            "template": "server",  # its own, which no client can see
            "sampling": self.sampling.identity,
            "resize": getattr(self.resize, "__name__", "none"),
            **self.options.images.identity,
            **({"image_square": str(self._square.side)} if self._square else {}),
            **thinking_identity(self.thinking),
            **({"extra_body": json.dumps(extra, sort_keys=True)} if extra else {}),
        }

    @property
    def traits(self) -> Traits:
        """Every request is a batch of its own, so that each is kept as it comes."""
        return Traits(
            parallel=self.options.concurrency,
            deterministic=self.sampling.greedy,
            logprobs=True,
            samples=True,
            paid=True,
        )

    def prompt(self, messages: Sequence[Message]) -> str:
        """For the record only: the server has a template of its own."""
        return text_template("vicuna_v1").prompt(messages)

    def reset(self) -> None:
        """Ask a server again that has refused; replies that the user said to keep are kept."""
        self._client.reopen()

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """One generation per request, in order, ``concurrency`` of them at a time.

        What a spent budget leaves out is a transient error of its prompt: the others' replies are paid for.

        Raises:
            BudgetSpent: ``max_requests`` or ``max_cost`` leaves room for none of them.
            EngineError: the server can answer none: no credit, a refused key, an unknown model, no reply to
                many in a row.
        """
        asked = list(zip(requests, draws(requests, self.sampling), strict=True))
        said = dict(self._client.each(self._one, asked))
        unpaid = [one for one in said.values() if isinstance(one, BudgetSpent)]
        if unpaid and len(unpaid) == len(said):
            raise unpaid[0]
        return [_generation(said[number]) for number in range(len(requests))]

    def close(self) -> None:
        """Let go of threads and connections."""
        self._client.close()

    def _one(self, asked: tuple[Request, Sampling]) -> Generation | BudgetSpent:
        request, sampling = asked
        on_text = request.on_text
        try:
            body = self._body(request, sampling)
        except (ValueError, OSError) as error:  # of this request alone: its marks, or an image no codec takes
            return Generation("", 0, False, str(error))
        try:
            reply = self._client.ask(
                body,
                on_text=None if on_text is None else lambda text: on_text(text.strip()),
                cancelled=request.cancelled,
                needs_text=True,
                follow_ups=request.follow_ups,
                reserved=request.reserved,
            )
        except BudgetSpent as spent:
            return spent
        except Fault as fault:
            return Generation("", 0, False, str(fault), transient=fault.kind is Kind.PASSING)
        return Generation(
            (reply.text or "").strip(),
            reply.tokens_out,
            reply.finish in ("stop", "tool_calls"),
            prompt_tokens=reply.tokens_in,
            truncated=reply.truncated,
            thought=reply.thought,
            **_probabilities(request, reply),
        )

    def _body(self, request: Request, sampling: Sampling) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.name,
            "messages": self._messages.of(request.messages, request.images),
        }
        if request.stop:
            body["stop"] = list(request.stop)
        if request.tools:
            body["tools"] = json.loads(request.tools)
        body |= reply_fields(
            self.name, request.max_new_tokens, sampling.temperature, thinks=bool(self.thinking)
        )
        if self.thinking is not None:
            # vLLM, SGLang and llama.cpp hand these on to the chat template.
            body["chat_template_kwargs"] = {"enable_thinking": self.thinking}
        if not sampling.greedy:
            body |= sampling_fields(sampling.top_p, sampling.seed)
        if request.logprobs or request.top_logprobs:
            body |= probability_fields(self.name, request.top_logprobs)
        return body | dict(self.options.extra_body)


def _probabilities(request: Request, reply: Reply) -> dict[str, Any]:
    """What the request wants of those that the server told."""
    told = reply.logprobs
    if told is None:
        return {}
    return {
        "logprobs": told.values if request.logprobs else None,
        "thought_tokens": told.thought_tokens(reply.thought),
        "top_logprobs": told.first if request.top_logprobs else (),
    }


def _generation(one: Generation | BudgetSpent) -> Generation:
    if isinstance(one, BudgetSpent):
        return Generation("", 0, False, str(one), transient=True)
    return one
