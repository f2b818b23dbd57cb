"""kill -9, then the same command again: the losses of the uninterrupted run, with and without ZeRO."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_families import make
from made_family_job import command as family_command
from made_job import recipe_of
from made_rows import family_recipe, write_rows
from made_rows import losses as family_losses

from viscot_core.data.synth import write_dataset
from viscot_core.train import worker
from viscot_core.train.state.checkpoints import last_checkpoint

JOB = Path(__file__).parents[2] / "support" / "made_job.py"
STEPS = 10
pytestmark = pytest.mark.multiprocess
slow = pytest.mark.slow


def losses(run: Path) -> dict[int, float]:
    """The last logged loss of every step of the fine-tuning stage."""
    lines = map(json.loads, (run / "stages/2-finetune/log.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def begin(processes: int, data: Path, out: Path, mode: str) -> subprocess.Popen[bytes]:
    """Start ``made_job.py`` in its own session, so that all its processes can be killed at once."""
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone"]
    argv = [
        sys.executable,
        *(launcher if processes > 1 or mode != "ddp" else []),
        str(JOB),
        str(data),
        str(out),
        mode,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["VISCOT_TEST_STEPS"] = str(STEPS)
    with (out.parent / f"{out.name}.log").open("ab") as log:
        return subprocess.Popen(argv, env=environment, stdout=log, stderr=log, start_new_session=True)


def killed(processes: int, data: Path, out: Path, mode: str) -> int:
    """Run until the second checkpoint of the last stage is whole, then kill -9 every process; its step."""
    child = begin(processes, data, out, mode)
    checkpoint = out / mode / "stages/2-finetune/checkpoint-4/complete.json"
    while not checkpoint.exists():
        assert child.poll() is None, (out.parent / f"{out.name}.log").read_text()[-3000:]
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)  # torchrun alone: no rank may outlive it
    child.wait()
    time.sleep(1.0)
    assert not (out / mode / "viscot.json").exists(), "the run was over before it was killed"
    last = last_checkpoint(out / mode / "stages/2-finetune")
    assert last is not None
    return int(last.name.split("-")[1])


def finished(processes: int, data: Path, out: Path, mode: str) -> Path:
    """Run to the end."""
    code = begin(processes, data, out, mode).wait()
    assert code == 0, (out.parent / f"{out.name}.log").read_text()[-3000:]
    return out / mode


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synth")
    write_dataset(root, train=12, val=1, seed=9)
    return root


@pytest.fixture
def uninterrupted(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    monkeypatch.setattr("made_job.STEPS", STEPS)
    return losses(worker.run(tmp_path / "whole", recipe_of("ddp", data)))


@pytest.mark.parametrize(
    ("processes", "again", "mode"),
    [(1, 1, "ddp"), pytest.param(2, 2, "zero3", marks=slow), pytest.param(2, 1, "ddp", marks=slow)],
)
def test_losses_after_kill_9(
    processes: int, again: int, mode: str, data: Path, uninterrupted: dict[int, float], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    killed(processes, data, out, mode)
    found = losses(finished(again, data, out, mode))
    assert sorted(found) == list(range(1, STEPS + 1))
    apart = max(abs(found[step] - uninterrupted[step]) for step in found)
    print(f"\n{mode}, {processes} then {again} processes, killed: at most {apart:.1e} from the unbroken run")
    assert apart <= 3e-4


@slow
def test_weights_that_were_never_whole_go_on(
    data: Path, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base model under ZeRO-3: the second stage's processes divide base and trained projector anew."""
    monkeypatch.setenv("VISCOT_TEST_GOLDEN", str(shared / "golden"))
    expected = losses(finished(2, data, tmp_path / "whole", "base-zero3"))
    killed(2, data, tmp_path / "run", "base-zero3")
    assert losses(finished(2, data, tmp_path / "run", "base-zero3")) == pytest.approx(expected, abs=3e-4)


@slow
@pytest.mark.parametrize(
    ("before", "after"),
    [((2, "zero2"), (1, "zero2")), ((1, "zero2"), (1, "ddp")), ((1, "ddp"), (1, "zero2"))],
)
def test_an_optimizer_divided_in_another_way(
    before: tuple[int, str],
    after: tuple[int, str],
    data: Path,
    uninterrupted: dict[int, float],
    tmp_path: Path,
) -> None:
    """Weights and place in the data are kept; the optimizer's averages are not, and a line says so."""
    out = tmp_path / "run"
    last = killed(before[0], data, out, before[1])
    (out / before[1]).rename(out / after[1])
    found = losses(finished(after[0], data, out, after[1]))
    assert sorted(found) == list(range(1, STEPS + 1))
    assert "the optimizer's averages start again from 0" in (tmp_path / "run.log").read_text()
    # The first step after the change still sees the old weights: its loss is the uninterrupted run's.
    assert found[last + 1] == pytest.approx(uninterrupted[last + 1], abs=3e-4)


@slow
def test_a_packed_chat_model_goes_on_after_kill_9(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, ZeRO-2, rows in one, layers recomputed: the losses of one process with padded rows."""
    pytest.importorskip("torchvision", reason="most processors have a video part; make test installs it")
    model, rows, out = make("qwen2.5-vl", tmp_path / "model"), write_rows(tmp_path / "data"), tmp_path / "run"
    expected = family_losses(
        worker.run(tmp_path / "whole", family_recipe(model, rows, max_steps=STEPS, packing=False))
    )
    monkeypatch.setenv("VISCOT_TEST_STEPS", str(STEPS))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    argv, log = family_command(2, model, rows, out, ["packed-zero2"]), tmp_path / "run.log"
    with log.open("ab") as written:
        child = subprocess.Popen(argv, stdout=written, stderr=written, start_new_session=True)
        while not list(out.glob("*/stages/*/checkpoint-4/complete.json")):
            assert child.poll() is None, log.read_text()[-3000:]
            time.sleep(0.02)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        time.sleep(1.0)
        assert not (out / "packed-zero2/viscot.json").exists(), "the run was over before it was killed"
        assert subprocess.run(argv, stdout=written, stderr=written, check=False).returncode == 0
    assert family_losses(out / "packed-zero2") == pytest.approx(expected, abs=3e-4)
    (lines,) = (out / "packed-zero2/stages").glob("*/log.jsonl")
    assert [json.loads(line)["step"] for line in lines.read_text().splitlines()].count(1) == 1, "began anew"
