"""What a prompt attends to: the numbers of transformers' own eager attention, in batches of any prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from made_families import make
from PIL import Image

from viscot_core.boxes.attention_map import AttentionKind, AttentionOf
from viscot_core.conversation import Message
from viscot_core.engines.base import Generation, Request, Sampling
from viscot_core.engines.transformers.decode_state import Decoding
from viscot_core.engines.transformers.engine import LocalEngine
from viscot_core.engines.transformers.maps import layer_of
from viscot_core.errors import UsageError
from viscot_core.images.view import View, view_of
from viscot_core.models.load import load_model

SLOW = (
    "qwen2.5-vl",
    "smolvlm",
    "internvl",
    "qwen2-vl",
    "qwen3-vl",
    "qwen3.5",
    "glm-4v",
    "idefics3",
    "gemma3",
)
UNKNOWN = ("llava-onevision", "gemma4", "molmo2")
NAMES = ["llava", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
WIDE = view_of(Image.effect_noise((200, 90), 60).convert("RGB"))
TALL = view_of(Image.effect_noise((60, 150), 40).convert("RGB"))


def asked(
    view: View, words: str, kind: AttentionKind | None = "weights", layer: int | None = None
) -> Request:
    attention = None if kind is None else AttentionOf(kind, layer)
    return Request((Message("user", f"<image>\n{words}"),), (view,), 1 if kind else 8, attention=attention)


def requests(kind: AttentionKind = "weights", layer: int | None = None) -> list[Request]:
    """Prompts of different lengths, about images of different shapes."""
    return [
        asked(WIDE, "What is the number on the red card, and what is left of it?", kind, layer),
        asked(TALL, "Where?", kind, layer),
        asked(WIDE, "Which one?", kind, layer),
    ]


def engine_of(name: str, golden: Path, tmp_path: Path, attn: str = "sdpa", **rest: Any) -> LocalEngine:
    folder = golden / "tiny_llava" if name == "llava" else tmp_path / name
    if not folder.exists():
        make(name, folder)
    options = {"dtype": "fp32", **rest}
    return LocalEngine(load_model(folder, device="cpu", attn=attn, **options), batch_size=8)


def by_hand(engine: LocalEngine, request: Request) -> torch.Tensor:
    """The map's values in reading order, by transformers' eager attention of the one prompt."""
    asked = request.attention
    assert asked is not None
    prompt = engine._prompt(request, Sampling())
    assert isinstance(prompt, Decoding)
    layer = layer_of(engine.model, asked, engine.loaded.family.attention_depth)
    places = [n for n, token in enumerate(prompt.ids) if token == engine.processor.image_id]
    with torch.enable_grad():
        inputs = engine.inputs.batch([prompt.prompt])
        out = engine.model(**inputs, output_attentions=True, use_cache=False)
        # Layers without attention are left out of the list.
        kinds = getattr(engine.model.config.get_text_config(), "layer_types", None) or ()
        weights = out.attentions[layer - sum(kind == "linear_attention" for kind in kinds[:layer])]
        if asked.kind == "gradient":
            likeliest = out.logits[0, -1].float().log_softmax(-1).max()
            weights = weights * torch.autograd.grad(likeliest, weights)[0].relu()
    return weights[0, :, -1].mean(0)[places].detach().float()


def laid_out(engine: LocalEngine, request: Request, values: torch.Tensor) -> torch.Tensor:
    grid = engine.loaded.family.token_grid(engine.processor, request.images[0].image.size)
    assert grid is not None
    return torch.tensor(grid.map_of(values.tolist()).values)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_eager_attention(name: str, golden: Path, tmp_path: Path) -> None:
    engine, eager = (engine_of(name, golden, tmp_path, attn) for attn in ("sdpa", "eager"))
    for kind in ("weights", "gradient"):
        wanted = requests(kind)  # type: ignore[arg-type]
        for request, said in zip(wanted, engine.generate(wanted), strict=True):
            assert said.error is None and said.attention is not None and said.tokens == 1
            found = torch.tensor(said.attention.values)
            right = laid_out(eager, request, by_hand(eager, request))
            assert right.any(), "a test without any attention tells nothing"
            torch.testing.assert_close(found, right, rtol=2e-3, atol=1e-9)


def test_each_layer_can_be_asked_for_and_no_other(golden: Path, tmp_path: Path) -> None:
    engine = engine_of("llava", golden, tmp_path)
    count = engine.model.config.text_config.num_hidden_layers
    said = engine.generate([asked(WIDE, "Where?", "weights", layer) for layer in range(count)])
    assert len({one.attention for one in said}) == count
    assert engine.traits.attention_layers == tuple(range(count))
    with pytest.raises(UsageError, match=rf"layers \(0.*{count - 1}\), not {count}"):
        engine.generate([asked(WIDE, "Where?", "weights", count)])


def test_only_layers_that_see_all_tokens_are_read() -> None:
    class Model:
        def __init__(self, kinds: list[str]) -> None:
            self.config, self.num_hidden_layers, self.layer_types = self, len(kinds), kinds

        def get_decoder(self) -> Model:
            return self

        def get_text_config(self) -> Model:
            return self

    mixed = Model(
        ["linear_attention"] * 3 + ["full_attention"] + ["linear_attention"] * 3 + ["full_attention"]
    )
    assert layer_of(mixed, AttentionOf(), 14 / 32) == 3
    assert layer_of(Model(["full_attention"] * 32), AttentionOf(), 14 / 32) == 14
    assert layer_of(Model(["full_attention"] * 28), AttentionOf(), 22 / 28) == 22
    with pytest.raises(UsageError, match=r"\(3, 7\), not 2"):
        layer_of(mixed, AttentionOf(layer=2), 14 / 32)


def test_other_prompts_of_the_batch_say_what_they_say_without_it(golden: Path, tmp_path: Path) -> None:
    """Also those that share their image's prefix, before and after: no layer keeps the other attention."""
    engine = engine_of("llava", golden, tmp_path)
    assert engine.prefix is not None
    plain = [asked(WIDE, "What is left?", None), asked(WIDE, "What is right?", None)]
    before = engine.generate(plain)
    mixed = engine.generate([plain[0], *requests("gradient"), *requests(), plain[1]])
    assert [mixed[0], mixed[-1]] == before == engine.generate(plain)
    assert [one.attention is not None for one in mixed] == [False] + [True] * 6 + [False]
    assert torch.is_grad_enabled() and engine.model.config.text_config._attn_implementation == "sdpa"
    assert all(tensor.grad is None for tensor in engine.model.parameters())


