"""Two processes on gloo: the same losses as one, on every ZeRO stage, with batches of mixed kinds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from viscot_core.data.synth import write_dataset

JOB = Path(__file__).parent.parent / "made_job.py"
MODES = ["ddp", "zero2", "zero3", "mixed-ddp", "mixed-zero2", "mixed-zero3"]
pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]


def losses(run: Path, stage: str) -> list[float]:
    """The losses of one stage's steps, from its log."""
    (log,) = (run / "stages").glob(f"*-{stage}/log.jsonl")
    lines = map(json.loads, log.read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def job(processes: int, data: Path, out: Path, modes: list[str]) -> None:
    """Run ``made_job.py``: by itself for one process, under torchrun for more."""
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone"]
    argv = [
        sys.executable,
        *(launcher if processes > 1 else []),
        str(JOB),
        str(data),
        str(out),
        *modes,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(JOB.parent.parent)}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, and rows of which every second one has no picture."""
    root = tmp_path_factory.mktemp("synth")
    write_dataset(root, train=12, val=1, seed=9)
    rows = json.loads((root / "train.json").read_text())
    turns = [{"from": "human", "value": "What is two and two?"}, {"from": "gpt", "value": "It is 4."}]
    words = [{"id": f"text-{n}", "conversations": turns} for n in range(8)]
    mixed = [row for pair in zip(rows[:8], words, strict=True) for row in pair]
    (root / "mixed.json").write_text(json.dumps(mixed))
    return root


@pytest.fixture(scope="module")
def one(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process gives."""
    out = tmp_path_factory.mktemp("one")
    job(1, data, out, ["ddp", "mixed-ddp"])
    return out


@pytest.fixture(scope="module")
def two(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes give."""
    out = tmp_path_factory.mktemp("two")
    job(2, data, out, MODES)
    return out


@pytest.mark.parametrize("mode", ["ddp", "zero2", "zero3"])
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_two_processes_give_the_losses_of_one(mode: str, stage: str, one: Path, two: Path) -> None:
    assert losses(two / mode, stage) == pytest.approx(losses(one / "ddp", stage), abs=2e-4)


@pytest.mark.parametrize("mode", ["mixed-ddp", "mixed-zero2", "mixed-zero3"])
def test_a_rank_without_pictures_takes_part(mode: str, one: Path, two: Path) -> None:
    assert losses(two / mode, "finetune") == pytest.approx(losses(one / "mixed-ddp", "finetune"), abs=2e-4)


@pytest.mark.parametrize("mode", ["ddp", "zero2", "zero3"])
def test_every_mode_leaves_a_usable_checkpoint(mode: str, two: Path) -> None:
    from safetensors.torch import load_file

    trained = load_file(two / mode / "model.safetensors")
    plain = load_file(two / "ddp" / "model.safetensors")
    assert trained.keys() == plain.keys()
    for name, tensor in plain.items():
        assert (trained[name] - tensor).abs().max() < 2e-3, name


def test_the_deepspeed_configuration_is_kept(two: Path) -> None:
    config = json.loads((two / "zero3/stages/2-finetune/deepspeed.json").read_text())
    assert config["zero_optimization"]["stage"] == 3
    assert config["train_batch_size"] == 4
    assert isinstance(config["zero_optimization"]["reduce_bucket_size"], int)


def test_losses_fall(one: Path) -> None:
    found = losses(one / "ddp", "finetune")
    assert found[-1] < found[0]
