"""Packed samples do not see each other; batches without images still reach tower and projector."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from viscot_core.data.encode import Sample
from viscot_core.data.packing import collate_packed, pack
from viscot_core.families.inputs import IGNORE, Rendered
from viscot_core.families.llava.scratch import build_model, train_tokenizer
from viscot_core.families.table import training_from_parts
from viscot_core.train.recipe.tiny_specs import ScratchSpec

SHAPE = ScratchSpec(
    image_side=28, patch=14, vision_width=24, vision_layers=3, vision_heads=2, vision_mlp=48,
    llm_width=24, llm_layers=2, llm_heads=2, llm_mlp=48, max_positions=256, vocab_size=300,
)  # fmt: skip
IMAGE = 3


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request: pytest.FixtureRequest) -> Any:
    tokenizer = train_tokenizer(["x"], vocab_size=300, max_positions=256)
    found = build_model(SHAPE, tokenizer, feature_layer=-2, attention=request.param, seed=0)
    training_from_parts().allow_text_only_batches(found, None)  # type: ignore[arg-type]
    return found


def sample(words: int, images: int, seed: int) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    ids = [1] + [IMAGE] * 4 * images + torch.randint(5, 250, (words,), generator=generator).tolist()
    labels = [IGNORE] * (len(ids) - words) + ids[len(ids) - words :]
    return Sample(Rendered(ids, labels, images), tuple(f"{seed}-{n}" for n in range(images)))


@given(st.lists(st.integers(1, 100), min_size=1, max_size=40), st.integers(100, 400))
def test_every_sample_is_packed_once_and_no_row_overflows(lengths: list[int], capacity: int) -> None:
    rows = pack(lengths, capacity)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= capacity for row in rows)


def test_rows_are_evenly_filled() -> None:
    lengths = [150 + (37 * n) % 700 for n in range(32)]
    rows = pack(lengths, 2048)
    totals = [sum(lengths[i] for i in row) for row in rows]
    assert sum(totals) / (len(totals) * max(totals)) > 0.95


def test_logits_equal_those_of_single_rows(model: Any) -> None:
    samples = [sample(9, 1, 0), sample(5, 0, 1), sample(20, 2, 2), sample(7, 1, 3)]
    images = {name: torch.rand(3, 28, 28, generator=torch.Generator().manual_seed(n))
                for n, name in enumerate(name for s in samples for name in s.images)}  # fmt: skip
    batch, order = collate_packed(samples, pad_id=0, capacity=40)
    assert batch["input_ids"].shape[0] > 1, "more than one packed row"
    pixels = torch.stack([images[name] for i in order for name in samples[i].images])
    model.eval()
    with torch.no_grad():
        packed = model(
            input_ids=batch["input_ids"],
            position_ids=batch["position_ids"],
            pixel_values=pixels,
            use_cache=False,
        ).logits
        for one in samples:
            row, start = _where(batch, one)
            own = [images[name] for name in one.images]
            ids = torch.tensor([one.encoded.ids])
            alone = model(
                input_ids=ids, pixel_values=torch.stack(own) if own else None, use_cache=False
            ).logits[0]
            assert torch.allclose(packed[row, start : start + len(alone)], alone, atol=2e-5)


def _where(batch: dict[str, torch.Tensor], one: Sample) -> tuple[int, int]:
    wanted = torch.tensor(one.encoded.ids)
    for row, ids in enumerate(batch["input_ids"]):
        for start in range(len(ids) - len(wanted) + 1):
            if torch.equal(ids[start : start + len(wanted)], wanted):
                return row, start
    raise AssertionError("the sample is not in the batch")


def test_the_first_label_of_a_sample_is_not_predicted_from_the_sample_before() -> None:
    spoken = [Sample(Rendered(ids, ids, 0), ()) for ids in ([7, 8, 9], [5, 6], [4])]
    batch, order = collate_packed(spoken, pad_id=0, capacity=6)
    assert order == [0, 1, 2]
    assert batch["input_ids"].tolist() == [[7, 8, 9], [5, 6, 4]]
    assert batch["labels"].tolist() == [[IGNORE, 8, 9], [IGNORE, 6, IGNORE]]
    assert batch["position_ids"].tolist() == [[0, 1, 2], [0, 1, 0]]


def test_a_batch_without_images_is_unchanged_and_reaches_every_part(model: Any) -> None:
    ids = torch.tensor([sample(12, 0, 4).encoded.ids])
    model.eval()
    with torch.no_grad():
        expected = model(input_ids=ids, use_cache=False).logits
    model.train()
    model.zero_grad()
    logits = model(input_ids=ids, use_cache=False).logits
    assert torch.equal(logits, expected)
    logits.sum().backward()
    projector = model.model.multi_modal_projector.linear_1.weight
    tower = model.model.vision_tower.encoder.layers[0].mlp.fc1.weight
    for weight in (projector, tower):
        assert weight.grad is not None and not weight.grad.any()
