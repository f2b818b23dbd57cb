"""SIGTERM: the run saves and leaves with exit code 3, and goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from made_job import SHAPE

from viscot_core.data.synth import write_dataset
from viscot_core.train.job import stopping
from viscot_core.train.recipe.load import dump_recipe, load_recipe


def test_the_signal_is_a_flag_and_the_old_handler_comes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stopping.listening():
        assert not stopping.told()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.told()
    assert signal.getsignal(signal.SIGTERM) is before
    with stopping.listening():
        assert not stopping.told(), "an earlier signal does not stop the next run"


def test_a_forked_child_still_ends() -> None:
    with stopping.listening():
        ready, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(write, b"1")
            time.sleep(30)
            os._exit(0)
        os.read(ready, 1)
        os.kill(child, signal.SIGTERM)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM
        assert not stopping.told()


def test_other_threads_leave_signals_alone() -> None:
    found = []

    def body() -> None:
        with stopping.listening():
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert found == [before]


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_signal_to_the_loaders_workers_too(tmp_path: Path) -> None:
    """SLURM and ``timeout`` signal all processes: a worker that died took the run with it, unsaved."""
    data, run = tmp_path / "data", tmp_path / "run"
    write_dataset(data, train=12, val=1, seed=9)
    fields = {"max_steps": 4000, "global_batch_size": 4, "log_steps": 1, "workers": 2, "compile": "false"}
    fields |= {"precision": "fp32", "save_steps": 100_000}
    sets = [f"stages.pretrain.{name}={value}" for name, value in fields.items()]
    recipe = tmp_path / "small.yaml"
    recipe.write_text(dump_recipe(load_recipe("tiny", [*sets, "report_to=[]", *SHAPE])))
    argv = [sys.executable, "-m", "viscot_cli.app", "pretrain", "--recipe", str(recipe), "--data", str(data)]
    argv += ["--out", str(run), "--gpus", "0"]
    log, stage = tmp_path / "run.log", run / "stages/1-pretrain"
    with log.open("wb") as out:
        child = subprocess.Popen(argv, stdout=out, stderr=out, start_new_session=True)
        while not (stage / "log.jsonl").exists():
            assert child.poll() is None, log.read_text()[-3000:]
            time.sleep(0.02)
        os.killpg(child.pid, signal.SIGTERM)
        assert child.wait(timeout=120) == 3, log.read_text()[-3000:]
    (checkpoint,) = stage.glob("checkpoint-*")
    assert (checkpoint / "complete.json").exists()
    with pytest.raises(ProcessLookupError):
        os.killpg(child.pid, 0)
    # Code in the place of the optimizer's averages: it is not run, and one sentence says so.
    (checkpoint / "optimizer.pt").write_bytes(pickle.dumps(os.system))
    ran = subprocess.run([*argv, "--resume"], capture_output=True, text=True, check=False)
    assert ran.returncode == 1 and "is damaged, or holds more than numbers; delete it" in ran.stderr


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("zero", [0, 2])
def test_two_processes_save_and_go_on(zero: int, tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    write_dataset(data, train=12, val=1, seed=9)
    fields = {"max_steps": 60, "global_batch_size": 4, "log_steps": 1, "workers": 0, "compile": "false"}
    fields |= {"precision": "fp32", "save_steps": 1000, "zero_stage": zero}
    sets = [f"stages.pretrain.{name}={value}" for name, value in fields.items()]
    recipe = tmp_path / "small.yaml"
    recipe.write_text(dump_recipe(load_recipe("tiny", [*sets, "report_to=[]", *SHAPE])))
    argv = [sys.executable, "-m", "viscot_cli.app", "pretrain", "--recipe", str(recipe), "--data", str(data)]
    argv += ["--out", str(run), "--gpus", "0", "--processes", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log, stage = tmp_path / "run.log", run / "stages/1-pretrain"
    with log.open("wb") as out:
        child = subprocess.Popen(argv, env=environment, stdout=out, stderr=out)
        while not (stage / "log.jsonl").exists():
            assert child.poll() is None, log.read_text()[-3000:]
            time.sleep(0.02)
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=120) == 3, log.read_text()[-3000:]
    assert "--resume continues" in log.read_text()
    (checkpoint,) = stage.glob("checkpoint-*")
    assert (checkpoint / "complete.json").exists() and not (stage / "model").exists()
    done = subprocess.run([*argv, "--resume"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in (stage / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 61))
    assert (run / "projector.safetensors").exists()


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize(("processes", "fails"), [(1, False), (2, True)])
def test_no_worker_of_a_loader_keeps_its_process_alive(processes: int, fails: bool, tmp_path: Path) -> None:
    """They ignore the SIGTERM of a process that ends, which then waited for them, trained or failed."""
    data, run = tmp_path / "data", tmp_path / "run"
    write_dataset(data, train=12, val=1, seed=9)
    rows = json.loads((data / "train.json").read_text())
    for row in rows[4:] if fails else []:
        row["image"] = "missing.jpg"
    (data / "train.json").write_text(json.dumps(rows))
    fields = {"max_steps": 2, "global_batch_size": 4, "workers": 2, "packing": "true"}
    argv = [sys.executable, "-m", "viscot_cli.app", "finetune", "--recipe", "tiny-zoom", "--data", str(data)]
    argv += ["--out", str(run), "--gpus", "0", "--processes", str(processes), "--set", "report_to=[]"]
    for name, value in {**fields, "token_weights": "null"}.items():
        argv += ["--set", f"stages.finetune.{name}={value}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = tmp_path / "run.log"
    with log.open("wb") as out:
        child = subprocess.Popen(argv, env=environment, stdout=out, stderr=out, start_new_session=True)
        try:
            assert child.wait(timeout=150) == int(fails), log.read_text()[-3000:]
        finally:
            child.kill()
    assert ("rows cannot be learned from" if fails else "packing is exact") in log.read_text()
