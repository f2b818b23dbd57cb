"""Twelve families answer through one engine: each a tiny random model with its own processor and template."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from family_checks import IMAGES, asked
from made_families import FAMILIES, make
from made_tile_families import make_gemma3

from viscot_core.boxes.registry import codec
from viscot_core.conversation import Message
from viscot_core.engines.open import EngineOptions, codec_for, open_engine
from viscot_core.engines.transformers.engine import LocalEngine
from viscot_core.engines.transformers.prefix import uses_static
from viscot_core.errors import UsageError
from viscot_core.families.generic.backbones import BACKBONES
from viscot_core.models.checkpoint import open_checkpoint
from viscot_core.models.load import LoadedModel, load_model

pytest.importorskip("torchvision", reason="most processors have a video part; make test installs it")


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = make(request.param, tmp_path_factory.mktemp(request.param))
    return load_model(folder, device="cpu", dtype="fp32")


def test_it_is_transformers_own_answer(loaded: LoadedModel) -> None:
    """Greedy tokens of the model's own forward, on inputs of its own processor, pixels included."""
    for request in (asked()[0], asked()[2]):
        inputs = loaded.processor.batch([request.messages], [[view.image for view in request.images]])  # type: ignore[attr-defined]
        sizes = [view.image.size for view in request.images]
        rendered = loaded.processor.render(request.messages, sizes, generate=True)
        assert rendered.ids == inputs["input_ids"][0].tolist()
        ids, logprobs = greedy(loaded, inputs, request.max_new_tokens)
        (ours,) = LocalEngine(loaded).generate([replace(request, logprobs=True)])
        assert ours.tokens == len(ids) and ours.logprobs == pytest.approx(logprobs, abs=1e-5)
        assert (
            ours.text == loaded.processor.text([i for i in ids if i not in loaded.processor.stop_ids]).strip()
        )


def test_ids_are_transformers_own(loaded: LoadedModel) -> None:
    """Those of its ``apply_chat_template``: a first token that template and tokenizer write is there once."""
    hf: Any = loaded.processor.hf  # type: ignore[attr-defined]
    words = "where is the red card?"
    content = [{"type": "image", "image": IMAGES[0]}, {"type": "text", "text": words}]
    theirs = hf.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        enable_thinking=False,
    )["input_ids"][0]
    messages, size = (Message("user", f"<image>\n{words}"),), IMAGES[0].size
    assert loaded.processor.render(messages, [size], generate=True).ids == list(theirs)
    # Without its image the row that training reads and the one that vLLM expands start the same way.
    spoken = [Message("user", words), Message("assistant", "the card")]
    bare = loaded.processor.render(spoken[:1], [], generate=True).ids
    assert loaded.processor.slot_ids(spoken[:1]) == bare
    training = loaded.family.training
    if training is not None:
        row = training.processor(open_checkpoint(loaded.path)).render(spoken, []).ids
        assert row[:4] == bare[:4]  # what follows may differ: a template writes no empty thought into history


def greedy(loaded: LoadedModel, inputs: dict[str, Any], limit: int) -> tuple[list[int], list[float]]:
    """The likeliest token after token with its logprob, everything computed anew each time."""
    ids: list[int] = []
    logprobs: list[float] = []
    with torch.inference_mode():
        for _ in range(limit):
            if hasattr(loaded.model.model, "rope_deltas"):
                loaded.model.model.rope_deltas = None
            said = torch.tensor([ids], dtype=torch.long)
            grown = {"input_ids": torch.cat([inputs["input_ids"], said], 1)}
            grown["attention_mask"] = torch.ones_like(grown["input_ids"])
            for name in ("mm_token_type_ids", "token_type_ids"):
                if name in inputs:
                    grown[name] = torch.cat([inputs[name], torch.zeros_like(said)], 1)
            logits = loaded.model(**{**inputs, **grown}, use_cache=False).logits[0, -1]
            table = logits.log_softmax(-1)
            logits[loaded.processor.suppress_tokens] = float("-inf")
            ids.append(int(logits.argmax()))
            logprobs.append(float(table[ids[-1]]))
            if ids[-1] in loaded.processor.stop_ids:
                break
    return ids, logprobs


