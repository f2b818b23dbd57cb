"""Any OpenAI-compatible server as an engine: vLLM, SGLang, llama.cpp, transformers serve, hosted models.

Images travel as data URLs inside the messages, the crop as the second one. Calls run side by side and are
retried with growing waits (or as long as ``Retry-After`` says). What cannot be had now is a transient error
of its prompt; a refused key stops all.

An address and a name do not say which weights answer: what stands behind ``http://localhost:8000/v1#viscot``
changes from one start to the next. So replies are kept, and answered from, only in a folder the user names:
that is to declare that the name means one model. A run folder keeps every finished item anyway.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viscot_core.boxes.formats import Resize
from viscot_core.conversation import Message
from viscot_core.engines.base import Generation, Request, Traits
from viscot_core.errors import BudgetSpent, EngineError, UsageError
from viscot_core.families.llava.template import TEMPLATES, prompt_text
from viscot_core.openai_api import waiting
from viscot_core.openai_api.budget import Budget, Price, Spent
from viscot_core.openai_api.calls import Caller, Fault, Reply
from viscot_core.openai_api.messages import Messages, reply_fields
from viscot_core.openai_api.replies import ReplyCache, request_key

__all__ = ["ApiEngine", "ApiOptions", "Price"]


@dataclass(frozen=True)
class ApiOptions:
    """How a server is used. ``max_cost`` is in dollars and needs ``price``."""

    concurrency: int = 8
    timeout: float = 120.0
    attempts: int = 6
    max_requests: int | None = None
    max_cost: float | None = None
    price: Price | None = None
    cache: Path | None = None
    """Folder of kept replies, for a server whose name stands for one model for good; None keeps none."""

    def __post_init__(self) -> None:
        if self.max_cost is not None and self.price is None:
            raise UsageError("--max-cost needs --price READ,WRITTEN in dollars for a million tokens each.")


class ApiEngine:
    """An ``Engine`` behind ``url`` (``http://HOST:PORT/v1``). Safe to call from several threads.

    ``resize`` gives the size an image of another size is to be sent in (see ``Codec.resize``).

    Raises:
        UsageError: no key where the host needs one, or one that no key can be.
    """

    def __init__(
        self, url: str, model: str, *, options: ApiOptions | None = None, resize: Resize | None = None
    ) -> None:
        chosen = self.options = options or ApiOptions()
        self.url, self.name, self.resize = url.rstrip("/"), model, resize
        self._caller = Caller(self.url, model, timeout=chosen.timeout, connections=chosen.concurrency)
        self._budget = Budget(chosen.max_requests, chosen.max_cost, chosen.price)
        self._replies = ReplyCache(chosen.cache) if chosen.cache else None
        self._pool = ThreadPoolExecutor(chosen.concurrency, thread_name_prefix="call")
        self._lock = threading.Lock()
        self._not_before = 0.0
        self._in_a_row = 0
        self._stopped: Exception | None = None
        self._messages = Messages(resize, kept=4 * chosen.concurrency)

    @property
    def spent(self) -> Spent:
        """What was asked and paid so far."""
        return self._budget.spent

    @property
    def identity(self) -> dict[str, str]:
        """Where, who, and in which sizes: what can change the text as far as a client can know."""
        return {
            "engine": "api",
            "url": self.url,
            "model": self.name,
            "template": "vicuna_v1",
            "sampling": "greedy",
            "resize": getattr(self.resize, "__name__", "none"),
        }

    @property
    def traits(self) -> Traits:
        """Every request is a batch of its own, so that each is kept as it comes."""
        return Traits(parallel=self.options.concurrency)

    def prompt(self, messages: Sequence[Message]) -> str:
        """For the record only: the server has a template of its own."""
        return prompt_text(messages, TEMPLATES["vicuna_v1"])

    def reset(self) -> None:
        """Nothing here depends on a server's weights but the replies the user said to keep."""

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """One generation per request, in order, ``concurrency`` of them at a time.

        What a spent budget leaves out is a transient error of its prompt: the others' replies are paid for.

        Raises:
            BudgetSpent: ``max_requests`` or ``max_cost`` leaves room for none of them.
            EngineError: the key is refused, the model is unknown, or the server is gone.
        """
        said = list(self._pool.map(self._one, requests))
        unpaid = [one for one in said if isinstance(one, BudgetSpent)]
        if unpaid and len(unpaid) == len(said):
            raise unpaid[0]
        return [
            Generation("", 0, False, str(one), transient=True) if isinstance(one, BudgetSpent) else one
            for one in said
        ]

    def close(self) -> None:
        """Let go of threads and connections."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._caller.close()

    def _one(self, request: Request) -> Generation | BudgetSpent:
        body = self._body(request)
        key = request_key(self.url, body) if self._replies else ""
        if self._replies is not None and (kept := self._replies.get(key)) is not None:
            self._budget.note(kept=1)
            return Generation(kept["reply"], kept["tokens"], kept["finished"])
        try:
            reply = self._ask(body, request)
        except BudgetSpent as spent:
            return spent
        except Fault as fault:
            self._count_fault(fault)
            return Generation("", 0, False, str(fault), transient=not fault.lasting)
        with self._lock:
            self._in_a_row = 0
        said = Generation(reply.text, reply.tokens[1] if reply.tokens else 0, reply.finished)
        whole = request.cancelled is None or not request.cancelled()
        if self._replies is not None and whole:
            entry = {"reply": said.text, "tokens": said.tokens, "finished": said.finished}
            self._replies.put(key, entry)
        return said

    def _count_fault(self, fault: Fault) -> None:
        with self._lock:
            self._in_a_row += not fault.lasting
            if self._in_a_row >= waiting.GIVE_UP_AFTER:
                self._stopped = EngineError(
                    f"{self.url} gave no answer to {self._in_a_row} prompts in a row ({fault}); run the same "
                    "command again when it works."
                )
        if self._stopped:
            raise self._stopped

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.name,
            "messages": self._messages.of(request.messages, request.images),
        }
        if request.stop:
            body["stop"] = list(request.stop)
        return body | reply_fields(self.name, request.max_new_tokens)

    def _ask(self, body: dict[str, Any], request: Request) -> Reply:
        """One reply, after as many attempts as it takes. Raises Fault where there is none."""
        for attempt in range(1, self.options.attempts + 1):
            self._pause()
            if request.cancelled is not None and request.cancelled():
                return Reply("", False, None)
            try:
                return self._attempt(body, request)
            except Fault as fault:
                too_long = fault.wait is not None and fault.wait > waiting.LONGEST_RETRY_AFTER
                if fault.lasting or too_long or attempt == self.options.attempts:
                    raise
                if fault.wait is not None:  # the limit is the account's: all calls wait
                    with self._lock:
                        self._not_before = max(self._not_before, time.monotonic() + fault.wait)
            self._budget.note(retries=1)
            time.sleep(waiting.between(attempt))
        raise AssertionError("the last attempt returns or raises")

    def _attempt(self, body: dict[str, Any], request: Request) -> Reply:
        with self._budget.call(body) as bill:  # an interruption leaves the worst cost on it
            try:
                reply = self._caller.call(body, request)
            except Fault as fault:
                bill.cost = bill.cost if fault.billed else 0.0
                raise
            except EngineError as error:
                bill.cost = 0.0
                self._stopped = error
                raise
            if reply.tokens is not None:
                self._budget.count(bill, *reply.tokens)
            return reply

    def _pause(self) -> None:
        while not self._stopped and (wait := self._not_before - time.monotonic()) > 0:
            time.sleep(min(waiting.spread(wait), 1.0))
        if self._stopped:
            raise self._stopped
