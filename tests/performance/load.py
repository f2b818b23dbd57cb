"""Memory of loading and converting a 7B-shaped checkpoint in the original layout, with random weights.

    python tests/performance/load.py --work /tmp/seven [--layers 32] [--keep]

Writes about 13.5 GB (bf16, two shards, a tensor at a time), then loads and converts it in processes
of their own and prints their peak memory as a markdown table. Limits: load at most 1.15 x the model's bf16
size, convert at most 1.3 x the largest shard + 1 GiB. Needs 40 GB of disk; the folder is removed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

GIB = 1 << 30
TOKENIZER = Path(__file__).resolve().parent.parent / "golden" / "tiny_llava"

CONFIG = {
    "architectures": ["LlavaLlamaForCausalLM"],
    "model_type": "llava",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "num_hidden_layers": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-05,
    "vocab_size": 32000,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
    "mm_hidden_size": 1024,
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "transformers_version": "4.31.0",
}
VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}


def make(folder: Path, layers: int, pickled: bool) -> None:
    """The checkpoint: shapes from a model on the meta device, values from one random block, file by file."""
    import torch

    from viscot_core.families.llava.layouts import Layout, config_from_llava, stored_name
    from viscot_core.models.checkpoint import EMBEDDINGS, HEAD, expected_shapes
    from viscot_core.tensor_writer import Planned, write_file
    from viscot_core.tensors import open_file

    folder.mkdir(parents=True)
    original = CONFIG | {"num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(original, indent=2))
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, folder)
    # The tiny tokenizer has 800 pieces: <image> takes a free row and no row is added.
    shapes = expected_shapes(config_from_llava(original, VISION, image_id=800))
    assert shapes[EMBEDDINGS] == shapes[HEAD] == (32000, 4096)
    # Every tensor is the beginning of one random block: values do not matter to memory, writing time does.
    block = torch.randn(1 << 20).mul_(0.02).to(torch.bfloat16).repeat(125)
    assert len(block) >= max(torch.Size(shape).numel() for shape in shapes.values())

    def random(shape: tuple[int, ...]) -> torch.Tensor:
        return block[: torch.Size(shape).numel()].view(shape)

    plan = [
        Planned(stored_name(name, Layout.LLAVA), shape, "bfloat16", lambda shape=shape: random(shape))
        for name, shape in shapes.items()
    ]
    first, room = [], 9_900_000_000
    for tensor in plan:
        room -= tensor.nbytes
        if room > 0:
            first.append(tensor)
    placed = {}
    ending = "bin" if pickled else "safetensors"
    stem = "pytorch_model" if pickled else "model"
    for number, part in enumerate((first, plan[len(first) :]), 1):
        shard = folder / f"{stem}-{number:05d}-of-00002.{ending}"
        if pickled:  # by way of a mapped file, so that no shard is ever in memory
            bridge = folder / "bridge.safetensors"
            write_file(bridge, part)
            torch.save({name: stored.read() for name, stored in open_file(bridge).items()}, shard)
            bridge.unlink()
        else:
            write_file(shard, part)
        placed |= {tensor.name: shard.name for tensor in part}
    (folder / f"{stem}.{ending}.index.json").write_text(json.dumps({"weight_map": placed}))


def load(folder: Path) -> None:
    """Load in bf16 and touch every page of every weight."""
    from viscot_core.models.load import load_model

    model = load_model(folder, device="cpu", dtype="bf16").model
    for tensor in model.state_dict().values():
        tensor.view(-1)[::1024].float().sum()


def convert(folder: Path) -> None:
    """Convert to transformers' layout."""
    from viscot_core.families.llava.layouts import Layout
    from viscot_core.models.checkpoint import open_checkpoint
    from viscot_core.models.export import export

    export(open_checkpoint(folder), folder.parent / "converted", Layout.HF)


def measured(what: str, folder: Path) -> tuple[float, float, float]:
    """Seconds, peak resident GiB (mapped file pages included) and peak anonymous GiB of one process."""
    start, anonymous = time.monotonic(), 0
    with subprocess.Popen([sys.executable, __file__, "--work", str(folder), "--only", what]) as child:
        status = Path(f"/proc/{child.pid}/status")
        peak = 0
        while child.poll() is None:
            try:
                fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
                peak = max(peak, int(fields["VmHWM"].split()[0]) * 1024)
                anonymous = max(anonymous, int(fields["RssAnon"].split()[0]) * 1024)
            except (OSError, KeyError, ValueError):
                pass  # it ended between poll and read
            time.sleep(0.05)
    if child.returncode:
        raise SystemExit(f"{what} failed with exit code {child.returncode}")
    return time.monotonic() - start, peak / GIB, anonymous / GIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument(
        "--pickled", action="store_true", help="pytorch_model-*.bin; takes much longer to make"
    )
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--only", choices=("load", "convert"))
    given = parser.parse_args()
    folder = given.work / "checkpoint"
    if given.only:
        (load if given.only == "load" else convert)(folder)
        return
    try:
        make(folder, given.layers, given.pickled)
        shards = [path.stat().st_size for path in folder.glob("*-of-00002.*")]
        size, largest = sum(shards) / GIB, max(shards) / GIB
        print(f"model {size:.2f} GiB in bf16, largest shard {largest:.2f} GiB\n")
        print("| step | seconds | peak resident GiB | of it anonymous | limit GiB |\n|---|---|---|---|---|")
        for what, limit in (("load", 1.15 * size), ("convert", 1.3 * largest + 1)):
            seconds, peak, anonymous = measured(what, given.work)
            verdict = "" if peak <= limit else " EXCEEDED"
            print(
                f"| {what} | {seconds:.0f} | {peak:.2f} | {anonymous:.2f} | {limit:.2f}{verdict} |",
                flush=True,
            )
    finally:
        if not given.keep:
            shutil.rmtree(given.work, ignore_errors=True)


if __name__ == "__main__":
    main()
