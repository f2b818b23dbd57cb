"""A text told token by token is the text told at once: half letters, stop texts, batches, new beginnings."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from viscot_core.conversation import Message, answer_turns, direct_turns
from viscot_core.engines.base import Generation, Request
from viscot_core.engines.transformers.decode_state import DecodeState
from viscot_core.engines.transformers.engine import LocalEngine
from viscot_core.errors import EngineError
from viscot_core.families.llava.processor import ChatTokenizer
from viscot_core.images.view import View, crop
from viscot_core.models.load import LoadedModel, load_model
from viscot_core.models.zoo import BUNDLED_FOLDER

IMAGE = View(Image.effect_noise((300, 200), 60).convert("RGB"), "noise")
NOTHING = Request((Message("user", "?"),), ())


@pytest.fixture(scope="module")
def loaded(golden: Path) -> LoadedModel:
    """LLaMA's vocabulary: sentencepiece, with a token for each byte."""
    return load_model(golden / "tiny_llava", device="cpu", dtype="fp32")


@pytest.fixture(scope="module", params=["sentencepiece", "byte-level"])
def tokens(request: pytest.FixtureRequest, loaded: LoadedModel) -> ChatTokenizer:
    if request.param == "sentencepiece":
        return loaded.processor.tokens
    if not (BUNDLED_FOLDER / "config.json").exists():
        pytest.skip("no bundled model in this checkout")
    return load_model(None, device="cpu", dtype="fp32").processor.tokens


def processor_of(tokens: ChatTokenizer) -> Any:
    """What a decode state needs of a processor: its end and its texts."""
    return SimpleNamespace(stop_ids={tokens.eos_id}, text=tokens.text, settled_text=tokens.settled_text)


def say(tokens: ChatTokenizer, ids: list[int], stop: tuple[str, ...] = ()) -> tuple[list[str], Generation]:
    """What was told on the way, and the whole."""
    told: list[str] = []
    state = DecodeState(
        processor_of(tokens), replace(NOTHING, stop=stop, on_text=told.append), limit=len(ids) + 1
    )
    for token in ids:
        state.on_token(token)
    return told, state.generation()


def test_whatever_is_said_the_told_texts_begin_the_whole(tokens: ChatTokenizer) -> None:
    """Random tokens, most of them bytes and special ones: letters broken in every way."""
    rng = random.Random(0)
    size = len(tokens.hf)
    odd = [i for i in range(size) if "\ufffd" in tokens.text([i])] + [
        i for i in tokens.hf.all_special_ids if i != tokens.eos_id
    ]
    letters = [i for text in ("中", "é", "😀", "a b", "\u2003", "\n") for i in _ids(tokens, text)]
    told_some = 0
    for _ in range(600):
        ids = [rng.choice(rng.choice([odd, letters, range(size)])) for _ in range(rng.randrange(1, 14))]
        ids = [i for i in ids if i != tokens.eos_id]
        told, whole = say(tokens, ids)
        assert whole.text == tokens.decode(ids)
        for before, after in zip(["", *told], [*told, whole.text], strict=True):
            assert after.startswith(before), (ids, told, whole.text)
        assert len(set(told)) == len(told), "each text is told once"
        told_some += bool(told)
    assert told_some > 300


def _ids(tokens: ChatTokenizer, text: str) -> list[int]:
    return list(tokens.hf(text, add_special_tokens=False)["input_ids"])


def test_a_letter_of_many_bytes_is_told_when_it_is_whole(loaded: LoadedModel) -> None:
    ids = [loaded.processor.tokens.hf.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in "中".encode()]
    (word,) = _ids(loaded.processor.tokens, "a")[-1:]
    told, whole = say(loaded.processor.tokens, [word, *ids, word])
    assert told[-1] == whole.text and whole.text.count("中") == 1
    assert all("\ufffd" not in text for text in told)
    _, broken = say(loaded.processor.tokens, [word, *ids, ids[0]])
    assert "中" not in broken.text, "a byte too many breaks the whole run: it must not have been told before"


@pytest.mark.parametrize(
    ("stop", "text", "stopped"),
    [
        ((), "one two three", False),
        (("two",), "one", True),
        (("three", "ne t"), "o", True),
        (("one",), "", True),
        (("four", "threefold"), "one two three", False),
        ((" ",), "one", True),
    ],
)
def test_a_stop_text_ends_the_answer_and_is_never_told(
    loaded: LoadedModel, stop: tuple[str, ...], text: str, stopped: bool
) -> None:
    ids = _ids(loaded.processor.tokens, "one two three")
    told, whole = say(loaded.processor.tokens, ids, stop)
    assert (whole.text, whole.finished) == (text, stopped)
    assert all(text.startswith(each) for each in told)
    silent = DecodeState(loaded.processor, replace(NOTHING, stop=stop), limit=99)
    for token in ids:
        silent.on_token(token)
    assert silent.generation() == whole and silent.open is not stopped


