"""Fused kernels say what the plain ones say, are compiled for few shapes, and leave no trace.

A backend that only counts stands in for the compiler; the real one runs on a CPU in the slow tests.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from made_families import make
from PIL import Image
from torch import nn

from viscot_core.conversation import answer_turns, direct_turns
from viscot_core.engines.base import Generation, Request
from viscot_core.engines.transformers import fused
from viscot_core.engines.transformers.engine import LocalEngine
from viscot_core.engines.transformers.fused import FusedKernels
from viscot_core.engines.transformers.graphs import StaticDecoder
from viscot_core.images.view import View, crop
from viscot_core.models.load import LoadedModel, load_model

QUESTIONS = ("What is written on the sign?", "How many?", "Is the red kite left of the wooden door?")
MOST = 24
"""Functions that are compiled of a model: some six, each for one row and several, one token and several."""


@dataclass(eq=False)
class Backend:
    """Counts what it compiles, and compiles nothing; from the ``breaks``-th on it fails."""

    compiled: int = 0
    ran: int = 0
    breaks: int = 1000
    scale: float = 1.0

    def __call__(self, graph: Any, _: Any) -> Callable[..., Any]:
        if self.compiled >= self.breaks:
            raise OSError("there is no compiler here")
        self.compiled += 1

        def run(*args: Any) -> Any:
            self.ran += 1
            said = graph.forward(*args)
            return said if self.scale == 1.0 else tuple(each * self.scale for each in said)

        return run


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What was compiled in a test is not kept for the next."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def loaded(golden: Path) -> LoadedModel:
    return load_model(golden / "tiny_llava", device="cpu", dtype="fp32")


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``on_gpu(backend)``: engines fuse their kernels as on a GPU, with that backend."""

    def begin(backend: Any) -> None:
        monkeypatch.setattr(fused, "worth_fusing", lambda _: True)
        monkeypatch.setattr(fused, "FusedKernels", partial(FusedKernels, backend=backend))

    return begin


def asked(images: int = 5) -> list[Request]:
    """One to three questions about each image, some with a crop; answers of several lengths."""
    made = []
    for number in range(images):
        view = View(Image.effect_noise((90 + 8 * number, 70), 60).convert("RGB"), f"noise {number}")
        for question in QUESTIONS[: 1 + number % 3]:
            limit = (1, 2, 12, 9)[len(made) % 4]
            made.append(Request(tuple(direct_turns(question)), (view,), limit, logprobs=True))
            if number % 3:
                turns = answer_turns(question, "[0.1, 0.2, 0.3, 0.4]")
                second = crop(view, (0, 0, 50, 40))
                made.append(Request(tuple(turns), (view, second), 9, logprobs=True))
    return made


def fused_engine(loaded: LoadedModel, backend: Any, **options: Any) -> LocalEngine:
    engine = LocalEngine(loaded, **options)
    engine.fused = FusedKernels(loaded.model, backend)
    return engine


def assert_same(said: list[Generation], plain: list[Generation]) -> None:
    """Equal words, and log-probabilities that differ by rounding."""
    assert [replace(one, logprobs=None) for one in said] == [replace(one, logprobs=None) for one in plain]
    for one, other in zip(said, plain, strict=True):
        assert one.error is None and one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def assert_untouched(model: nn.Module) -> None:
    assert not any("forward" in vars(module) for module in model.modules())


def in_buffers(engine: LocalEngine) -> StaticDecoder:
    assert engine.prefix is not None
    engine.prefix.static = engine.prefix.static_decoder(graphs=False)
    return engine.prefix.static


def test_the_words_are_the_plain_ones(loaded: LoadedModel, on_gpu: Callable[..., None]) -> None:
    """An engine that is opened to fuse: who it is, what it says, what it leaves."""
    backend, requests = Backend(), asked(3)
    plain = LocalEngine(loaded, batch_size=4)
    on_gpu(backend)
    engine = LocalEngine(loaded, batch_size=4, fused=True)
    assert engine.identity == {**plain.identity, "kernels": "fused"}
    assert backend.compiled and engine._work.flop == 0
    assert engine.prefix is not None and not engine.prefix.store._kept
    assert_same(engine.generate(requests), plain.generate(requests))
    assert backend.compiled <= MOST
    assert_untouched(loaded.model)


