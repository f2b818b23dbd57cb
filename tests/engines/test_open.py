"""What is known of an engine before it is opened, and of one that is only on record."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from viscot_core.conversation import Message
from viscot_core.engines.base import Traits
from viscot_core.engines.open import EngineOptions, open_engine, recorded_prompt, weights_hash
from viscot_core.engines.openai import OpenAIEngine
from viscot_core.engines.transformers.engine import LocalEngine
from viscot_core.errors import UsageError
from viscot_core.models.load import load_model
from viscot_core.openai_api.options import ApiOptions

SERVER = "http://127.0.0.1:9/v1#m"


def test_a_servers_traits_are_known_before_it_is_reached() -> None:
    assert EngineOptions(SERVER).traits == Traits(
        parallel=ApiOptions().concurrency, logprobs=True, samples=True, paid=True
    )
    api = ApiOptions(concurrency=3)
    engine = OpenAIEngine("http://127.0.0.1:9/v1", "m", options=api)
    assert EngineOptions(SERVER, api=api).traits == engine.traits
    engine.close()
    assert weights_hash(EngineOptions(SERVER)) is None


def test_a_local_models_traits_are_known_before_it_is_loaded() -> None:
    options = EngineOptions(device="cpu", dtype="fp32", batch_size=3)
    engine = LocalEngine(load_model(None, device="cpu", dtype="fp32"), batch_size=3)
    # The number of layers is read with the model.
    assert engine.traits.attention_layers == (0, 1, 2, 3)
    assert options.traits == replace(engine.traits, attention_layers=())
    assert weights_hash(options) == engine.identity["weights"]
    messages = (Message("user", "<image>\nWhat?"),)
    assert recorded_prompt(engine.identity)(messages) == engine.prompt(messages)


def test_a_prompt_of_a_template_that_is_not_on_record_is_shown_as_messages() -> None:
    messages = (Message("user", "What?"), Message("assistant", "a box"))
    assert recorded_prompt({"template": "own-0123"})(messages) == "user: What?\nassistant: a box"
    assert "USER: What? ASSISTANT: a box" in recorded_prompt({})(messages)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"python": "/opt/vllm/bin/python"}, "--python is for --engine vllm; give both"),
        ({"python": "p", "tensor_parallel": 2}, "--tensor-parallel and --python are for --engine vllm"),
        ({"model": SERVER, "python": "p"}, "A server runs its model itself; leave out --python"),
        ({"model": SERVER, "base": "b", "load_in": "4bit"}, "leave out --base and --load-in"),
        ({"model": SERVER, "attn": "flash"}, "leave out --attn"),
        ({"model": SERVER, "device": "cuda:1", "dtype": "bf16"}, "leave out --device and --dtype"),
        ({"model": SERVER, "max_pixels": 4096}, "A server resizes images itself"),
    ],
)
def test_an_option_for_another_kind_of_engine_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        open_engine(EngineOptions(**given))
