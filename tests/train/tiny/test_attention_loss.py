"""Token weights and attention targets point at the right tokens and patches."""

from __future__ import annotations

import json

import pytest
import torch
from made_processors import processor_of

from viscot_core.data.annotations import Conversation, Rows
from viscot_core.data.encode import Sample, encode, training_turns
from viscot_core.data.scenes import COLORS, Scene
from viscot_core.data.synth import write_dataset
from viscot_core.families.inputs import IGNORE
from viscot_core.families.llava.processor import ChatTokenizer
from viscot_core.families.llava.scratch import train_tokenizer
from viscot_core.families.llava.template import TEMPLATES, render
from viscot_core.train.recipe.tiny_specs import TokenWeights
from viscot_core.train.tiny.attention_loss import attention_loss, target_tensors, targets_of
from viscot_core.train.tiny.chains import token_weights

TINY = TEMPLATES["tiny"]
GRID = 8


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[ChatTokenizer, list[Sample], dict[str, Scene]]:
    root = tmp_path_factory.mktemp("synth")
    write_dataset(root, train=12, val=0, seed=5)
    rows = list(Rows(root / "train.json", Conversation))
    texts = [c.text for row in rows for c in render(training_turns(row.turns), TINY).chunks if c.text]
    tokenizer = train_tokenizer(texts * 20, vocab_size=512, max_positions=512)
    tokens = ChatTokenizer(tokenizer, image_tokens=GRID * GRID)
    scenes = {
        row["image"]: Scene.from_json(row)
        for row in map(json.loads, (root / "scenes.jsonl").read_text().splitlines())
    }
    processor = processor_of(tokens, "tiny")
    return tokens, [encode(row, processor, max_length=512) for row in rows], scenes


def test_decimals_and_answers_are_weighted_by_place(
    world: tuple[ChatTokenizer, list[Sample], object],
) -> None:
    tokens, samples, _ = world
    weights = TokenWeights(decimals=(2.0, 1.5, 0.2), answer_digits=3.0)
    chain = samples[1]
    got = [
        (tokens.piece(label), weight)
        for label, weight in zip(chain.encoded.labels, token_weights(chain, tokens, weights), strict=True)
        if label != IGNORE
    ]
    digits = [weight for piece, weight in got if piece.isdigit()]
    assert digits == [2.0, 1.5, 0.2] * 4 + [3.0, 3.0]
    assert all(weight == 1.0 for piece, weight in got if not piece.isdigit())


def test_targets_name_the_colour_word_and_the_objects_patches(
    world: tuple[ChatTokenizer, list[Sample], dict[str, Scene]],
) -> None:
    tokens, samples, scenes = world
    seen = 0
    for sample in samples:
        scene = scenes[sample.images[0].split("###")[0]]
        targets = targets_of(sample, scene, tokens, GRID)
        assert len(targets) == sample.encoded.n_supervised
        starts = [i for i, t in enumerate(sample.encoded.ids) if t == tokens.image_id][:: GRID * GRID]
        for target in targets:
            color = tokens.piece(sample.encoded.ids[target.word]).strip()
            assert color in COLORS
            assert target.word < target.query
            assert all(sample.encoded.ids[p] == tokens.image_id for p in target.patches)
            assert all(any(s <= p < s + GRID * GRID for s in starts) for p in target.patches)
            assert sample.encoded.labels[target.query + 1] != IGNORE
            seen += 1
    assert seen > 300


def test_a_box_turn_looks_where_its_box_says(
    world: tuple[ChatTokenizer, list[Sample], dict[str, Scene]],
) -> None:
    tokens, samples, scenes = world
    sample = samples[1]
    target = targets_of(sample, scenes[sample.images[0]], tokens, GRID)[0]
    start = sample.encoded.ids.index(tokens.image_id)
    words = tokens.decode([label for label in sample.encoded.labels if label != IGNORE])
    x0, y0, x1, y1 = (float(n) for n in words[1 : words.index("]")].split(", "))
    patches = target.patches - start
    assert patches.min() % GRID == int(x0 * GRID)
    assert patches.min() // GRID == int(y0 * GRID)
    assert patches.max() % GRID == min(int(x1 * GRID), GRID - 1)
    assert patches.max() // GRID == min(int(y1 * GRID), GRID - 1)


def test_the_loss_falls_when_heads_look_at_their_targets(
    world: tuple[ChatTokenizer, list[Sample], dict[str, Scene]],
) -> None:
    tokens, samples, scenes = world
    sample = samples[1]
    targets = targets_of(sample, scenes[sample.images[0]], tokens, GRID)
    length = len(sample.encoded.ids)
    batch = target_tensors([targets], length)
    even = torch.full((1, 3, length, length), 1 / length)
    looking = even.clone()
    for target in targets:
        looking[0, :, target.query, target.word] = 1.0
    assert attention_loss([looking, even], batch) < attention_loss([even, even], batch)
