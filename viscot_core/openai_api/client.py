"""The one client of OpenAI's protocol: engines and judges ask servers through it.

Calls run side by side in threads of the client's own. A passing fault is tried again after growing waits, or
when ``Retry-After`` says; a refusal fails its request; and what no call can get past (no credit, a wrong key,
an unknown model) stops all of them at once. ``faults.py`` says which is which.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, Self, TypeVar

import httpx

from viscot_core.addresses import http_client, no_address, secrets_in, without_password
from viscot_core.errors import EngineError
from viscot_core.openai_api import faults, streams, waiting
from viscot_core.openai_api.adapting import Lesson, adapted, lesson
from viscot_core.openai_api.budget import Bill, Budget, Usage
from viscot_core.openai_api.completions import completion, limited, readable
from viscot_core.openai_api.deadlines import Deadlines
from viscot_core.openai_api.faults import Fault, Kind
from viscot_core.openai_api.options import ApiOptions
from viscot_core.openai_api.replies import Reply, ReplyCache, request_key
from viscot_core.openai_api.streams import CANCELLED
from viscot_core.openai_api.workers import Workers

Item = TypeVar("Item")
Result = TypeVar("Result")
OnText = Callable[[str], None]
Cancelled = Callable[[], bool]

log = logging.getLogger(__name__)

STREAM_TIMES = 10
"""A stream may take so many times the timeout of a call."""

_HEADERS = {
    "Content-Type": "application/json",
    # A packed reply can be a thousand times as large as what comes over the wire.
    "Accept-Encoding": "identity",
    # A viscot server continues the messages as they stand; without this it would run its own chain.
    "X-Viscot-Strategy": "raw",
}


class _Call(NamedTuple):
    """What ``Client.ask`` was asked."""

    body: dict[str, Any]
    on_text: OnText | None
    cancelled: Cancelled | None
    needs_text: bool
    follow_ups: int
    reserved: int


class Client:
    """Speaks to the server at ``url`` (``http://HOST:PORT/v1``). Safe to use from several threads.

    Once a fault has stopped it, every later call raises the same ``EngineError``, until ``reopen``.
    """

    def __init__(self, url: str, key: str | None, options: ApiOptions) -> None:
        self.url, self.options = url.rstrip("/"), options
        self.usage = Usage()
        self._address = _address(self.url)
        self._key, self._secrets = key, secrets_in(url)
        self._learnt: set[Lesson] = set()
        self._deadlines = Deadlines()
        self._cache = ReplyCache(options.cache) if options.cache else None
        limits = (options.max_requests, options.max_cost, options.price)
        self._budget = Budget(self.usage, *limits) if any(limit is not None for limit in limits) else None
        # Made once: it reads all certificates, and every thread has an HTTP client of its own.
        self._tls = httpx.create_ssl_context()
        self._workers = Workers(options.concurrency, self._hang_up)
        self._here = threading.local()
        self._lock = threading.Lock()
        self._not_before = 0.0
        self._in_a_row = 0
        self._stopped = ""
        self._over = threading.Event()
        """No call is to wait any longer: all were stopped, or the client is closed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads; a call under way ends by itself, and nobody waits for it."""
        self._stopped = self._stopped or "the client is closed"
        self._over.set()
        self._deadlines.close()
        self._workers.close()

    def reopen(self) -> None:
        """Forget what stopped the calls: the next one asks the server again. Not after ``close``."""
        with self._lock:
            self._stopped, self._in_a_row = "", 0
            self._over.clear()

    # -- threads --------------------------------------------------------------------------------------

    def each(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[int, Result]]:
        """``(number of the item, work(item))`` in the order of their ends, ``concurrency`` at a time.

        An exception of ``work`` is raised here; see ``Workers.each``.
        """
        self._check()
        yield from self._workers.each(work, items)

    def _hang_up(self) -> None:
        """Close the connection of a thread that ends."""
        if hasattr(self._here, "http"):
            self._here.http.close()

    def _connection(self) -> httpx.Client:
        """This thread's own: a pool that threads share looks at all of its connections for every call."""
        if not hasattr(self._here, "http"):
            self._here.wire = []
            key = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            if self._key and self._address.host.endswith(".azure.com"):
                key["api-key"] = self._key  # Azure's name of it
            self._here.http = http_client(
                self.url,
                headers=_HEADERS | key,
                timeout=self.options.timeout,
                limits=httpx.Limits(max_connections=1),
                verify=self._tls,
                follow_redirects=False,  # a redirect could carry the key away
            )
        http: httpx.Client = self._here.http
        return http

    # -- one request ----------------------------------------------------------------------------------

    def ask(
        self,
        body: dict[str, Any],
        *,
        on_text: OnText | None = None,
        cancelled: Cancelled | None = None,
        needs_text: bool = False,
        follow_ups: int = 0,
        reserved: int = 0,
        usable: Callable[[Reply], bool] = lambda reply: True,
    ) -> Reply:
        """The reply to one request, kept or fresh, after as many attempts as it takes; call it in ``each``.

        Args:
            on_text: streams the reply and is told the text so far; a broken stream begins again.
            needs_text: a reply without any text is a passing fault.
            follow_ups, reserved: see ``Budget.call``.
            usable: a kept reply that is not is asked again, a fresh one is not kept.

        Raises:
            Fault: no reply to this request.
            BudgetSpent: the limits leave no room for it.
            EngineError: no request can succeed; all other calls end too.
        """
        key = request_key(without_password(self.url), body) if self._cache else ""
        if self._cache and not self.options.fresh and (kept := self._cache.get(key)) and usable(kept):
            with self._lock:
                self.usage.cached += 1
            return kept
        reply = self._ask(_Call(body, on_text, cancelled, needs_text, follow_ups, reserved))
        if self._cache and reply.finish != CANCELLED and usable(reply):
            self._cache.put(key, reply)
        return reply

    def _ask(self, call: _Call) -> Reply:
        attempt, wait = 0, 0.0
        while self._waited(wait, call.cancelled):
            attempt += 1
            asked = call.body | (_STREAMED if call.on_text else {})
            sent = adapted(asked, self._learnt)
            try:
                reply = self._attempt(call._replace(body=sent))
            except Fault as fault:
                if self._learns(fault, sent) and adapted(asked, self._learnt) != sent:
                    attempt, wait, call = attempt - 1, 0.0, call._replace(reserved=0)
                    continue
                too_long = (fault.wait or 0.0) > waiting.LONGEST_RETRY_AFTER
                if fault.kind is not Kind.PASSING or too_long or attempt == self.options.attempts:
                    self._stop_after(fault)
                    self._check()
                    raise
                with self._lock:
                    self.usage.retries += 1
                    if fault.wait is not None:  # the limit is the account's: all calls wait
                        self._not_before = max(self._not_before, time.monotonic() + fault.wait)
            else:
                self._in_a_row = 0
                return reply
            wait = waiting.between(attempt)
            call = call._replace(reserved=0)  # the first attempt took the place
        return Reply("", CANCELLED)

    def _learns(self, fault: Fault, sent: dict[str, Any]) -> bool:
        """Whether the fault says that a field of the request was to blame; it is left out from now on."""
        # What the user gave stays: a refusal of it is for the user to read.
        own = {name: value for name, value in sent.items() if name not in self.options.extra_body}
        found = lesson(str(fault), own) if fault.status in (400, 422) else None
        if found is None:
            return False
        with self._lock:
            if found not in self._learnt:
                log.warning("The server %s.", found.value)
            self._learnt.add(found)
        return True

    def _waited(self, seconds: float, cancelled: Cancelled | None) -> bool:
        """Wait, and as long as the server asked any call to; False where nobody waits for the reply."""
        until = time.monotonic() + seconds
        while cancelled is None or not cancelled():
            # Read anew each round: another call may have been told to wait. At most a second a round, to see
            # ``cancelled``.
            left = max(until, self._not_before) - time.monotonic()
            if left <= 0 or self._over.wait(min(waiting.spread(left), 1.0)):
                self._check()
                return True
        return False

    def _check(self) -> None:
        """Raise EngineError where all calls have stopped."""
        if self._stopped:
            where = without_password(self.url)
            raise EngineError(
                f"{where} cannot answer: {self._stopped}. Run the same command again when this is fixed."
            )

    def _stop_after(self, fault: Fault) -> None:
        """Stop all calls where they would meet the same fault."""
        with self._lock:
            # Requests that used up their attempts, not attempts: one slow spell does not stop a run.
            self._in_a_row = self._in_a_row + 1 if fault.kind is Kind.PASSING else 0
            words = ""
            if fault.kind is Kind.ACCOUNT or (fault.kind is Kind.NAME and not self.usage.calls):
                words = str(fault)
            elif self._in_a_row >= waiting.GIVE_UP_AFTER:
                words = f"{self._in_a_row} requests in a row got no reply, the last because {fault}"
            self._stopped = self._stopped or words
        if self._stopped:
            self._over.set()

    def _attempt(self, call: _Call) -> Reply:
        budget = self._budget
        # An interruption leaves the most the call can cost on its bill.
        ahead = {"follow_ups": call.follow_ups, "reserved": call.reserved}
        with budget.call(call.body, **ahead) if budget else nullcontext(Bill(0.0)) as bill:
            try:
                self._check()  # another call may have stopped all while this one waited for money
                with self._lock:
                    self.usage.requests += 1
                reply = self._send(call)
            except (Fault, EngineError) as error:
                # Where the server may have worked, the bill stays at the most the call can cost; else nothing
                # is owed.
                bill.cost = bill.cost if isinstance(error, Fault) and error.billed else 0.0
                raise
            with self._lock:
                self.usage.calls += 1
                self.usage.tokens_in += reply.tokens_in
                self.usage.tokens_out += reply.tokens_out
                self.usage.models |= {reply.model} - {""}
                self.usage.versions |= {reply.version} - {""}
            if budget:
                budget.count(bill, reply.tokens_in, reply.tokens_out)
            if call.needs_text and reply.text is None:
                raise Fault(Kind.PASSING, "the reply holds no text", billed=True)
        return reply

    def _send(self, call: _Call) -> Reply:
        http, model, on_text = self._connection(), call.body["model"], call.on_text
        content = json.dumps(call.body).encode()
        seconds = self.options.timeout * (STREAM_TIMES if call.body.get("stream") else 1)
        wire = self._here.wire  # looked up here: another thread has none of its own
        with self._deadlines.within(seconds, lambda: wire[-1] if wire else None) as late:
            try:
                extensions = {"trace": self._trace}
                with http.stream("POST", self._address, content=content, extensions=extensions) as response:
                    data = self._read(response, model, on_text, call.cancelled)
                if error := data.get("error"):  # some servers send it with status 200
                    raise faults.of_error(200, error, self._key, model)
                return completion(data, tools="tools" in call.body)
            except (httpx.HTTPError, OSError) as error:
                if late():
                    raise faults.too_late(seconds) from error
                if not isinstance(error, httpx.HTTPError):
                    raise
                raise faults.of_transport(error, without_password(self.url)) from error
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise (faults.too_late(seconds) if late() else faults.unreadable()) from error

    def _read(
        self, response: httpx.Response, model: str, on_text: OnText | None, cancelled: Cancelled | None
    ) -> dict[str, Any]:
        """The completion in a response, whole or streamed, whether a stream was asked for or not."""
        blocks = limited(response.iter_bytes())
        if response.status_code != 200:
            said = b"".join(blocks)
            for secret in self._secrets:
                said = said.replace(secret.encode(), b"***")
            wait = response.headers.get("retry-after")
            raise faults.of_status(response.status_code, said, wait, self._key, model)
        if "event-stream" in response.headers.get("content-type", ""):
            tell = (lambda text: on_text(readable(text))) if on_text else (lambda text: None)
            return streams.join(blocks, tell, cancelled)
        data: dict[str, Any] = json.loads(b"".join(blocks))
        return data

    def _trace(self, event: str, info: dict[str, Any]) -> None:
        """httpcore tells what it does: this is how a deadline finds the connection of its call."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self._here.wire[:] = [info["return_value"]]


_STREAMED = {"stream": True, "stream_options": {"include_usage": True}}


def _address(url: str) -> httpx.URL:
    """Where completions are asked for; a query (a key, a version) stays behind the path.

    Raises:
        UsageError: the address cannot be one.
    """
    try:
        base = httpx.URL(url)
        if not base.host:
            raise httpx.InvalidURL("no host")
        return base.copy_with(path=base.path.rstrip("/") + "/chat/completions")
    except (httpx.InvalidURL, ValueError) as error:
        raise no_address(url) from error
