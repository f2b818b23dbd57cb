"""Probabilities and draws: the same in every way of decoding, alone and in a batch."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from viscot_core.conversation import Message, answer_turns, direct_turns
from viscot_core.engines.base import Generation, Request, Sampling
from viscot_core.engines.transformers.choosing import Choice, Draws, choose, uniform
from viscot_core.engines.transformers.engine import LocalEngine
from viscot_core.families.inputs import Prompt
from viscot_core.images.view import View, crop
from viscot_core.models.load import LoadedModel, load_model

QUESTIONS = ("What is written on the sign?", "How many circles are there?", "Where?")
NOISE = View(Image.effect_noise((120, 70), 60).convert("RGB"), "noise")


@pytest.fixture(scope="module")
def loaded(golden: Path) -> LoadedModel:
    return load_model(golden / "tiny_llava", device="cpu", dtype="fp32")


def engines(loaded: LoadedModel) -> dict[str, LocalEngine]:
    """Every way of decoding that a CPU can take."""
    static = LocalEngine(loaded, batch_size=8)
    assert static.prefix is not None
    static.prefix.static = static.prefix.static_decoder(graphs=False)
    return {
        "growing": LocalEngine(loaded, batch_size=8),
        "static": static,
        "plain": LocalEngine(loaded, batch_size=8, reuse=False),
        "single": LocalEngine(loaded, batch_size=1, reuse=False),
    }


def asked(sampling: Sampling | None = None, limit: int = 16) -> list[Request]:
    """First and second turns about one image, and words alone."""
    out = []
    for number, question in enumerate(QUESTIONS):
        second = answer_turns(question, "[0.1, 0.2, 0.3, 0.4]"), (NOISE, crop(NOISE, (0, 0, 60, 60)))
        text = (Message("user", question + " "),), ()
        for turns, views in ((direct_turns(question), (NOISE,)), second, text):
            out.append(
                Request(tuple(turns), views, limit + number, sampling=sampling, logprobs=True, top_logprobs=3)
            )
    return out


def forward(loaded: LoadedModel, request: Request, ids: tuple[int, ...]) -> torch.Tensor:
    """Log probabilities ``[tokens, vocabulary]`` of one forward pass over the prompt and what was said."""
    sizes = [view.image.size for view in request.images]
    rendered = loaded.processor.render(request.messages, sizes, generate=True)
    count = len(rendered.ids)
    rendered.ids.extend(ids)
    rendered.labels.extend(ids)
    inputs = loaded.family.inputs(loaded.model, loaded.processor)
    with torch.inference_mode():
        batch = inputs.batch([Prompt(request.messages, rendered, request.images)])
        logits = loaded.model(**batch, use_cache=False).logits[0]
    return logits[count - 1 : -1].float().log_softmax(-1)


@pytest.mark.parametrize("sampling", [None, Sampling(0.9, 0.8, 5)], ids=["greedy", "sampled"])
def test_logprobs_are_those_of_one_forward_pass(loaded: LoadedModel, sampling: Sampling | None) -> None:
    requests = asked(sampling)
    ways = {name: engine.generate(requests) for name, engine in engines(loaded).items()}
    for number, request in enumerate(requests):
        same = [said[number] for said in ways.values()]
        assert len({(one.text, one.ids, one.finished) for one in same}) == 1
        ids = same[0].ids
        assert ids and len(ids) == same[0].tokens
        table = forward(loaded, request, ids)
        wanted = table.gather(1, torch.tensor(ids)[:, None])[:, 0]
        for one in same:
            assert one.logprobs is not None
            assert torch.allclose(torch.tensor(one.logprobs), wanted, rtol=0, atol=1e-5)
            values = torch.tensor([value for _, value in one.top_logprobs])
            assert torch.allclose(values, table[0].topk(3).values, rtol=0, atol=1e-5)
            assert one.top_logprobs[0][0] == loaded.processor.text([int(table[0].argmax())])


@pytest.mark.slow
def test_asking_for_them_changes_no_text(loaded: LoadedModel) -> None:
    for engine in engines(loaded).values():
        without = [replace(request, logprobs=False, top_logprobs=0) for request in asked()]
        bare = engine.generate(without)
        assert all(one.logprobs is None and not one.top_logprobs for one in bare)
        told = engine.generate(asked())
        assert [replace(one, logprobs=None, top_logprobs=()) for one in told] == bare
        mixed = [
            one if number % 2 else other
            for number, (one, other) in enumerate(zip(asked(), without, strict=True))
        ]
        assert [one.logprobs is not None for one in engine.generate(mixed)] == [bool(n % 2) for n in range(9)]


def test_equal_requests_are_so_many_draws(loaded: LoadedModel) -> None:
    """Each has a seed of its own, so that K rollouts of a question are K texts, the same ones every time."""
    one = replace(asked(Sampling(1.5, seed=2**63 - 2), limit=24)[0])
    for engine in engines(loaded).values():
        texts = [generation.text for generation in engine.generate([one] * 6)]
        assert len(set(texts)) > 3 and texts == [g.text for g in engine.generate([one] * 6)]
        next_seed = replace(one, sampling=Sampling(1.5, seed=2**63 - 1))
        wrapped = replace(one, sampling=Sampling(1.5, seed=-(2**63)))
        assert [g.text for g in engine.generate([next_seed, wrapped])] == texts[1:3]
        # In calls of their own, and in any order: the same draws.
        for number in (2, 0, 1):
            assert engine.generate([replace(one, draw=number)])[0].text == texts[number]


def test_an_engine_s_own_sampling_is_what_a_request_leaves_open(loaded: LoadedModel) -> None:
    warm = LocalEngine(loaded, sampling=Sampling(1.2, 0.9, 3))
    open_, own = asked(), asked(Sampling(1.2, 0.9, 3))
    said = warm.generate(open_)
    assert said == LocalEngine(loaded).generate(own) != LocalEngine(loaded).generate(open_)
    assert warm.generate([replace(each, sampling=Sampling()) for each in open_]) == LocalEngine(
        loaded
    ).generate(open_)
    assert warm.identity["sampling"] == "t=1.2,p=0.9,s=3" and not warm.traits.deterministic
    assert warm.traits.logprobs and warm.traits.samples


@pytest.mark.parametrize("top_p", [1.0, 0.7, 0.3])
def test_draws_follow_the_distribution(top_p: float) -> None:
    """20,000 draws of six tokens, one of them forbidden: shares within 1.5 points of the exact ones."""
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, 3.0])
    rows, temperature = 20_000, 0.8
    exact = (logits[:5] / temperature).softmax(-1)
    ordered, ids = exact.sort(descending=True)
    kept = ordered.cumsum(-1) - ordered < top_p
    exact[ids[~kept]] = 0
    exact /= exact.sum()
    numbers = uniform(Sampling(1.0, seed=1), rows)[:, None]
    draws = Draws(
        torch.full((rows, 1), temperature), torch.full((rows, 1), top_p if top_p < 1 else 2.0), numbers
    )
    choice = Choice(samples=True, nucleus=top_p < 1)
    found, _ = choose(logits.repeat(rows, 1), torch.tensor([5]), choice, draws, numbers)
    counts = Counter(found.tolist())
    assert set(counts) == set(exact.nonzero()[:, 0].tolist())
    for token, share in enumerate(exact.tolist()):
        assert abs(counts[token] / rows - share) < 0.015


def test_no_rounding_draws_a_forbidden_id() -> None:
    """A number that no sum reaches stands for a GPU's sums, which need not grow from place to place."""
    numbers = torch.tensor([[2.0]])
    draws = Draws(torch.tensor([[0.8]]), torch.tensor([[2.0]]), numbers)
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    found, _ = choose(logits, torch.tensor([2]), Choice(samples=True), draws, numbers)
    assert found.tolist() == [1]


