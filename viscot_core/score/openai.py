"""A judge behind an OpenAI-compatible API: many calls at once, retried, kept, and never over the cost limit.

The key comes from the environment only (``OPENAI_API_KEY``) and reaches nothing but the request's header.
Every verdict is handed on as it arrives, so that an interruption loses only the calls in flight.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

from viscot_core.addresses import without_password
from viscot_core.errors import BudgetSpent, EngineError, UsageError
from viscot_core.files import cache_folder
from viscot_core.openai_api.budget import Price, Usage
from viscot_core.openai_api.client import Client
from viscot_core.openai_api.faults import Fault, Kind
from viscot_core.openai_api.keys import openai_key
from viscot_core.openai_api.limits import reply_fields
from viscot_core.openai_api.options import ApiOptions
from viscot_core.openai_api.replies import Reply, ReplyCache, request_key
from viscot_core.score.base import Done, JudgeOptions
from viscot_core.score.costs import TYPICAL_REPLY, Estimate, estimated_tokens, load_price
from viscot_core.score.prompt import PromptBuilder, cut_off
from viscot_core.score.verdicts import JudgeIdentity, Outcome, Pair, State

OPENAI_URL = "https://api.openai.com/v1"
MAX_REPLY_TOKENS = 256


class OpenAIJudge:
    """See the module.

    ``options.cache`` None: OpenAI's replies are kept in the user's cache folder, another server's nowhere
    (its address does not say which weights answer). ``usage`` is of the last round.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str = OPENAI_URL,
        key: str | None = None,
        price: Price | None = None,
        options: JudgeOptions | None = None,
    ) -> None:
        chosen = options or JudgeOptions()
        self.model, self.base_url, self.price, self._key = model, base_url.rstrip("/"), price, key
        self.prompt = PromptBuilder(chosen.style, chosen.json_mode)
        self.usage = Usage(cost=0.0 if price else None)
        self._api = ApiOptions(
            concurrency=chosen.concurrency,
            timeout=chosen.timeout,
            attempts=chosen.attempts,
            max_cost=chosen.max_cost,
            price=price,
            cache=self._cache_folder(chosen.cache),
            fresh=chosen.fresh,
            extra_body=chosen.extra_body,
        )
        self._fields = reply_fields(model, chosen.max_tokens or MAX_REPLY_TOKENS, chosen.temperature)
        if chosen.json_mode:
            self._fields["response_format"] = {"type": "json_object"}
        self._fields |= chosen.extra_body
        self.identity = JudgeIdentity.now(
            f"openai:{model}",
            self._whose(),
            self.prompt.sha256,
            _temperature(self._fields),
            _digest(chosen.extra_body),
        )

    @classmethod
    def from_options(cls, model: str, options: JudgeOptions) -> Self:
        """Read key and address from the environment. UsageError where the key or a price is missing."""
        base_url = options.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
        if not re.match(r"https?://[^/]", base_url):
            raise UsageError(
                f"--base-url {without_password(base_url)} is not an address; give one like http://127.0.0.1:8000/v1."
            )
        key = openai_key(base_url, needed=not options.only_estimate)
        price = load_price(model, options.prices)
        if options.max_cost is not None and price is None:
            raise UsageError(
                f"--max-cost needs the price of '{model}', which is in no table; give it with --prices FILE."
            )
        return cls(model, base_url=base_url, key=key, price=price, options=options)

    def estimate(self, pairs: Sequence[Pair]) -> Estimate:
        """Calls, tokens and cost of judging ``pairs``, asking nothing."""
        cache = ReplyCache(self._api.cache) if self._api.cache and not self._api.fresh else None
        cached = tokens = 0
        for pair in pairs:
            body = self.body(pair)
            kept = cache.get(request_key(without_password(self.base_url), body)) if cache else None
            if kept and self._scores(kept):
                cached += 1
            else:
                tokens += estimated_tokens("".join(message["content"] for message in body["messages"]))
        replies = TYPICAL_REPLY * (len(pairs) - cached)
        return Estimate(
            len(pairs), cached, tokens, replies, self.price.cost(tokens, replies) if self.price else None
        )

    def judge(self, pairs: Sequence[Pair], done: Done) -> None:
        """Judge all pairs; see ``Judge``. Raises EngineError when the server cannot work for any of them."""
        with Client(self.base_url, self._key, self._api) as client:
            self.usage = client.usage
            try:
                for number, outcome in client.each(partial(self._outcome, client), pairs):
                    done(pairs[number], outcome)
            except BudgetSpent:
                return  # ``usage.capped`` says so; the rest is pending
            except EngineError as error:
                raise EngineError(f"The judge at {error} What was scored is kept.") from error

    def body(self, pair: Pair) -> dict[str, Any]:
        """The request that judges ``pair``."""
        prompt = self.prompt.build(pair)
        messages = [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}]
        return {"model": self.model, "messages": messages, **self._fields}

    def _outcome(self, client: Client, pair: Pair) -> Outcome:
        # Only what scores is kept: asking about the others again may help.
        try:
            reply = client.ask(self.body(pair), usable=self._scores)
        except Fault as fault:
            passing = fault.kind is Kind.PASSING
            return Outcome(State.PENDING if passing else State.FAILED, reason=str(fault))
        return self._read(reply)

    def _scores(self, reply: Reply) -> bool:
        return self._read(reply).state is State.SCORED

    def _read(self, reply: Reply) -> Outcome:
        if reply.truncated:
            return cut_off(reply.text)
        return self.prompt.read(reply.text or "")

    def _cache_folder(self, given: Path | None) -> Path | None:
        return cache_folder("judge") if given is None and self.base_url == OPENAI_URL else given

    def _whose(self) -> str:
        """The model for the identity: of a server that is not OpenAI's with its address, ``URL#MODEL``."""
        is_openai = self.base_url == OPENAI_URL
        return self.model if is_openai else f"{without_password(self.base_url)}#{self.model}"


def _temperature(sent: Mapping[str, Any]) -> float | None:
    """The temperature of a request; None where the server or the model decides it."""
    value = sent.get("temperature")
    return float(value) if isinstance(value, int | float) else None


def _digest(fields: Mapping[str, Any]) -> str | None:
    """What tells the user's own fields from others without showing them; None without any."""
    if not fields:
        return None
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