def requests() -> list[Request]:
    """First and second turns and words without an image, of different lengths and limits."""
    window = (20, 10, 180, 150)
    out = []
    for number, question in enumerate(("What is on the sign?", "How many circles are there?", "Where?")):
        for turns, views in (
            (direct_turns(question), (IMAGE,)),
            (answer_turns(question, "[0.1, 0.2, 0.3, 0.4]"), (IMAGE, crop(IMAGE, window))),
            ((Message("user", question + " "),), ()),
        ):
            out.append(Request(tuple(turns), views, 6 + 11 * number))
    return out


@pytest.mark.parametrize("reuse", [True, False], ids=["shared prefix", "plain"])
def test_heard_in_a_batch_as_unheard_alone(loaded: LoadedModel, reuse: bool) -> None:
    asked = requests()
    alone = [LocalEngine(loaded, batch_size=1, reuse=False).generate([each])[0] for each in asked]
    told: list[list[str]] = [[] for _ in asked]
    heard = [replace(each, on_text=texts.append) for each, texts in zip(asked, told, strict=True)]
    assert LocalEngine(loaded, reuse=reuse).generate(heard) == alone
    for texts, one in zip(told, alone, strict=True):
        assert texts and len(texts) > one.tokens / 3, "told as it grew, not at the end"
        for before, after in zip(texts, [*texts[1:], one.text], strict=True):
            assert after.startswith(before)


@pytest.mark.parametrize("reuse", [True, False], ids=["shared prefix", "plain"])
def test_stop_texts_in_a_batch(loaded: LoadedModel, reuse: bool) -> None:
    engine = LocalEngine(loaded, reuse=reuse)
    asked = requests()
    whole = engine.generate(asked)
    stops = [one.text[len(one.text) // 2 :][:3] for one in whole]
    cut = engine.generate([replace(each, stop=(stop,)) for each, stop in zip(asked, stops, strict=True)])
    for stop, before, after in zip(stops, whole, cut, strict=True):
        assert after.text == before.text.partition(stop)[0].strip() and after.finished
        assert after.tokens <= before.tokens


@pytest.mark.parametrize("reuse", [True, False], ids=["shared prefix", "plain"])
def test_what_nobody_waits_for_is_not_made(loaded: LoadedModel, reuse: bool) -> None:
    engine = LocalEngine(loaded, reuse=reuse)
    asked = [each for each in requests() if each.images][:2]
    kept = replace(asked[0], max_new_tokens=30)
    whole = engine.generate([kept])[0]
    told: list[str] = []
    left = replace(asked[1], max_new_tokens=30, on_text=told.append, cancelled=lambda: len(told) >= 2)
    answers = engine.generate([left, kept])
    assert answers[1] == whole, "the others' answers stay"
    assert len(told) == 2 and answers[0].text.startswith(told[-1]) and not answers[0].finished
    assert answers[0].tokens < 30


def test_what_must_begin_again_is_told_again(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory in the middle: half the batch, from the first token; what was finished is kept."""
    engine = LocalEngine(loaded, batch_size=0)
    assert engine.prefix is not None
    asked = [each for each in requests() if each.images]
    whole = engine.generate(asked)
    logits: Callable[[torch.Tensor], torch.Tensor] = engine.prefix._logits
    steps = iter(range(10_000))

    def full(hidden: torch.Tensor) -> torch.Tensor:
        if next(steps) == 3:
            raise torch.cuda.OutOfMemoryError("full")
        return logits(hidden)

    monkeypatch.setattr(engine.prefix, "_logits", full)
    before, told = engine.batch_size, list[str]()
    assert engine.generate([replace(asked[-1], on_text=told.append), *asked]) == [whole[-1], *whole]
    assert engine.batch_size == before // 2
    assert told.count(told[0]) == 2, "the first token was said twice"


def test_another_error_than_of_memory_halves_no_batch(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = LocalEngine(loaded, batch_size=0)
    tries: list[int] = []

    def fails(prompts: Sequence[object]) -> None:
        tries.append(len(prompts))
        raise EngineError("This model's layers do not show their attention.")

    monkeypatch.setattr(engine, "_decode", fails)
    before = engine.batch_size
    assert before > 1
    with pytest.raises(EngineError, match="do not show"):
        engine.generate(requests())
    assert engine.batch_size == before and len(tries) == 1


def test_only_the_limit_truncates(tokens: ChatTokenizer) -> None:
    word = _ids(tokens, "a")[-1]
    stop = replace(NOTHING, stop=(processor_of(tokens).text([word, word]),))
    left = replace(NOTHING, cancelled=lambda: True)
    for asked, ids, truncated in (
        (NOTHING, [word, word], True),
        (NOTHING, [word, tokens.eos_id], False),
        (stop, [word, word], False),
        (left, [word, word], False),
    ):
        state = DecodeState(processor_of(tokens), asked, 2)
        for token in ids:
            state.on_token(token)
        assert state.generation().truncated is truncated
