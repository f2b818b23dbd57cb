"""vLLM beside the local engine on the same weights: encodes and prefix hits, CPU time pair by pair.

    python tests/performance/vllm_engine.py --python .vllm/bin/python [--images 24] [--pairs 6] [--dtype bf16]

The model has random weights (LLaVA at 336 px, 35 M parameters), so its texts mean nothing, and every one
must be equal in both. An encode is an image that vLLM's vision tower is given: its own process counts them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from PIL import Image

from viscot_core.conversation import Message
from viscot_core.engines.base import Engine, Generation, Request
from viscot_core.engines.open import EngineOptions, open_engine
from viscot_core.engines.vllm.engine import VllmEngine
from viscot_core.images.view import View, crop, view_of
from viscot_core.models.checkpoint import open_checkpoint
from viscot_core.models.exported import exported
from viscot_core.models.zoo import BUNDLED_FOLDER
from viscot_core.tensors import hash_files

EXPRESSIONS = 4
NEW = 12
# Python itself puts it into vLLM's process: what its runner gives to the tower is counted.
COUNTING = """
import os, sys

def _wrap(module):
    runner = module.GPUModelRunner
    batch = runner._batch_mm_inputs_from_scheduler
    def counted(self, scheduler_output):
        found = batch(self, scheduler_output)
        if sys._getframe(1).f_code.co_name == "_execute_mm_encoder":
            with open(os.environ["ENCODES"], "a") as file:
                file.write("x" * len(found[0]))
        return found
    runner._batch_mm_inputs_from_scheduler = counted

class _Find:
    def find_spec(self, name, path=None, target=None):
        if name != "vllm.v1.worker.gpu_model_runner":
            return None
        sys.meta_path.remove(self)
        from importlib.util import find_spec
        spec = find_spec(name)
        execute = spec.loader.exec_module
        def both(module):
            execute(module)
            _wrap(module)
        spec.loader.exec_module = both
        return spec

sys.meta_path.insert(0, _Find())
"""


def make(folder: Path) -> Path:
    """A LLaVA of random weights with the bundled model's words."""
    import torch
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    config = LlavaConfig.from_pretrained(BUNDLED_FOLDER)
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = 512, 1376, 8
    text.num_attention_heads = text.num_key_value_heads = 8
    text.head_dim, text.max_position_embeddings = 64, 2048
    vision.image_size, vision.patch_size, vision.hidden_size = 336, 14, 256
    vision.intermediate_size, vision.num_hidden_layers, vision.num_attention_heads = 1024, 6, 4
    config.image_seq_length = (336 // 14) ** 2
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "norm" not in name:
            torch.nn.init.normal_(weight, std=0.05)
    model.save_pretrained(folder / "raw")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BUNDLED_FOLDER / name, folder / "raw")
    checkpoint = open_checkpoint(folder / "raw")
    return exported(checkpoint, hash_files(checkpoint.files), folder)


def request(view: View, number: int, *more: View) -> Request:
    """A first turn, or with the crop as another image the second one."""
    asked = Message("user", f"<image>\nWhere is the {number}?")
    if not more:
        return Request((asked,), (view,), NEW)
    turns = (asked, Message("assistant", "[0.1, 0.2, 0.5, 0.6]"), Message("user", "<image>\nWhat is it?"))
    return Request(turns, (view, *more), NEW)


def views(count: int) -> list[View]:
    """Images of noise, each with another digest."""
    noise = [Image.frombytes("RGB", (400, 300), os.urandom(360_000)) for _ in range(count)]
    return [view_of(image) for image in noise]


def counted(engine: VllmEngine, log: Path, requests: Sequence[Request], together: int) -> str:
    """Encodes and hits of requests that ``together`` threads ask, from empty caches."""
    engine.reset()
    before, encodes = engine.counters(), log.stat().st_size if log.exists() else 0
    with ThreadPoolExecutor(together) as threads:
        list(threads.map(lambda one: engine.generate([one]), requests))
    after = engine.counters()
    hits, asked = (
        int(after[name] - before[name]) for name in ("vllm:prefix_cache_hits", "vllm:prefix_cache_queries")
    )
    return f"{log.stat().st_size - encodes} encodes, {hits} of {asked} tokens hit"


def cpu(process: psutil.Process) -> float:
    """CPU seconds of a process and all it has started."""
    total = sum(process.cpu_times()[:2])
    return total + sum(sum(child.cpu_times()[:2]) for child in process.children(recursive=True))


def timed(engine: Engine, requests: Sequence[Request]) -> tuple[float, list[Generation]]:
    """CPU seconds of this process and vLLM's, and what was said."""
    here = psutil.Process()
    start = cpu(here)
    said = engine.generate(requests)
    time.sleep(0.1)  # what vLLM still counts after its last token
    return cpu(here) - start, said


def pairs(local: Engine, vllm: Engine, count: int) -> None:
    """Both engines in turn on the same requests; every pair has images of its own."""
    for name in ("turn 1", "turn 2", "16 expressions"):
        sums, equal, total = [0.0, 0.0], 0, 0
        for number in range(count + 1):
            shown = views(1 if name == "16 expressions" else 8)
            first = [
                request(view, n) for view in shown for n in range(16 // len(shown) if len(shown) == 1 else 1)
            ]
            second = [request(view, 0, crop(view, (10, 10, 234, 234))) for view in shown]
            order = (local, vllm) if number % 2 else (vllm, local)
            found = {}
            for engine in order:
                if name == "turn 2":
                    engine.generate(first)  # both know the image by then
                found[engine.name, engine is vllm] = timed(engine, second if name == "turn 2" else first)
            (ours, said), (theirs, other) = found[local.name, False], found[vllm.name, True]
            if number:  # the first one warms up
                sums[0] += ours
                sums[1] += theirs
                equal += sum(a.text == b.text for a, b in zip(said, other, strict=True))
                total += len(said)
        told = f"local {sums[0]:.2f} s, vLLM {sums[1]:.2f} s, ratio {sums[0] / sums[1]:.2f}"
        print(f"{name}: {told}; {equal} of {total} texts equal", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", required=True)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--dtype", default="fp32")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="viscot-vllm-") as name:
        folder = Path(name)
        (folder / "sitecustomize.py").write_text(COUNTING)
        model = make(folder)
        local = open_engine(EngineOptions(str(model), device="cpu", dtype=options.dtype, batch_size=8))
        os.environ |= {"PYTHONPATH": name, "ENCODES": str(folder / "encodes"), "VLLM_CPU_KVCACHE_SPACE": "2"}
        checkpoint = open_checkpoint(model)
        weights = hash_files(checkpoint.files)
        dtype = {"fp32": "float32", "bf16": "bfloat16"}[options.dtype]
        vllm = VllmEngine(
            checkpoint, model, weights, python=options.python, dtype=dtype, together=32, counts=True
        )
        asked = [request(view, n) for view in views(options.images) for n in range(EXPRESSIONS)]
        print(f"{len(asked)} expressions on {options.images} images")
        for together in (1, 8, 32):
            print(f"  {together} at a time: {counted(vllm, folder / 'encodes', asked, together)}", flush=True)
        pairs(local, vllm, options.pairs)
        vllm.close()


if __name__ == "__main__":
    main()
