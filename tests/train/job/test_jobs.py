"""Two processes on gloo: the same losses as one, on every ZeRO stage, with batches of mixed kinds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_job import job, losses

from viscot_core.data.synth import write_dataset

QUICK = ["zero2", "zero3", "mixed-zero3"]
MORE, BASE = ["ddp", "mixed-ddp", "mixed-zero2"], ["base-zero2", "base-zero3"]
MODES = [*QUICK, *(pytest.param(mode, marks=pytest.mark.slow) for mode in [*MORE, *BASE])]
PLAIN = {"ddp": "ddp", "mixed": "mixed-ddp", "base": "base-ddp"}
pytestmark = pytest.mark.multiprocess


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, and rows of which every second one has no image."""
    root = tmp_path_factory.mktemp("synth")
    write_dataset(root, train=12, val=1, seed=9)
    rows = json.loads((root / "train.json").read_text())
    turns = [{"from": "human", "value": "What is two and two?"}, {"from": "gpt", "value": "It is 4."}]
    words = [{"id": f"text-{n}", "conversations": turns} for n in range(8)]
    mixed = [row for pair in zip(rows[:8], words, strict=True) for row in pair]
    (root / "mixed.json").write_text(json.dumps(mixed))
    return root


class Jobs:
    """Runs by number of processes and mode; each group of modes is run once, when it is first asked for."""

    def __init__(self, data: Path, out: Path) -> None:
        self._data, self._out = data, out

    def __call__(self, processes: int, mode: str) -> Path:
        groups = [QUICK, MORE, BASE] if processes == 2 else [["ddp", "mixed-ddp"], ["base-ddp"]]
        (modes,) = [group for group in groups if mode in group]
        out = self._out / str(processes)
        if not (out / mode).exists():
            job(processes, self._data, out, modes)
        return out / mode


@pytest.fixture(scope="module")
def jobs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    return Jobs(data, tmp_path_factory.mktemp("jobs"))


def stages_of(mode: str) -> list[str]:
    return ["finetune"] if mode.startswith("mixed") else ["pretrain", "finetune"]


@pytest.mark.parametrize("mode", MODES)
def test_two_processes_give_the_losses_of_one(
    mode: str, jobs: Jobs, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both stages; in a mixed batch one process has no image; from a base ZeRO-3 never holds it whole."""
    if mode.startswith("base"):
        monkeypatch.setenv("VISCOT_TEST_GOLDEN", str(request.getfixturevalue("shared") / "golden"))
    one = jobs(1, PLAIN.get(mode.split("-")[0], "ddp"))
    for stage in stages_of(mode):
        expected, found = losses(one, stage), losses(jobs(2, mode), stage)
        apart = max(abs(a - b) for a, b in zip(expected, found, strict=True))
        print(f"\n{mode} {stage}: {len(found)} losses of 2 processes and of 1, at most {apart:.1e} apart")
        assert apart <= 2e-4


@pytest.mark.parametrize("mode", ["zero2", "zero3", pytest.param("ddp", marks=pytest.mark.slow)])
def test_every_mode_leaves_a_usable_checkpoint(mode: str, jobs: Jobs) -> None:
    from safetensors.torch import load_file

    trained = load_file(jobs(2, mode) / "model.safetensors")
    plain = load_file(jobs(1, "ddp") / "model.safetensors")
    assert trained.keys() == plain.keys()
    for name, tensor in plain.items():
        assert (trained[name] - tensor).abs().max() < 2e-3, name


def test_the_deepspeed_configuration_is_kept(jobs: Jobs) -> None:
    config = json.loads((jobs(2, "zero3") / "stages/2-finetune/deepspeed.json").read_text())
    assert config["zero_optimization"]["stage"] == 3
    assert config["train_batch_size"] == 4
    assert isinstance(config["zero_optimization"]["reduce_bucket_size"], int)


def test_losses_fall(jobs: Jobs) -> None:
    found = losses(jobs(1, "ddp"), "finetune")
    assert found[-1] < found[0]
