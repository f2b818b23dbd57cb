"""Reading stops where nobody reads on, and products of many rows are oneDNN's only while asked for."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import DynamicCache, LlamaConfig, LlamaModel

from viscot_core.engines.transformers.prefill import MANY_ROWS, fast_products, keys_and_values


@pytest.fixture(scope="module")
def text() -> LlamaModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaModel(config).eval()


@torch.inference_mode()
def test_keys_are_a_whole_pass_s_and_the_last_layer_does_not_go_on(text: LlamaModel) -> None:
    rows = torch.randn(2, 9, 32)
    whole = DynamicCache(config=text.config)
    text(inputs_embeds=rows, past_key_values=whole, use_cache=True)
    called = []
    hooks = [
        layer.mlp.register_forward_hook(lambda *_, number=number: called.append(number))
        for number, layer in enumerate(text.layers)
    ]
    kept = keys_and_values(text, {"inputs_embeds": rows})
    for hook in hooks:
        hook.remove()
    assert called == [0, 1]
    for row, found in enumerate(kept):
        assert found.shape == (3, 2, 2, 9, 8)
        for layer, own in enumerate(whole.layers):
            assert torch.equal(found[layer, 0], own.keys[row])
            assert torch.equal(found[layer, 1], own.values[row])


def test_a_layer_without_keys_is_no_layer_to_share(text: LlamaModel) -> None:
    """(As in models with linear attention.)"""
    attention = text.layers[1].self_attn
    whole = attention.forward
    attention.forward = lambda *_, **named: whole(*_, **{**named, "past_key_values": None})
    try:
        with torch.inference_mode(), pytest.raises(ValueError, match="2 of the 3 layers"):
            keys_and_values(text, {"inputs_embeds": torch.randn(1, 4, 32)})
    finally:
        del attention.forward


@pytest.mark.parametrize("bias", [False, True])
@torch.inference_mode()
def test_products_of_many_rows_are_equal(bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(48, 40, bias=bias)
    for shape in ((2, MANY_ROWS // 2, 48), (MANY_ROWS + 7, 48), (3, 48)):
        rows = torch.randn(shape)
        plain = layer(rows)
        with fast_products(nn.Sequential(layer)):
            fast = layer(rows)
        assert fast.shape == plain.shape
        assert torch.allclose(fast, plain, atol=1e-5)


@torch.inference_mode()
def test_numbers_of_rows_that_differ_little_share_onednn_s_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps what it made for each number of rows: a process that reads long would grow."""
    made, plain = [], torch.ops.mkldnn._linear_pointwise

    def noted(rows: torch.Tensor, *rest: object) -> torch.Tensor:
        made.append(rows.shape)
        return plain(rows, *rest)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", noted)
    layer = nn.Linear(8, 8)
    with fast_products(nn.Sequential(layer)):
        for count in range(MANY_ROWS, MANY_ROWS + 100):
            layer(torch.ones(count, 8))
    assert len(made) == 100
    assert len(set(made)) == 1


def test_torch_s_own_products_stay_where_they_are_not_mkl_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    layer = nn.Linear(8, 8)
    with fast_products(nn.Sequential(layer)):
        assert "forward" not in vars(layer)


@torch.inference_mode()
def test_autocast_goes_on_choosing_the_type() -> None:
    layer = nn.Linear(8, 8)
    with torch.autocast("cpu", torch.bfloat16), fast_products(nn.Sequential(layer)):
        assert layer(torch.ones(MANY_ROWS, 8)).dtype == torch.bfloat16


def test_a_model_is_as_before_afterwards() -> None:
    """Also where a pass failed; changed weights are seen; 16 bits are torch's own."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4).bfloat16())
    rows = torch.ones(MANY_ROWS, 4)
    with pytest.raises(ValueError), torch.inference_mode(), fast_products(model):
        before = model[0](rows)
        model[0].weight.data.mul_(2)
        model[0].bias.data.mul_(2)
        assert torch.allclose(model[0](rows), 2 * before, atol=1e-5)
        assert "forward" in vars(model[0]) and "forward" not in vars(model[1])
        raise ValueError
    assert not any("forward" in vars(layer) for layer in model)