@pytest.mark.slow
def test_shapes_cost_nothing(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, requests = Backend(), asked()
    plain = LocalEngine(loaded, batch_size=4).generate(requests)
    for options in ({"batch_size": 4}, {"batch_size": 1, "reuse": False}):
        assert_same(fused_engine(loaded, backend, **options).generate(requests), plain)
    known = backend.compiled
    assert 0 < known <= MOST
    # Another engine, other batches, other lengths: all is there.
    for size in (2, 7):
        for reuse in (True, False):
            engine = fused_engine(loaded, backend, batch_size=size, reuse=reuse)
            assert_same(engine.generate(requests), plain)
    assert backend.compiled == known


def test_a_step_is_compiled_before_it_is_captured(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A capture runs a step that has just run: by then nothing is left to compile."""
    backend, requests = Backend(), asked(3)
    engine = fused_engine(loaded, backend, batch_size=3)
    decoder = in_buffers(engine)
    step, seen = decoder._step, set()

    def noted(batch: Any, choice: Any) -> None:
        before = backend.compiled
        step(batch, choice)
        assert backend.compiled == before or (batch.shape, choice) not in seen
        seen.add((batch.shape, choice))

    monkeypatch.setattr(decoder, "_step", noted)
    assert_same(engine.generate(requests), LocalEngine(loaded, batch_size=3).generate(requests))
    assert len(seen) > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2.5-vl", "qwen3.5", "gemma3", "gemma4", "glm-4v", "molmo2"])
def test_every_family(name: str, tmp_path: Path) -> None:
    loaded = load_model(make(name, tmp_path / name), device="cpu", dtype="fp32")
    backend, requests = Backend(), asked(3)
    plain = LocalEngine(loaded, batch_size=4).generate(requests)
    for size in (1, 4):
        engine = fused_engine(loaded, backend, batch_size=size)
        assert_same(engine.generate(requests), plain)
    parts = {type(module).__name__ for module, _ in FusedKernels(loaded.model, backend)._forwards}
    for kind in ("RMSNorm", "MLP", "Attention"):
        assert any(kind.lower() in part.lower() for part in parts), parts
    assert 0 < backend.compiled <= MOST
    assert_untouched(loaded.model)


@pytest.mark.slow
def test_the_real_compiler(loaded: LoadedModel, golden: Path) -> None:
    requests = asked(4)
    plain = LocalEngine(loaded, batch_size=4).generate(requests)
    engine = fused_engine(loaded, "inductor", batch_size=4)
    assert engine.fused is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert engine.fused.works(lambda: engine.generate(requests[:2]))
    assert_same(engine.generate(requests), plain)
    # In 16 bits: no farther from what float32 says than the plain kernels are.
    half = load_model(golden / "tiny_llava", device="cpu", dtype="bf16")
    text, whole = half.model.model.language_model, loaded.model.model.language_model
    rows = torch.randn(3, 7, text.config.hidden_size, dtype=torch.bfloat16)
    with torch.inference_mode():
        exact = whole(inputs_embeds=rows.float()).last_hidden_state
        before = text(inputs_embeds=rows).last_hidden_state
        with FusedKernels(half.model).active():
            after = text(inputs_embeds=rows).last_hidden_state
    assert not torch.equal(before, after)
    assert (after - exact).abs().mean() < 1.1 * (before - exact).abs().mean() < 0.05


def test_positions_are_put_in_as_queries_lie_in_memory() -> None:
    seen: list[tuple[Any, ...]] = []

    def rotary(q: Any, k: Any, cos: Any, sin: Any, unsqueeze_dim: int = 1) -> tuple[Any, Any]:
        seen.append((tuple(q.shape), q.is_contiguous(), unsqueeze_dim))
        return tuple(each * cos.unsqueeze(unsqueeze_dim) + sin.unsqueeze(unsqueeze_dim) for each in (q, k))

    query, key = (torch.randn(2, 5, heads, 8).transpose(1, 2) for heads in (4, 2))
    cos, sin = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    turned = fused._tokens_first(rotary, rotary)  # type: ignore[arg-type]
    for named in ({}, {"unsqueeze_dim": 1}):
        found = turned(query, key, cos, sin, **named)
        assert all(map(torch.equal, found, rotary(query, key, cos, sin)))
    assert [said[1:] for said in seen[::2]] == [(True, 2), (False, 1)]
    other = cache(lambda states, cos, sin: states)
    assert fused._tokens_first(other, other) is other  # type: ignore[arg-type]


def test_no_engine_on_a_cpu_or_of_32_bits_fuses(loaded: LoadedModel) -> None:
    assert LocalEngine(loaded, fused=True).fused is None
    for device, dtype, worth in (
        ("cuda", torch.bfloat16, True),
        ("cuda", torch.float32, False),
        ("cpu", torch.bfloat16, False),
        ("mps", torch.float16, False),
    ):
        model = type("Model", (), {"device": torch.device(device), "dtype": dtype})()
        assert fused.worth_fusing(model) is worth


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        (Backend(breaks=0), "there is no compiler here"),
        (Backend(breaks=2), "there is no compiler here"),
        (Backend(scale=1.2), "gives other numbers once it is compiled"),
    ],
)
def test_what_does_not_work_is_told_and_the_plain_way_goes_on(
    loaded: LoadedModel, on_gpu: Callable[..., None], backend: Backend, words: str
) -> None:
    requests = asked(2)
    plain = LocalEngine(loaded).generate(requests)
    on_gpu(backend)
    with pytest.warns(RuntimeWarning, match="kernels are not fused") as told:
        engine = LocalEngine(loaded, fused=True)
    (one,) = [each for each in told if "fused" in str(each.message)]
    assert words in str(one.message)
    assert engine.fused is None and engine.identity == LocalEngine(loaded).identity
    ran = backend.ran
    assert engine.generate(requests) == plain and backend.ran == ran
    assert_untouched(loaded.model)


def test_a_torch_that_cannot_compile(
    loaded: LoadedModel, on_gpu: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("torch.compile is not supported on this Python")

    monkeypatch.setattr(torch, "compile", refused)
    on_gpu("inductor")
    with pytest.warns(RuntimeWarning, match="answers take longer: torch.compile is not supported"):
        assert LocalEngine(loaded, fused=True).fused is None


def test_a_later_shape_that_does_not_compile(loaded: LoadedModel) -> None:
    requests, backend = asked(), Backend()
    plain = LocalEngine(loaded, batch_size=4).generate(requests)
    engine = fused_engine(loaded, backend, batch_size=4)
    engine.generate(requests[:1])
    backend.breaks = backend.compiled
    with pytest.warns(RuntimeWarning, match="there is no compiler here") as told:
        assert_same(engine.generate(requests), plain)
    assert len([each for each in told if "fused" in str(each.message)]) == 1


def test_an_engine_opened_while_another_answers_is_a_plain_one(
    loaded: LoadedModel, on_gpu: Callable[..., None]
) -> None:
    """In the same thread; in others it waits for the answer."""
    on_gpu(Backend())
    engine, opened = LocalEngine(loaded, fused=True), []
    assert engine.fused is not None and engine.fused.parts

    def listen(_: str) -> None:
        if not opened:
            opened.append(LocalEngine(loaded, fused=True))

    engine.generate([replace(asked(1)[0], max_new_tokens=4, on_text=listen)])
    assert opened[0].fused is None and "kernels" not in opened[0].identity
    assert_untouched(loaded.model)


def test_others_of_the_same_kind_keep_the_plain_code(loaded: LoadedModel, golden: Path) -> None:
    """Another model in another thread, while this one's kernels are fused."""
    other = load_model(golden / "tiny_llava", device="cpu", dtype="fp32")
    text, rows = other.model.model.language_model, torch.randn(2, 5, 64)
    rows = rows.repeat(1, 1, text.config.hidden_size // 64 + 1)[..., : text.config.hidden_size]
    backend, said = Backend(), []
    with torch.no_grad():
        plain = text(inputs_embeds=rows).last_hidden_state

    def train() -> None:
        said.append(text(inputs_embeds=rows).last_hidden_state)

    with FusedKernels(loaded.model, backend).active():
        thread = threading.Thread(target=train)
        thread.start()
        thread.join()
    assert backend.compiled == backend.ran == 0
    assert torch.equal(said[0], plain) and said[0].requires_grad
    with ThreadOf(partial(fused_engine(loaded, backend).generate, asked(1))) as busy:
        while busy.is_alive():
            assert torch.equal(text(inputs_embeds=rows).last_hidden_state, plain)
            assert_untouched(other.model)
    assert backend.ran


class ThreadOf(threading.Thread):
    """A thread that runs ``work`` inside a ``with``."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__(target=work)

    def __enter__(self) -> ThreadOf:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.join()


def test_layers_that_others_have_changed_stay_as_they_are() -> None:
    """Accelerate sets a ``forward`` of its own; quantised and adapted products have their own code."""

    class Quantised(nn.Linear): ...

    class SomeMLP(nn.Module):
        def __init__(self, kind: type[nn.Linear]) -> None:
            super().__init__()
            self.up_proj, self.down_proj, self.act = kind(4, 8), kind(8, 4), nn.SiLU()

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return self.down_proj(self.act(self.up_proj(rows)))

    class SomeRMSNorm(nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return rows

    moved = SomeRMSNorm()
    moved.forward = partial(SomeRMSNorm.forward, moved)  # type: ignore[method-assign]
    own = moved.forward
    model = nn.Sequential(SomeMLP(nn.Linear), SomeMLP(Quantised), SomeRMSNorm(), moved)
    kernels = FusedKernels(model, Backend())
    assert [module for module, _ in kernels._forwards] == [model[0], model[2]]
    with pytest.raises(ValueError), kernels.active():
        raise ValueError
    assert moved.forward is own and "forward" not in vars(model[0])
