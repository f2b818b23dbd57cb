"""The batcher alone: batches form, failures stay with their prompts, stopping and closing."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from PIL import Image
from serve_help import Gated, Looker, wait_for

from viscot_core.conversation import Message
from viscot_core.engines.base import Engine, Generation, Request
from viscot_core.errors import EngineError
from viscot_core.images.view import view_of
from viscot_core.serve.batching import Batcher, Session


def prompt(text: str) -> Request:
    return Request((Message("user", text),), ())


@contextmanager
def batcher(engine: Looker, **options: float) -> Iterator[Batcher]:
    made = Batcher(engine, **options)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.close()


def test_what_waits_while_the_engine_works_is_the_next_batch() -> None:
    engine = Gated()
    with batcher(engine, batch=4) as here:
        first = here.submit([prompt("a")])
        assert engine.inside.wait(5)
        rest = here.submit([prompt(str(n)) for n in range(6)])
        assert here.waiting == 6
        engine.go.set()
        assert [f.result(5).text for f in (*first, *rest)] == ["nothing seen"] * 7
    assert engine.batches == [1, 4, 2]


def test_an_idle_batcher_holds_no_image_of_its_last_batch() -> None:
    with batcher(Looker()) as here:
        view = view_of(Image.new("RGB", (8, 8)))
        image = weakref.ref(view.image)
        (done,) = here.submit([Request((Message("user", "<image>"),), (view,))])
        done.result(5)
        del view
        wait_for(lambda: image() is None, 5)


def test_a_session_is_an_engine_that_counts_its_tokens() -> None:
    with batcher(Looker()) as here, Session(here) as session:
        assert isinstance(session, Engine)
        assert (session.name, session.identity, session.traits) == (
            here.engine.name,
            here.engine.identity,
            here.engine.traits,
        )
        messages = prompt("a").messages
        assert session.prompt(messages) == here.engine.prompt(messages)
        session.generate([prompt("a"), prompt("b")])
        session.generate([prompt("c")])
        assert (session.prompt_tokens, session.new_tokens) == (30, 6)
        session.reset()
        assert (session.prompt_tokens, session.new_tokens) == (30, 6)


def test_a_stopped_session_is_never_run_and_refuses_more() -> None:
    engine = Gated()
    with batcher(engine) as here:
        here.submit([prompt("a")])
        assert engine.inside.wait(5)
        session, raised = Session(here), []

        def ask() -> None:
            with pytest.raises(EngineError, match="stopped") as caught:
                session.generate([prompt("b")])
            raised.append(caught)

        thread = threading.Thread(target=ask)
        thread.start()
        until = time.monotonic() + 5
        while not here.waiting:
            assert time.monotonic() < until
            time.sleep(0.01)
        session.stop()
        thread.join(5)
        engine.go.set()
        assert raised
        with pytest.raises(EngineError, match="stopped"):
            session.generate([prompt("c")])
    assert engine.batches == [1]


class Fragile(Looker):
    """Cannot take the prompt "bad", nor any batch it is in."""

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        if any(request.messages[0].text == "bad" for request in requests):
            raise EngineError("Out of memory.")
        return super().generate(requests)


def test_a_batch_that_fails_is_run_one_by_one() -> None:
    with batcher(Fragile()) as here, Session(here), Session(here), Session(here):
        good, bad, fine = here.submit([prompt("good"), prompt("bad"), prompt("fine")])
        assert good.result(5).text == fine.result(5).text == "nothing seen"
        with pytest.raises(EngineError, match="Out of memory"):
            bad.result(5)


class Broken(Looker):
    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        raise RuntimeError("a bug with /a/path in it")


def test_a_bug_in_the_engine_is_told_without_its_words_and_the_thread_lives_on(caplog) -> None:
    with batcher(Broken()) as here:
        for _ in range(2):
            with pytest.raises(EngineError, match=r"^The engine failed \(RuntimeError\)\.$"):
                here.submit([prompt("a")])[0].result(5)
        assert here.alive
    assert "a bug with /a/path" in caplog.text


class Lost(Looker):
    """Has gone, and cannot be started again."""

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        raise EngineError("It has gone.")

    def reset(self) -> None:
        raise EngineError("It does not start.")


def test_an_engine_that_cannot_be_asked_again_is_told_and_the_thread_lives_on() -> None:
    with batcher(Lost(), retry_seconds=0.0) as here:
        for says in ("It has gone.", "It does not start."):
            with pytest.raises(EngineError, match=says):
                here.submit([prompt("a")])[0].result(5)
        assert here.alive


def test_closing_finishes_what_is_queued_and_takes_no_more() -> None:
    engine = Looker(seconds=0.02)
    here = Batcher(engine, batch=2)
    futures = here.submit([prompt(str(n)) for n in range(5)])
    here.close()
    assert all(future.done() for future in futures) and not here.alive
    with pytest.raises(EngineError, match="shutting down"):
        here.submit([prompt("late")])
