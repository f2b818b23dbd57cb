"""Folders that the first design wrote (``README.md``): they open, go on, and end as they would have then."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
VISCOT = "import sys; from viscot_cli.app import main; sys.exit(main())"
CPU = ("--device", "cpu", "--dtype", "fp32")
COT = ("bench", "cot", "--data", "data", "--strategy", "cot,direct,gt-box,random-box,no-image", *CPU)
REFCOCO = ("bench", "refcoco", "--data", "data", *CPU)
SHAPE = {
    "image_side": 28, "vision_width": 16, "vision_layers": 1, "vision_heads": 2, "vision_mlp": 16,
    "llm_width": 16, "llm_layers": 1, "llm_heads": 2, "llm_mlp": 16, "vocab_size": 300,
}  # fmt: skip
SMALL = {"global_batch_size": 2, "log_steps": 1, "precision": "fp32"}
PLAIN = {"compile": "false", "workers": 0}
STAGES = {
    "foundation": {"max_steps": 2, **SMALL, **PLAIN},
    "pretrain": {"max_steps": 2, **SMALL},
    "finetune": {"max_steps": 10, "save_steps": 2, "keep_checkpoints": 1, **SMALL, **PLAIN},
}
SETTINGS = [
    *(f"model.scratch.{name}={value}" for name, value in SHAPE.items()),
    *(f"stages.{kind}.{name}={value}" for kind, fields in STAGES.items() for name, value in fields.items()),
    "report_to=[]",
]
TRAIN = (
    "train", "--recipe", "tiny", "--data", "data", "--out", "train/run", "--gpus", "0",
    *(word for setting in SETTINGS for word in ("--set", setting)),
)  # fmt: skip
CLOSE = 3e-4
"""How far a loss may be from the one of then: other threads and versions add in another order."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A copy of the folders: what is kept is never written to."""
    for name in ("data", "run", "train"):
        shutil.copytree(HERE / name, tmp_path / name)
    return tmp_path


def viscot(place: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the public command in ``place``; its exit code must be ``code``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    argv = [sys.executable, "-c", VISCOT, *words]
    ran = subprocess.run(argv, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == code, f"exit code {ran.returncode}: {ran.stdout[-1000:]}{ran.stderr[-2000:]}"
    return ran


def expected(name: str) -> dict[str, Any]:
    """What an uninterrupted run of then came to."""
    found: dict[str, Any] = json.loads((HERE / name / "expected.json").read_text())
    return found


def lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def holds(found: Any, wanted: Any, where: str = "") -> None:
    """``found`` has all of ``wanted``; fields may have been added, none may mean something else.

    Intervals (``ci95``) are left out: those of then were bootstrapped, which is too narrow for few items
    and gave [1.0, 1.0] for 3 right of 3. Today's methods are held in ``report/test_intervals.py``.
    """
    if isinstance(wanted, dict):
        assert isinstance(found, dict) and wanted.keys() <= found.keys(), where
        for key, value in wanted.items():
            if not key.endswith("ci95"):
                holds(found[key], value, f"{where}/{key}")
    elif isinstance(wanted, list):
        assert isinstance(found, list) and len(found) == len(wanted), where
        for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
            holds(one, other, f"{where}/{number}")
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, abs=1e-6), where
    else:
        assert found == wanted, where


def stats(place: Path, run: str) -> dict[str, Any]:
    """``viscot stats RUN --format json``."""
    found: dict[str, Any] = json.loads(viscot(place, "stats", run, "--format", "json").stdout)
    return found


def predictions(place: Path, run: str) -> list[dict[str, Any]]:
    """The run's answers in the order of ``expected.json``."""
    rows = lines(place / run / "predictions.jsonl")
    return sorted(rows, key=lambda row: (row["strategy"], row["dataset"], row["question_id"]))


def test_a_half_done_run_opens(place: Path) -> None:
    for kind, wanted in expected("run").items():
        holds(stats(place, f"run/{kind}"), wanted["half_stats"], kind)
    assert "15 answers: 15 scored (0 new)" in viscot(place, "score", "run/cot", "--judge", "exact").stdout


def test_the_cot_run_goes_on(place: Path) -> None:
    file, wanted = place / "run/cot/predictions.jsonl", expected("run")["cot"]
    before = file.read_bytes()
    assert "30 of 30 done (15 now" in viscot(place, *COT, "--out", "run/cot").stdout
    assert file.read_bytes().startswith(before), "what was answered is not asked again"
    holds(predictions(place, "run/cot"), wanted["predictions"])
    assert "30 answers: 30 scored (15 new)" in viscot(place, "score", "run/cot", "--judge", "exact").stdout
    holds(stats(place, "run/cot"), wanted["stats"])
    shown = viscot(place, "bench", "show", "run/cot", "--id", "synth:0").stdout
    assert str(place) in shown, "the data root of the command that went on"
    prompts = [line.split(None, 2)[2] for line in shown.splitlines() if line.startswith("  prompt")]
    assert prompts == wanted["prompts_of_synth_0"]


@pytest.mark.slow
def test_the_refcoco_run_goes_on(place: Path) -> None:
    file, wanted = place / "run/refcoco/predictions.jsonl", expected("run")["refcoco"]
    before = file.read_bytes()
    assert "23 of 23 done (12 now" in viscot(place, *REFCOCO, "--out", "run/refcoco").stdout
    assert file.read_bytes().startswith(before)
    holds(predictions(place, "run/refcoco"), wanted["predictions"])
    holds(stats(place, "run/refcoco"), wanted["stats"])


def test_other_settings_are_still_refused(place: Path) -> None:
    ran = viscot(place, *COT, "--out", "run/cot", "--seed", "3", code=2)
    assert "seed: 0 -> 3" in ran.stderr
    ran = viscot(place, *TRAIN, code=2)
    assert "unfinished run" in ran.stderr and "--resume" in ran.stderr
    ran = viscot(place, *TRAIN, "--set", "stages.finetune.adam_beta2=0.9", "--resume", code=2)
    assert "stages.finetune.adam_beta2: 0.98 -> 0.9" in ran.stderr


@pytest.mark.slow
def test_its_checkpoints_load(place: Path) -> None:
    for checkpoint in ("stages/2-pretrain/model", "stages/3-finetune/checkpoint-4"):
        told = viscot(place, "models", "inspect", f"train/run/{checkpoint}").stdout
        assert "18,448" in told and "template tiny" in told


@pytest.mark.slow
@pytest.mark.multiprocess
def test_the_training_goes_on(place: Path) -> None:
    wanted = expected("train")
    log = place / "train/run/stages/3-finetune/log.jsonl"
    before = log.read_bytes()
    viscot(place, *TRAIN, "--resume")
    assert log.read_bytes().startswith(before)
    for stage, losses in wanted["losses"].items():
        rows = lines(place / "train/run/stages" / stage / "log.jsonl")
        found = [(row["step"], row["loss"]) for row in rows if "loss" in row]
        assert [step for step, _ in found] == [step for step, _ in losses], "each step once"
        for (step, loss), (_, then) in zip(found, losses, strict=True):
            assert loss == pytest.approx(then, abs=CLOSE), f"{stage}, step {step}"
    picture, question = "data/cot/synth/val/000000.jpg", "Tell me the number of the yellow tag."
    said = viscot(
        place, "infer", picture, question, "--json", "--model", "train/run", *CPU, "--max-new-tokens", "12"
    ).stdout
    holds(json.loads(said), wanted["answer"])