def test_rows_of_one_batch_draw_as_each_was_told(loaded: LoadedModel) -> None:
    """Greedy, warm and nucleus rows together are what each is alone."""
    mixed = [
        replace(request, sampling=sampling)
        for request, sampling in zip(
            asked(), [None, Sampling(1.3, seed=4), Sampling(0.8, 0.5, 9)] * 3, strict=True
        )
    ]
    alone: list[Generation] = [engines(loaded)["single"].generate([each])[0] for each in mixed]
    for name, engine in engines(loaded).items():
        said = engine.generate(mixed)
        assert [(g.text, g.ids) for g in said] == [(g.text, g.ids) for g in alone], name


@pytest.mark.gpu
def test_captured_steps_draw_anew(golden: Path) -> None:
    loaded = load_model(golden / "tiny_llava", device="cuda", dtype="fp32")
    engine = LocalEngine(loaded, batch_size=8)
    for sampling in (None, Sampling(0.9, 0.8, 5), Sampling(1.2, seed=3)):
        requests = asked(sampling)
        captured, again = engine.generate(requests), engine.generate(requests)
        assert [g.ids for g in captured] == [g.ids for g in again]
        plain = LocalEngine(loaded, batch_size=8, reuse=False).generate(requests)
        assert [g.ids for g in captured] == [g.ids for g in plain]
        for one, other in zip(captured, plain, strict=True):
            assert one.logprobs is not None and other.logprobs is not None
            assert torch.allclose(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-4)
