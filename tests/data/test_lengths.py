"""Lengths in tokens are those of the samples training sees, and are measured once per tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest

from viscot_core.data.encode import encode
from viscot_core.data.lengths import token_lengths, tokenizer_key
from viscot_core.data.mix import build
from viscot_core.data.mixture import MixtureSource
from viscot_core.data.synth import write_dataset
from viscot_core.families.llava.family import load_tokens
from viscot_core.families.llava.processor import ChatTokenizer
from viscot_core.families.llava.template import TEMPLATES
from viscot_core.models.checkpoint import open_checkpoint

GOLDEN = Path(__file__).parent.parent / "golden" / "tiny_llava"


@pytest.fixture(scope="module")
def tokens() -> ChatTokenizer:
    return load_tokens(open_checkpoint(GOLDEN))


@pytest.mark.parametrize("workers", [1, 2])
def test_lengths_are_those_of_the_encoded_rows(tmp_path: Path, tokens: ChatTokenizer, workers: int) -> None:
    write_dataset(tmp_path, train=6, val=1)
    files = [MixtureSource(name, str(tmp_path / f"{name}.json")) for name in ("train", "pretrain")]
    mixture = build(tmp_path / "mixture", files)
    for template in (TEMPLATES["vicuna_v1"], TEMPLATES["plain"]):
        expected = [len(encode(row, tokens, template, max_length=1 << 20).encoded.ids) for row in mixture]
        assert token_lengths(mixture, tokens, template, workers=workers).tolist() == expected
    assert len(list((tmp_path / "mixture").glob("lengths-*.npy"))) == 2


def test_the_key_names_all_that_lengths_depend_on(tokens: ChatTokenizer) -> None:
    vicuna = TEMPLATES["vicuna_v1"]
    others = [
        tokenizer_key(tokens, TEMPLATES["tiny"]),
        tokenizer_key(ChatTokenizer(tokens.hf, image_tokens=tokens.image_tokens + 1), vicuna),
        tokenizer_key(ChatTokenizer(tokens.hf, image_tokens=16, turn_tokens="v4.31"), vicuna),
    ]
    assert len({tokenizer_key(tokens, vicuna), *others}) == 4
