"""Loading: devices, dtypes, 4 and 8 bit, and what a loaded model leaves untouched."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from made_checkpoints import save, tensors_of

from viscot_core.errors import CheckpointError, EngineError, UsageError
from viscot_core.models.checkpoint import open_checkpoint
from viscot_core.models.load import _Once, choose_dtype, load_model
from viscot_core.tensors import hash_files


@pytest.mark.parametrize(
    "choice",
    [
        {"attn": "fast"},
        {"attn": "flash"},
        {"load_in": "2bit"},
        {"dtype": "int8"},
        {"device": "cpuu"},
        {"device": "meta"},
    ],
)
def test_impossible_choices(golden: Path, choice: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        load_model(golden / "tiny_llava", **{"device": "cpu"} | choice)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there(golden: Path) -> None:
    with pytest.raises(EngineError, match="--device cpu"):
        load_model(golden / "tiny_llava", device="cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_of_a_number_that_is_not_there(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(EngineError, match="no 'cuda:7' that torch can use; it has 2, counted from 0"):
        load_model(golden / "tiny_llava", device="cuda:7")


def test_a_model_too_large_for_fp32_is_bf16_on_the_cpu(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is stored as: products in fp16 take several times as long on a CPU."""
    checkpoint = open_checkpoint(golden / "tiny_llava_bin")
    assert choose_dtype("auto", "cpu", checkpoint) is torch.float32
    monkeypatch.setattr("viscot_core.models.load.free_memory", lambda: 1 << 20)
    assert choose_dtype("auto", "cpu", checkpoint) is torch.bfloat16
    assert choose_dtype("fp16", "cpu", checkpoint) is torch.float16


def test_what_an_option_needs(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("viscot_core.models.load.find_spec", lambda _: None)
    with pytest.raises(EngineError, match=r"--load-in 4bit needs bitsandbytes.*viscot\[quant\]"):
        load_model(golden / "tiny_llava", device="cpu", load_in="4bit")


def test_out_of_memory_on_the_cpu(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlavaForConditionalGeneration

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    monkeypatch.setattr(LlavaForConditionalGeneration, "from_pretrained", full)
    with pytest.raises(EngineError, match="does not fit in this machine's memory; try --dtype bf16"):
        load_model(golden / "tiny_llava", device="cpu")


def test_weights_hash_tells_content(copy: Path, golden: Path) -> None:
    before = hash_files([copy / "model.safetensors"])
    assert before == hash_files([golden / "tiny_llava" / "model.safetensors"])
    tensors = tensors_of(copy)
    tensors["model.norm.weight"][0] += 1
    save(copy, tensors)
    assert hash_files([copy / "model.safetensors"]) != before


def test_writing_to_a_loaded_model_stays_in_it(copy: Path) -> None:
    before = (copy / "model.safetensors").read_bytes()
    model = load_model(copy, device="cpu", dtype="fp32").model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert (copy / "model.safetensors").read_bytes() == before
    again = load_model(copy, device="cpu", dtype="fp32").model
    name = "model.language_model.norm.weight"
    assert torch.equal(again.state_dict()[name] + 1.0, model.state_dict()[name])


@pytest.mark.slow
@pytest.mark.parametrize("load_in", ["8bit", "4bit"])
def test_quantised_on_the_cpu(golden: Path, load_in: str) -> None:
    """bitsandbytes quantises the language model; tower, projector and head stay as they are, and so does a
    matrix whose rows of 160 numbers are no whole blocks of 64.
    """
    bitsandbytes = pytest.importorskip("bitsandbytes")
    from viscot_core import load

    chain = load(golden / "tiny_llava", device="cpu", load_in=load_in)
    model = chain.engine.model  # type: ignore[attr-defined]
    kinds = {"8bit": bitsandbytes.nn.Linear8bitLt, "4bit": bitsandbytes.nn.Linear4bit}
    layer = model.model.language_model.layers[0]
    assert isinstance(layer.mlp.up_proj, kinds[load_in])
    assert isinstance(layer.mlp.down_proj, kinds[load_in]) is (load_in == "8bit")
    assert type(model.model.multi_modal_projector.linear_1) is torch.nn.Linear
    assert type(model.lm_head) is torch.nn.Linear
    assert chain.engine.identity["load_in"] == load_in
    assert chain.ask(golden / "images" / "landscape.jpg", "How many?").box_text


def test_loads_from_several_threads_are_whole(golden: Path) -> None:
    """transformers' initialisation context belongs to the process: one model is built at a time."""
    from concurrent.futures import ThreadPoolExecutor

    def load(_: int) -> dict[str, Any]:
        return dict(load_model(golden / "tiny_llava", device="cpu", dtype="fp32").model.state_dict())

    alone = load(0)
    with ThreadPoolExecutor(3) as pool:
        for state in pool.map(load, range(6)):
            assert state.keys() == alone.keys()
            assert all((state[name] == alone[name]).all() for name in alone)


@pytest.mark.slow
@pytest.mark.multiprocess
def test_the_first_loads_of_a_process_may_come_from_several_threads(golden: Path) -> None:
    """Each began to import transformers: in all but one it was a package without the wanted names."""
    code = """
import sys
from concurrent.futures import ThreadPoolExecutor
from viscot_core import load
with ThreadPoolExecutor(3) as pool:
    models = list(pool.map(lambda _: load(sys.argv[1], device="cpu", dtype="fp32"), range(3)))
print(len({model.ask(sys.argv[2], "What is it?").text for model in models}))
"""
    command = [sys.executable, "-c", code, str(golden / "tiny_llava"), str(golden / "images/landscape.jpg")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert ran.stdout.strip() == "1", ran.stderr


@pytest.mark.parametrize(
    ("value", "dtype", "said"),
    [
        (float("nan"), "fp32", r"'model\.language_model\.norm\.weight' holds NaN"),
        (7e4, "fp16", r"'model\.language_model\.norm\.weight' holds infinity: .* use another --dtype"),
    ],
)
def test_weights_that_are_no_numbers_are_named(copy: Path, value: float, dtype: str, said: str) -> None:
    """The model answered nonsense, without a word."""
    tensors = tensors_of(copy)
    tensors["model.norm.weight"][3] = value
    save(copy, tensors)
    with pytest.raises(CheckpointError, match=said):
        load_model(copy, device="cpu", dtype=dtype)


def test_a_library_s_message_is_said_once() -> None:
    """bitsandbytes logs for each layer and token: 600 times in one question."""
    once, message = _Once(), "MatMul8bitLt: inputs will be cast from %s to float16 during quantization"
    records = [logging.makeLogRecord({"msg": message, "args": ("fp32",)}) for _ in range(600)]
    assert [once.filter(record) for record in records] == [True] + [False] * 599
    assert once.filter(logging.makeLogRecord({"msg": "something else"}))