def test_bf16_and_one_by_one_tell_nearly_the_same(golden: Path, tmp_path: Path) -> None:
    whole = engine_of("llava", golden, tmp_path).generate(requests())
    half = engine_of("llava", golden, tmp_path, dtype="bf16")
    half.batch_size = 1
    for kind in ("weights", "gradient"):
        for one, other in zip(whole, half.generate(requests(kind)), strict=True):  # type: ignore[arg-type]
            assert one.attention is not None and other.attention is not None
            if kind == "weights":
                far = torch.tensor(one.attention.values) - torch.tensor(other.attention.values)
                assert far.abs().max() < 0.05 * max(map(max, one.attention.values))


def test_its_one_token_is_the_likeliest_and_a_prompt_of_two_images_fails_alone(
    golden: Path, tmp_path: Path
) -> None:
    engine = engine_of("llava", golden, tmp_path)
    engine.sampling = Sampling(temperature=5.0, seed=3)
    two = Request((Message("user", "<image>\n<image>\nWhere?"),), (WIDE, TALL), 1, attention=AttentionOf())
    none = Request((Message("user", "Where?"),), (), 1, attention=AttentionOf())
    said = engine.generate([asked(WIDE, "Where?"), two, none, asked(WIDE, "Where?")])
    assert said[0] == said[3] and said[0].attention is not None
    assert all(one.attention is None and "where the model looks" in str(one.error) for one in said[1:3])
    assert isinstance(said[1], Generation) and not said[1].transient
