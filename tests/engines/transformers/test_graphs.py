"""Decoding in static buffers says token for token what the growing way says."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from viscot_core.conversation import Message, answer_turns, direct_turns
from viscot_core.engines.base import Generation, Request
from viscot_core.engines.transformers import attention, graphs, static
from viscot_core.engines.transformers.engine import LocalEngine
from viscot_core.engines.transformers.graphs import StaticDecoder
from viscot_core.engines.transformers.static import BatchShape, StaticBatch
from viscot_core.images.view import View, crop
from viscot_core.models.load import LoadedModel, load_model

QUESTIONS = (
    "What is written on the sign?",
    "How many circles are there?",
    "Is the red kite left of the wooden door?",
    "Where?",
)


@pytest.fixture(scope="module")
def loaded(shared: Path) -> LoadedModel:
    return load_model(shared / "golden" / "tiny_llava", device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    """One to four questions about each of seven images, second turns with a crop, limits of all kinds."""
    made = []
    for number in range(7):
        view = View(Image.effect_noise((90 + number, 70), 60).convert("RGB"), f"noise {number}")
        for question in QUESTIONS[: 1 + number % 4]:
            limit = (1, 2, 40, 9, 17)[len(made) % 5]
            made.append(request(direct_turns(question), view, limit=limit))
            if number % 3:
                second = crop(view, (0, 0, 50, 40))
                made.append(
                    request(answer_turns(question, "[0.1, 0.2, 0.3, 0.4]"), view, second, limit=limit)
                )
    return made


def request(turns: Sequence[Message], *views: View, limit: int = 40) -> Request:
    return Request(tuple(turns), views, limit)


@pytest.fixture(scope="module")
def grown(loaded: LoadedModel, requests: list[Request]) -> list[Generation]:
    return LocalEngine(loaded, batch_size=8).generate(requests)


def static_engine(loaded: LoadedModel, batch_size: int = 8, read_every: int = 8) -> LocalEngine:
    engine = LocalEngine(loaded, batch_size=batch_size)
    assert engine.prefix is not None and engine.prefix.static is None, "a CPU takes the growing way"
    engine.prefix.static = engine.prefix.static_decoder(graphs=False)
    engine.prefix.static.read_every = read_every
    return engine


def decoder_of(engine: LocalEngine) -> StaticDecoder:
    assert engine.prefix is not None and engine.prefix.static is not None
    return engine.prefix.static


@pytest.mark.parametrize("read_every", [1, 3, 8, 100])
@pytest.mark.parametrize("batch_size", [1, 3, 8, 64])
def test_the_text_is_the_growing_ways(
    loaded: LoadedModel, requests: list[Request], grown: list[Generation], batch_size: int, read_every: int
) -> None:
    """Padded rows (3, 5, 6, 7 images), rows that share an image, rows that end between two looks."""
    engine = static_engine(loaded, batch_size, read_every)
    assert engine.generate(requests) == grown
    assert engine.generate(requests[::-1]) == grown[::-1], "what other batches left in the buffers is unseen"
    assert len(decoder_of(engine)._batches) <= graphs.KEPT_SHAPES


def test_long_questions_that_share_an_image(
    loaded: LoadedModel, requests: list[Request], grown: list[Generation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static, "attend", attention.merged)
    assert static_engine(loaded).generate(requests) == grown


@pytest.mark.parametrize("tokens_step", [1, 7, 512])
def test_buffers_of_any_length(
    loaded: LoadedModel,
    requests: list[Request],
    grown: list[Generation],
    tokens_step: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With steps of 1 the last token fills the last slot but one."""
    monkeypatch.setattr(static, "TOKENS_STEP", tokens_step)
    assert static_engine(loaded).generate(requests) == grown


def test_shapes_are_few_and_hold_what_is_asked() -> None:
    assert [BatchShape.around(n, 1, 609, 58).images for n in (1, 2, 3, 5, 8, 9, 41)] == [
        1,
        2,
        4,
        8,
        8,
        16,
        48,
    ]
    for own in range(1, 200):
        alone, shared = BatchShape.around(3, 1, 609, own), BatchShape.around(3, 2, 609, own)
        assert 0 <= alone.slots - own < 64 and (609 + alone.slots) % 64 == 0
        assert 0 <= shared.slots - own < 64 and shared.slots % 64 == 0
    assert BatchShape.around(3, 2, 609, 31).rows == 8
    assert BatchShape.around(1, 1, 609, 31).slots == 31 and BatchShape.around(1, 1, 609, 32).slots == 95


