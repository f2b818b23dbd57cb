"""The tiny golden checkpoint computes what the reference implementation computed with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from viscot_core.conversation import IMAGE
from viscot_core.families.llava.template import Chunk, Chunks
from viscot_core.models.load import LoadedModel, load_model

CASES = (
    "text_only",
    "text_only_with_dummy_image",
    "det_landscape",
    "det_portrait",
    "direct_square",
    "answer_pred_portrait",
    "answer_gt_cmyk",
    "cot_without_image",
)
TOLERANCE = 1e-4
REFERENCE_IMAGE = -200


@pytest.fixture(scope="module")
def loaded(golden: Path) -> LoadedModel:
    return load_model(golden / "tiny_llava", device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def arrays(golden: Path) -> Callable[[str, str], Any]:
    stored = np.load(golden / "golden_forward.npz")
    return lambda case, name: stored[f"{case}/{name}"]


def expand(ids: np.ndarray, loaded: LoadedModel) -> list[int]:
    """The reference's ids (one -200 for an image) as transformers' (one id for each of its features)."""
    tokens = loaded.processor.tokens
    out: list[int] = []
    for token in ids.tolist():
        out += [tokens.image_id] * tokens.image_tokens if token == REFERENCE_IMAGE else [token]
    return out


def inputs(case: str, loaded: LoadedModel, arrays: Callable[[str, str], Any]) -> dict[str, Any]:
    import torch

    ids = arrays(case, "input_ids")
    given: dict[str, Any] = {"input_ids": torch.tensor([expand(ids, loaded)])}
    if (ids == REFERENCE_IMAGE).any():
        given["pixel_values"] = torch.from_numpy(arrays(case, "pixel_values"))
    return given


@pytest.mark.parametrize("case", CASES)
def test_logits(
    case: str,
    loaded: LoadedModel,
    arrays: Callable[[str, str], Any],
    record_property: Callable[[str, object], None],
) -> None:
    import torch

    with torch.inference_mode():
        logits = (
            loaded.model(**inputs(case, loaded, arrays)).logits[0, :, : loaded.processor.text_rows].numpy()
        )
    difference = float(np.abs(logits[-8:] - arrays(case, "logits_last8")).max())
    record_property("max_logit_difference", difference)
    print(f"golden {case}: max logit difference {difference:.2e}")
    assert difference < TOLERANCE
    assert (logits.argmax(-1) == arrays(case, "argmax_all")).all()


@pytest.mark.parametrize("case", CASES)
def test_greedy_generation(case: str, loaded: LoadedModel, arrays: Callable[[str, str], Any]) -> None:
    import torch

    given = inputs(case, loaded, arrays)
    with torch.inference_mode():
        out = loaded.model.generate(
            **given,
            attention_mask=torch.ones_like(given["input_ids"]),
            max_new_tokens=24,
            do_sample=False,
            pad_token_id=loaded.processor.tokens.pad_id,
        )
    new = out[0, given["input_ids"].shape[1] :].tolist()
    wanted = arrays(case, "generated_ids").tolist()
    assert [token for token in new if token != loaded.processor.tokens.eos_id] == [
        token for token in wanted if token != loaded.processor.tokens.eos_id
    ]


@pytest.mark.parametrize("case", [case for case in CASES if case != "text_only"])
def test_features(case: str, loaded: LoadedModel, arrays: Callable[[str, str], Any]) -> None:
    """The tower without its unread layer: the reference's features, and transformers' own bit for bit."""
    import torch

    from viscot_core.families.llava.inputs import encode

    pixels = torch.from_numpy(arrays(case, "pixel_values"))
    with torch.inference_mode():
        ours = encode(loaded.model, pixels)
        theirs = torch.stack(list(loaded.model.get_image_features(pixels, return_dict=True).pooler_output))
        tower = loaded.model.model.vision_tower(pixels, output_hidden_states=True)
    assert torch.equal(ours, theirs)
    assert np.abs(ours.numpy() - arrays(case, "projected")).max() < TOLERANCE
    assert np.abs(tower.hidden_states[-2][:, 1:].numpy() - arrays(case, "clip_features")).max() < TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_prompt_ids(case: str, golden: Path, loaded: LoadedModel, arrays: Callable[[str, str], Any]) -> None:
    prompt = json.loads((golden / "golden_forward.json").read_text())[case]["prompt"]
    if prompt is None:
        pytest.skip("the golden file does not state this case's prompt")
    rendered = Chunks(tuple(Chunk(text) for text in prompt.split(IMAGE)))
    assert loaded.processor.tokens.encode(rendered).ids == expand(arrays(case, "input_ids"), loaded)


def test_pickled_bf16_shards_hold_the_same_model(golden: Path, loaded: LoadedModel) -> None:
    import torch

    pickled = load_model(golden / "tiny_llava_bin", device="cpu", dtype="fp32")
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor.bfloat16(), pickled.model.state_dict()[name].bfloat16()), name


def test_added_rows_never_win(loaded: LoadedModel, arrays: Callable[[str, str], Any]) -> None:
    """The image token's rows are the mean of the real ones: their logit is never the largest."""
    import torch

    with torch.inference_mode():
        logits = loaded.model(**inputs("direct_square", loaded, arrays)).logits[0]
    assert logits.shape[-1] == 832
    assert (
        logits[:, loaded.processor.text_rows :].max(-1).values
        < logits[:, : loaded.processor.text_rows].max(-1).values
    ).all()


@pytest.mark.parametrize("vocabulary", ["llama", "tiny"])
@pytest.mark.parametrize(
    ("turn_tokens", "variant"),
    [
        ("legacy", "legacy_True"),
        ("plain", "legacy_False"),
        ("v4.31", "legacy_False_transformers_4.31"),
    ],
)
def test_turn_starts(shared: Path, vocabulary: str, turn_tokens: Any, variant: str) -> None:
    """The three ways that ``</s>USER`` was split, id for id, on the reference's own conversations."""
    from viscot_core.families.llava.processor import ChatTokenizer
    from viscot_core.families.llava.tokenizer import load_tokenizer

    folder = shared / "golden" / f"{vocabulary}_tokenizer"
    tokens = ChatTokenizer(load_tokenizer(folder, turn_tokens), image_tokens=1, turn_tokens=turn_tokens)
    assert tokens.image_id == {"llama": 32000, "tiny": 800}[vocabulary]
    compared = 0
    for row in json.loads((shared / "golden" / "golden_train_tensors.json").read_text())["rows"]:
        out = row["out"].get(f"{vocabulary}_{variant}")
        if out is None or "input_ids" not in out or not isinstance(row.get("prompt"), str):
            continue
        if "image" not in row["row"] and IMAGE in row["prompt"]:
            continue  # <image> as words, without an image: chain.check_question refuses it
        rendered = Chunks(tuple(Chunk(text) for text in row["prompt"].split(IMAGE)))
        ids = [REFERENCE_IMAGE if i == tokens.image_id else i for i in tokens.encode(rendered).ids]
        assert ids[: len(out["input_ids"])] == out["input_ids"], row["name"]
        compared += 1
    if (vocabulary, turn_tokens) == ("tiny", "v4.31"):
        pytest.skip("the reference was not run with it")
    assert compared >= 40
