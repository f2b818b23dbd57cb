"""A judge behind an OpenAI-compatible API: many calls at once, retried, cached, and never over the cost cap.

The key comes from the environment only (``OPENAI_API_KEY``) and reaches nothing but the request's header.
Every verdict is handed on as it arrives, so that an interruption loses only the calls in flight.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import Sequence
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from viscot_core.errors import UsageError
from viscot_core.files import cache_folder
from viscot_core.openai_api.budget import Price
from viscot_core.openai_api.keys import openai_key
from viscot_core.openai_api.messages import reasons, reply_fields
from viscot_core.openai_api.replies import ReplyCache, request_key
from viscot_core.score.chat import Reply
from viscot_core.score.costs import TYPICAL_REPLY, Estimate, estimated_tokens, load_price
from viscot_core.score.judges import Done, JudgeOptions
from viscot_core.score.prompt import PromptBuilder
from viscot_core.score.session import Session, Usage, words_of
from viscot_core.score.verdicts import JudgeIdentity, Outcome, Pair, State

OPENAI_URL = "https://api.openai.com/v1"
MAX_REPLY_TOKENS = 256


class ApiJudge:
    """See the module. Not reusable across event loops: ``judge`` runs its own.

    ``cache`` None: OpenAI's replies are kept in the user's cache folder, another server's nowhere (its
    address does not say which weights answer).
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str = OPENAI_URL,
        key: str | None = None,
        prompt: PromptBuilder | None = None,
        price: Price | None = None,
        cache: ReplyCache | None = None,
        options: JudgeOptions | None = None,
    ) -> None:
        self.options = options or JudgeOptions()
        self.model = model
        self.base_url = base_url.rstrip("/")
        self.prompt = prompt or PromptBuilder()
        self.usage = Usage(cost=0.0 if price else None)
        self.price, self._key = price, key
        if cache is None and self.base_url == OPENAI_URL:
            cache = ReplyCache(cache_folder("judge"))
        self._cache = cache
        temperature = None if reasons(model) else self.options.temperature
        self.identity = JudgeIdentity.now(
            f"openai:{model}", _whose(model, self.base_url), self.prompt.sha256, temperature
        )

    @classmethod
    def from_options(cls, model: str, options: JudgeOptions) -> Self:
        """Read key and address from the environment. UsageError where the key or a price is missing."""
        base_url = options.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
        if not re.match(r"https?://[^/]", base_url):
            raise UsageError(f"--base-url {base_url} is no address; it looks like http://127.0.0.1:8000/v1.")
        key = openai_key(base_url, needed=not options.only_estimate)
        price = load_price(model, options.prices)
        if options.max_cost is not None and price is None:
            raise UsageError(
                f"--max-cost needs the price of '{model}', which no table knows; give one with --prices FILE."
            )
        prompt = PromptBuilder(options.style, options.json_mode)
        cache = ReplyCache(options.cache) if options.cache else None
        return cls(
            model, base_url=base_url, key=key, prompt=prompt, price=price, cache=cache, options=options
        )

    def estimate(self, pairs: Sequence[Pair]) -> Estimate:
        """Calls, tokens and cost of judging ``pairs``, asking nothing."""
        cached = tokens = 0
        for pair in pairs:
            body = self.body(pair)
            if self.remembered(request_key(self.base_url, body)):
                cached += 1
            else:
                tokens += estimated_tokens(words_of(body))
        replies = TYPICAL_REPLY * (len(pairs) - cached)
        return Estimate(
            len(pairs), cached, tokens, replies, self.price.cost(tokens, replies) if self.price else None
        )

    def judge(self, pairs: Sequence[Pair], done: Done) -> None:
        """Judge all pairs; see ``Judge``. Raises EngineError when the server cannot work for any of them."""
        asyncio.run(Session(self, done).run(iter(pairs)))

    def body(self, pair: Pair) -> dict[str, Any]:
        """The request that judges ``pair``."""
        prompt = self.prompt.build(pair)
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [
                {"role": "system", "content": prompt.system},
                {"role": "user", "content": prompt.user},
            ],
        }
        body |= reply_fields(self.model, MAX_REPLY_TOKENS, self.options.temperature)
        if self.prompt.json_mode:
            body["response_format"] = {"type": "json_object"}
        return body

    def remembered(self, key: str) -> Outcome | None:
        """The score of a reply in the cache; a damaged or unreadable entry counts as none."""
        entry = self._cache.get(key) if self._cache and not self.options.fresh else None
        outcome = self.prompt.read(entry["reply"]) if entry else None
        return outcome if outcome and outcome.state is State.SCORED else None

    def read(self, key: str, reply: Reply) -> Outcome:
        """The outcome of a fresh reply. Only scored ones are kept: asking about the others again may help."""
        if reply.finish == "length":
            return Outcome(State.UNSCORED, reason="the reply was cut off before its end", reply=reply.text)
        outcome = self.prompt.read(reply.text)
        if outcome.state is State.SCORED and self._cache:
            self._cache.put(key, {"reply": reply.text, "model": reply.model})
        return outcome

    def client(self, tls: ssl.SSLContext) -> httpx.AsyncClient:
        """One connection with the key in its header; no redirect is followed, it could carry the key away."""
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        return httpx.AsyncClient(
            base_url=self.base_url + "/",
            headers=headers,
            timeout=self.options.timeout,
            limits=httpx.Limits(max_connections=1),
            verify=tls,
        )


def _whose(model: str, base_url: str) -> str:
    """The model for a judge's identity: of a server that is not OpenAI's with its address, ``URL#MODEL``."""
    if base_url == OPENAI_URL:
        return model
    parts = urlsplit(base_url)
    return f"{parts._replace(netloc=parts.netloc.rpartition('@')[2]).geturl()}#{model}"  # never a password