def test_an_image_is_encoded_once(loaded: LoadedModel) -> None:
    engine = LocalEngine(loaded, batch_size=4)
    engine.inputs.clear()
    features = engine.inputs.features  # type: ignore[attr-defined]
    before = features.encoded
    engine.generate(asked())
    engine.generate(asked())
    kept = loaded.family.name != "llava-onevision"
    assert features.encoded - before == (3 if kept else 0)


def test_a_gpu_decodes_it_in_growing_buffers(loaded: LoadedModel) -> None:
    """Static buffers take embeddings only, and here the model puts images and positions in place itself."""
    inputs: Any = LocalEngine(loaded, reuse=False).inputs
    assert not uses_static("cuda", inputs) and not uses_static("cpu", inputs)


@pytest.mark.parametrize("batch_size", [0, 4])
def test_the_shipped_16_bit_answers_too(loaded: LoadedModel, batch_size: int) -> None:
    """What a GPU, or a model beyond half of the memory, gets without a word; a batch size that is found."""
    rounded = load_model(loaded.path, device="cpu", dtype="bf16")
    answers = LocalEngine(rounded, batch_size=batch_size).generate(asked())
    assert all(one.error is None for one in answers) and any(one.text for one in answers)


def test_reset_forgets_the_old_weights(loaded: LoadedModel) -> None:
    engine = LocalEngine(loaded, batch_size=4)
    before = engine.generate(asked()[:1])
    embeddings = loaded.model.get_output_embeddings().weight
    kept = embeddings.detach().clone()
    with torch.no_grad():
        embeddings.copy_(embeddings.flip(0))
    engine.reset()
    try:
        changed = engine.generate(asked()[:1])
        assert changed == LocalEngine(loaded, batch_size=1, reuse=False).generate(asked()[:1])
        assert changed != before
    finally:
        with torch.no_grad():
            embeddings.copy_(kept)


def test_every_entry_names_modules_that_are_there(loaded: LoadedModel) -> None:
    names = [name for name, _ in loaded.model.named_parameters()]
    parts = loaded.family.parts
    for starts in (parts.vision_tower, parts.projector, parts.llm):
        for start in starts:
            tied = start == "lm_head." and loaded.model.config.tie_word_embeddings
            assert tied or any(name.startswith(start) for name in names), start


def test_a_prefix_that_changes_the_words_is_switched_off(tmp_path: Path) -> None:
    """Sliding layers cannot see a whole prefix: shapes fit, words differ, and the check at load finds it."""
    loaded = load_model(make_gemma3(tmp_path / "narrow", window=16), device="cpu", dtype="fp32")
    family: Any = loaded.family
    family.backbone = replace(family.backbone, shares_prefix=True)
    engine = LocalEngine(loaded, batch_size=4)
    assert engine.prefix is None and engine.identity["prefix"] == "off"
    assert engine.generate(asked()) == LocalEngine(loaded, reuse=False).generate(asked())


def test_the_table_knows_the_families_with_tests() -> None:
    assert {backbone.name for backbone in BACKBONES.values()} == set(FAMILIES)


def test_limits_of_pixels_reach_the_model_and_the_boxes(tmp_path: Path) -> None:
    folder = make("qwen2.5-vl", tmp_path / "qwen")
    small = EngineOptions(str(folder), dtype="fp32", max_pixels=28 * 28 * 6)
    assert codec_for(small).name == "qwen2.5-vl@4-6"
    engine, wide = open_engine(small), open_engine(EngineOptions(str(folder), dtype="fp32"))
    assert engine.identity["pixels"] != wide.identity["pixels"]
    asked_of = [e.generate(asked()[2:3])[0].prompt_tokens for e in (engine, wide)]
    assert asked_of[0] < asked_of[1]
    with pytest.raises(UsageError, match="No image has at least"):
        codec_for(EngineOptions(str(folder), max_pixels=700))
    with pytest.raises(UsageError, match="resizes every image to a size of its own"):
        open_engine(EngineOptions(max_pixels=10_000))
    with pytest.raises(UsageError, match="no box format"):
        codec("qwen3-vl@4-16")
