"""``"stream": true``: a chunk a token as it is made, together the whole reply; it ends with its client."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from serve_help import Gated, Looker, Running, Slow, data_url, question, running

from viscot_core.engines.base import Generation, Request

openai = pytest.importorskip("openai", reason="needs viscot[dev]")
Serve = Callable[..., Running]


def client(here: Running) -> Any:
    return openai.OpenAI(base_url=f"{here.url}/v1", api_key="none", max_retries=0, timeout=60)


def ask(here: Running, text: str = "What is it?", *, image: str | None = None, **more: Any) -> Any:
    """A completion, or its chunks."""
    own = {name: more.pop(name) for name in ("viscot",) if name in more}
    messages = question(text, image)["messages"]
    return client(here).chat.completions.create(model="viscot", messages=messages, extra_body=own, **more)


def words(chunks: Iterator[Any]) -> list[str]:
    """The deltas of a stream that hold text."""
    return [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]


def test_each_token_comes_before_the_next_is_made(serve: Serve) -> None:
    engine = Slow()
    chunks = iter(ask(serve(engine), stream=True))
    assert next(chunks).choices[0].delta.role == "assistant"
    assert next(chunks).viscot["box_status"] == "ok", "the box comes before the answer"
    for count, word in enumerate(("seen", " 224", " x", " 200"), 1):
        engine.step.release()
        assert next(chunks).choices[0].delta.content == word
        assert len(engine.texts) == count
    assert next(chunks).choices[0].finish_reason == "stop"


def test_a_stream_stops_when_its_client_disconnects(serve: Serve) -> None:
    engine = Slow()
    here = serve(engine, queue=1)
    chunks = ask(here, stream=True)
    engine.step.release()
    words_seen = (chunk for chunk in chunks if chunk.choices[0].delta.content)
    assert next(words_seen).choices[0].delta.content == "seen"
    chunks.close()
    assert engine.left.wait(10) and engine.texts == ["seen"]
    here.settled()
    assert 'status="499"' in here.get("/metrics").text
    for _ in range(4):
        engine.step.release()
    assert here.post(question()).status_code == 200, "its place is free"


def test_an_answer_stops_when_its_client_disconnects(serve: Serve) -> None:
    engine = Slow()
    here = serve(engine)
    engine.step.release()
    here.leave(question(), when=lambda: engine.texts == ["seen"])
    assert engine.left.wait(10) and engine.texts == ["seen"]
    here.settled()


def test_a_client_that_leaves_in_the_first_turn_gets_no_second(serve: Serve) -> None:
    engine = Gated()
    here = serve(engine)
    here.leave(question(), when=engine.inside.is_set)
    engine.go.set()
    here.settled()
    assert here.post(question(viscot={"strategy": "direct"})).status_code == 200
    assert len(engine.prompts) == 2, "the first turn that was under way, and the question after it"
    assert here.metric("viscot_boxes_total") == 0, "no region of a client that has left is counted"


class Forgetful(Looker):
    """Begins its answer again in the middle; with ``another`` it then says something else."""

    another = False

    def _stream(self, request: Request, generation: Generation) -> Generation:
        if request.on_text is not None and generation.text != self.box:
            for text in ("seen", "seen 224", "seen", "seen 224 x"):
                request.on_text(text)
            if self.another:
                return Generation("nothing", 1, True)
        return generation


def test_an_answer_that_begins_again_is_sent_once(serve: Serve) -> None:
    assert words(ask(serve(Forgetful()), stream=True)) == ["seen", " 224", " x", " 200"]


def test_an_answer_that_changed_meanwhile_is_an_error(serve: Serve) -> None:
    engine = Forgetful()
    engine.another = True
    here = serve(engine)
    with pytest.raises(openai.APIError, match="made again and changed"):
        words(ask(here, stream=True))
    reply = here.post(question(stream=True))
    lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line]
    assert json.loads(lines[-2])["error"]["code"] == "changed" and lines[-1] == "[DONE]"


# -- a real model ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(repo: Path) -> Iterator[Running]:
    from viscot_core.engines.transformers.engine import LocalEngine
    from viscot_core.models.load import load_model

    loaded = load_model(repo / "tests" / "golden" / "tiny_llava", device="cpu", dtype="fp32")
    with running(LocalEngine(loaded, batch_size=8)) as server:
        yield server


WAYS: Sequence[dict[str, Any]] = (
    {},
    {"viscot": {"strategy": "direct"}},
    {"viscot": {"strategy": "raw"}},
    {"viscot": {"box": [0.1, 0.2, 0.4, 0.6]}},
)


def test_together_and_streamed_as_alone_and_whole(real: Running) -> None:
    """Also with a stop text, which ends both and is in neither."""
    image = data_url(Image.effect_noise((200, 150), 50).convert("RGB"))
    asked = [
        {"text": text, "image": image, "max_tokens": 14, **way}
        for text in ("What is on the sign?", "Where?")
        for way in WAYS
    ]
    whole = [ask(real, **each) for each in asked]
    texts = [reply.choices[0].message.content for reply in whole]
    with ThreadPoolExecutor(len(asked)) as pool:
        streamed = list(pool.map(lambda each: words(ask(real, stream=True, **each)), asked))
    assert ["".join(pieces) for pieces in streamed] == texts
    counts = [reply.usage.completion_tokens for reply in whole]
    for pieces, count, way in zip(streamed, counts, [*WAYS, *WAYS], strict=True):
        if way:  # the count of the two turns together says nothing of the second
            assert len(pieces) > count / 3, "sent as it grew, not at the end"

    stops = [text[len(text) // 2 :][:2] for text in texts]
    pairs = list(zip(asked, stops, strict=True))
    short = [ask(real, stop=stop, **each).choices[0] for each, stop in pairs]
    assert [choice.message.content for choice in short] == [
        text.partition(stop)[0].strip() for text, stop in zip(texts, stops, strict=True)
    ]
    assert {choice.finish_reason for choice in short} == {"stop"}
    with ThreadPoolExecutor(len(asked)) as pool:
        streamed = list(
            pool.map(lambda pair: words(ask(real, stream=True, stop=[pair[1]], **pair[0])), pairs)
        )
    assert ["".join(pieces) for pieces in streamed] == [choice.message.content for choice in short]
