"""Lengths in tokens are those of the samples training sees, and are measured once per tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_processors import processor_of

from viscot_core.data.encode import encode
from viscot_core.data.lengths import token_lengths
from viscot_core.data.mix import build
from viscot_core.data.mixture import MixtureSource
from viscot_core.data.synth import write_dataset
from viscot_core.families.llava.processor import ChatProcessor, ChatTokenizer
from viscot_core.models.checkpoint import open_checkpoint

GOLDEN = Path(__file__).parent.parent / "golden" / "tiny_llava"


@pytest.fixture(scope="module")
def processor() -> ChatProcessor:
    found = open_checkpoint(GOLDEN)
    processor = found.family.processor(found)
    assert isinstance(processor, ChatProcessor)
    return processor


@pytest.mark.parametrize("workers", [1, 2])
def test_lengths_are_those_of_the_encoded_rows(
    tmp_path: Path, processor: ChatProcessor, workers: int
) -> None:
    write_dataset(tmp_path, train=6, val=1)
    files = [MixtureSource(name, str(tmp_path / f"{name}.json")) for name in ("train", "pretrain")]
    mixture = build(tmp_path / "mixture", files)
    for template in ("vicuna_v1", "plain"):
        stage = processor.under(template)
        expected = [len(encode(row, stage, max_length=1 << 20).encoded.ids) for row in mixture]
        assert token_lengths(mixture, stage, workers=workers).tolist() == expected
    assert len(list((tmp_path / "mixture").glob("lengths-*.npy"))) == 2


def test_the_key_names_all_that_lengths_depend_on(processor: ChatProcessor) -> None:
    tokens = processor.tokens
    others = [
        processor.under("tiny").key,
        processor_of(ChatTokenizer(tokens.hf, image_tokens=tokens.image_tokens + 1)).key,
        processor_of(ChatTokenizer(tokens.hf, image_tokens=tokens.image_tokens, turn_tokens="v4.31")).key,
    ]
    assert len({processor.under("vicuna_v1").key, *others}) == 4