def test_a_watched_row_is_looked_at_every_step(
    loaded: LoadedModel, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = static_engine(loaded)
    looks: list[int] = []
    tell = graphs.tell
    monkeypatch.setattr(graphs, "tell", lambda s, ids, p: (looks.append(ids.shape[1]), tell(s, ids, p)))
    long = replace(requests[0], max_new_tokens=20)
    alone = engine.generate([long])[0]
    assert max(looks) == 8
    for watched in (
        replace(long, on_text=lambda _: None),
        replace(long, cancelled=lambda: False),
        replace(long, stop=("never said",)),
    ):
        looks.clear()
        assert engine.generate([watched])[0].text == alone.text
        assert set(looks) == {1}


def test_cancelled_and_stopped_rows_end_as_before(loaded: LoadedModel, requests: list[Request]) -> None:
    told: list[str] = []
    left = replace(requests[1], max_new_tokens=30, on_text=told.append, cancelled=lambda: len(told) >= 2)
    ways = []
    for engine in (LocalEngine(loaded), static_engine(loaded)):
        told.clear()
        ways.append((engine.generate([left, requests[2]]), list(told)))
    assert ways[0] == ways[1]


def test_reset_frees_the_buffers_and_reads_new_weights(shared: Path, requests: list[Request]) -> None:
    own = load_model(shared / "golden" / "tiny_llava", device="cpu", dtype="fp32")
    engine = static_engine(own)
    before = engine.generate(requests)
    with torch.no_grad():
        for parameter in own.model.model.language_model.layers.parameters():
            parameter.mul_(1.5)
    engine.reset()
    decoder = decoder_of(engine)
    assert decoder._memory is None and not decoder._batches and not decoder._captured
    after = engine.generate(requests)
    assert after != before and after == LocalEngine(own).generate(requests)


def test_shapes_share_one_memory(loaded: LoadedModel, requests: list[Request]) -> None:
    engine = static_engine(loaded, batch_size=64)
    engine.generate(requests)
    decoder = decoder_of(engine)
    assert decoder._memory is not None and len(decoder._batches) > 1
    start, nbytes = decoder._memory.data_ptr(), decoder._memory.nbytes
    for batch in decoder._batches.values():
        assert start <= batch._own.data_ptr() < start + nbytes
        assert start <= batch._prefix.data_ptr() < start + nbytes


@pytest.mark.parametrize("each", [1, 3])
@pytest.mark.parametrize("s", [4, 1])
def test_grouped_query_attention(each: int, s: int) -> None:
    """Fewer key heads than query heads: reading and decoding, one image a row and shared ones."""
    torch.manual_seed(0)
    heads, kv, dim, images, p = 6, 2, 8, 2, 5
    shape = BatchShape.around(images, each, p, 9)
    rows = shape.rows
    memory = torch.zeros(2 * sum(shape.values(kv, dim)))
    batch = StaticBatch(shape, memory, 1, kv, dim)
    prefixes = list(torch.randn(images, 1, 2, kv, p, dim))
    lengths = [s - number % min(2, s) for number in range(rows)]
    query, key, value = torch.randn(rows, heads, s, dim), *torch.randn(2, rows, kv, s, dim)
    batch.begin(prefixes, lengths)
    batch.update(key, value, 0)
    read = batch.attend(query, 0, 0.3)
    batch.read(torch.zeros(rows, dtype=torch.long))
    new = torch.randn(2, rows, kv, 1, dim)
    seen: list[torch.Tensor] = []

    def advance(
        ids: torch.Tensor, _mask: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        assert positions[:, 0].tolist() == [p + length for length in lengths]
        batch.update(new[0], new[1], 0)
        seen.append(batch.attend(query[:, :, :1], 0, 0.3))
        return ids[:, 0] + 7, None

    batch.step(advance)
    assert batch.said[:, s + 1].tolist() == [7] * rows
    for row, length in enumerate(lengths):
        for step, (got, last) in enumerate(((read, length - 1), (seen[0], 0))):
            own = torch.stack([key[row, :, :length], value[row, :, :length]])
            if step:
                own = torch.cat([own, new[:, row]], 2)
            keys, values = torch.cat([prefixes[row // each][0], own], 2).repeat_interleave(3, 1)
            asked = query[row, :, last] if step == 0 else query[row, :, 0]
            weights = (asked[:, None] @ keys.transpose(1, 2) * 0.3).softmax(-1)
            assert torch.allclose(got[row, last], (weights @ values)[:, 0], atol=1e-5)


def test_a_capture_that_fails_leaves_the_same_steps(
    loaded: LoadedModel, requests: list[Request], grown: list[Generation], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    fake = SimpleNamespace(
        CUDAGraph=object, graph=fails, graph_pool_handle=lambda: 1, OutOfMemoryError=torch.OutOfMemoryError
    )
    monkeypatch.setattr(graphs.torch, "cuda", fake)
    engine = static_engine(loaded)
    decoder_of(engine).graphs = True
    with pytest.warns(RuntimeWarning, match="without CUDA graphs: operation not permitted") as caught:
        assert engine.generate(requests) == grown
    assert len(caught) == 1 and not decoder_of(engine).graphs


@pytest.mark.gpu
def test_captured_steps_say_the_same(shared: Path, requests: list[Request], grown: list[Generation]) -> None:
    loaded = load_model(shared / "golden" / "tiny_llava", device="cuda", dtype="fp32")
    engine = LocalEngine(loaded, batch_size=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        captured = engine.generate(requests)
    decoder = decoder_of(engine)
    assert decoder._captured and engine.generate(requests) == captured
    decoder.graphs = False
    decoder.clear()
    assert engine.generate(requests) == captured
    assert engine.prefix is not None
    engine.prefix.static = None
    assert engine.generate(requests) == captured == grown
