"""Preferences and reinforcement on two processes, on adapters, over the zoom loop, and after kill -9."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import made_replies
import pytest
import torch
from made_job import held_out_data, losses
from made_replies import REINFORCE, pairs_in, recipe_for, recipe_of

from viscot_core.boxes.registry import codec
from viscot_core.data.search.rows import write_search
from viscot_core.engines.transformers.engine import LocalEngine
from viscot_core.errors import UsageError
from viscot_core.models.load import load_model
from viscot_core.models.zoo import resolve
from viscot_core.train import worker
from viscot_core.train.evaluation.questions import questions_of
from viscot_core.train.objectives.attempts import settings_of_attempts
from viscot_core.train.preferences.pairs import write_pairs
from viscot_core.train.recipe.load import dump_recipe
from viscot_core.train.recipe.schema import ReinforceSpec
from viscot_core.train.state.initial import start

KINDS = ("dpo", "grpo")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = held_out_data(tmp_path_factory.mktemp("data") / "made", train=6, held_out=2)
    write_pairs(root / "prefs.jsonl", pairs_in(root))
    return root


def on_two_processes(data: Path, out: Path, *modes: str) -> None:
    """Runs of ``modes`` in ``out``; processes that wait for each other fail."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    argv = [sys.executable, *launcher, made_replies.__file__, str(data), str(out), *modes]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_learn_as_one_does(kind: str, data: Path, tmp_path: Path) -> None:
    """A question's attempts are the same draws on whichever process it is asked."""
    alone = losses(worker.run(tmp_path / "alone", recipe_of(f"{kind}-one", data)), kind)
    assert any(alone), "attempts that are all equal would teach nothing on any number of processes"
    modes = [f"{kind}-ddp", f"{kind}-zero2", f"lora-{kind}-ddp"]
    on_two_processes(data, tmp_path, *modes)
    for mode in modes[:2]:
        assert losses(tmp_path / mode, kind) == pytest.approx(alone, abs=1e-4), mode
    adapters = losses(worker.run(tmp_path / "adapters", recipe_of(f"lora-{kind}-one", data)), kind)
    assert losses(tmp_path / modes[2], kind) == pytest.approx(adapters, abs=1e-4)


@pytest.mark.slow
@pytest.mark.multiprocess
def test_how_a_step_is_divided_does_not_change_what_is_drawn(data: Path, tmp_path: Path) -> None:
    """Six questions, asked sixteen times: one process asking one at a time learns as two that ask two do."""
    mode = "few-two-grpo-ddp"
    on_two_processes(data, tmp_path, mode)
    alone = worker.run(tmp_path / "alone", recipe_of("few-grpo-one", data))
    divided = steps_in(tmp_path / mode / "stages/1-grpo/log.jsonl")
    for row, other in zip(steps_in(alone / "stages/1-grpo/log.jsonl"), divided, strict=True):
        for name in ("loss", "reward", "new_tokens", "flat"):
            assert row[name] == pytest.approx(other[name], abs=1e-4), name


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_process_without_anything_to_learn_does_not_stop_the_others(data: Path, tmp_path: Path) -> None:
    """It has no use for the reference, whose forward pass must then not wait for all processes."""
    mode = "short-lora-dpo-ddp"
    on_two_processes(data, tmp_path, mode)
    run = worker.run(tmp_path / "alone", recipe_of("short-lora-dpo-one", data))
    assert losses(tmp_path / mode, "dpo") == pytest.approx(losses(run, "dpo"), abs=1e-4)


@pytest.mark.slow
def test_the_reference_computes_in_the_precision_of_the_model(data: Path, tmp_path: Path) -> None:
    """At the first step both are the same model: in bf16 too the margin is 0."""
    run = worker.run(tmp_path / "run", recipe_for("dpo", data, precision="bf16", max_steps=1))
    (first,) = steps_in(run / "stages/1-dpo/log.jsonl")
    assert first["margin"] == 0 and first["loss"] == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8, "dropout": 0.0}])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_attempts_are_made_in_the_precision_of_the_steps(
    precision: str, lora: dict[str, Any] | None, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without DeepSpeed too; what learns learns in fp32, weights beside adapters are held in 16 bit."""
    generate, computed = LocalEngine.generate, list[torch.dtype]()
    held: dict[bool, set[torch.dtype]] = {}

    def watched(self: LocalEngine, *given: Any, **more: Any) -> Any:
        for parameter in self.model.parameters():
            held.setdefault(parameter.requires_grad, set()).add(parameter.dtype)
        layer = self.model.get_input_embeddings().weight
        computed.append((layer @ layer[0]).dtype)
        return generate(self, *given, **more)

    monkeypatch.setattr(LocalEngine, "generate", watched)
    stage = {"files": ["chain.jsonl"], "max_steps": 1, "reinforce": REINFORCE}
    worker.run(tmp_path / "run", recipe_for("grpo", data, **stage, precision=precision, lora=lora))
    assert set(computed) == {getattr(torch, {"bf16": "bfloat16", "fp32": "float32"}[precision])}
    sixteen = precision == "bf16" and lora is not None
    assert held == {True: {torch.float32}, False: {torch.bfloat16 if sixteen else torch.float32}}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_adapters_learn_beside_weights_that_stay(kind: str, data: Path, tmp_path: Path) -> None:
    """The reference is the model without its adapters; the result is the base and an adapter."""
    run = worker.run(tmp_path / "run", recipe_of(f"lora-{kind}-one", data))
    (log,) = (run / "stages").glob("*/log.jsonl")
    rows = [row for row in map(json.loads, log.read_text().splitlines()) if "loss" in row]
    if kind == "dpo":
        assert rows[0]["margin"] == pytest.approx(0, abs=1e-5) and rows[-1]["margin"] > 0
    else:
        assert rows[0]["kl"] == pytest.approx(0, abs=1e-6) and rows[-1]["kl"] > 0
    assert (run / "adapter_model.safetensors").is_file()
    before = load_model(resolve(None), device="cpu", dtype="fp32").model.state_dict()
    after = load_model(run, device="cpu", dtype="fp32")
    changed = {
        key for key, tensor in after.model.state_dict().items() if not torch.equal(before[key], tensor)
    }
    assert {after.family.parts.part_of(key) for key in changed} == {"projector", "llm"}


@pytest.mark.slow
def test_reinforcement_goes_on_after_kill_9(data: Path, tmp_path: Path) -> None:
    """Killed between its checkpoints, it has the losses of the run that nothing happened to."""
    stage = {"files": ["chain.jsonl"], "max_steps": 4, "save_steps": 2, "reinforce": REINFORCE}
    recipe = tmp_path / "small.yaml"
    recipe.write_text(dump_recipe(recipe_for("grpo", data, **stage)))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    log = killed / "stages/1-grpo/log.jsonl"

    def command(run: Path, *more: str) -> list[str]:
        words = ["reinforce", "--recipe", str(recipe), "--data", str(data), "--out", str(run), "--gpus", "0"]
        return [sys.executable, "-m", "viscot_cli", *words, *more]

    subprocess.run(command(whole), check=True, capture_output=True)
    child = subprocess.Popen(command(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not log.exists() or len(steps_in(log)) < 3:
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (killed / "model.safetensors").exists()
    subprocess.run(command(killed, "--resume"), check=True, capture_output=True)
    again = steps_in(log)
    wanted = {row["step"]: row for row in steps_in(whole / "stages/1-grpo/log.jsonl")}
    assert [row["step"] for row in again] == [1, 2, 3, 3, 4], "the third step was after the last checkpoint"
    for row in again:
        for name in ("loss", "reward", "kl", "new_tokens"):
            assert row[name] == pytest.approx(wanted[row["step"]][name], abs=1e-6), (row["step"], name)


def steps_in(log: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return [row for row in rows if "loss" in row]


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "search"
    write_search(root, train=3, val=1, seed=3)
    return root


def test_the_question_of_a_chain_of_looks_has_its_last_region_and_its_answer(search: Path) -> None:
    """The second look of a row is no answer."""
    found = {item.question_id: item for item, _ in questions_of(search / "train.json", search)}
    rows = {row["question_id"]: row for row in json.loads((search / "train.json").read_text())}
    several = [item for number, item in found.items() if len(rows[int(number)]["image"]) > 2]
    assert several
    for item in several:
        row = rows[int(item.question_id)]
        assert item.reference == row["conversations"][-1]["value"] and item.box is not None
        numbers = ", ".join(f"{side:.0f}" for side in (item.box.x0, item.box.y0, item.box.x1, item.box.y1))
        assert row["image"][-1].endswith(f"[{numbers}]")


@pytest.mark.slow
@pytest.mark.parametrize("looks", [1, 3])
def test_reinforcement_over_the_zoom_loop(looks: int, search: Path, tmp_path: Path) -> None:
    """As many looks as are allowed, every turn of them learned, rewarded for the answer alone."""
    spec = REINFORCE | {"strategy": "zoom", "looks": looks, "rewards": {"answer": 1.0, "iou": 0.1}}
    stage = {"files": ["train.json"], "max_steps": 2, "reinforce": spec, "learning_rate": 1e-5}
    recipe = recipe_for("grpo", search, "viscot-tiny-zoom", **stage)
    run = worker.run(tmp_path / "run", recipe)
    rows = steps_in(run / "stages/1-grpo/log.jsonl")
    assert len(rows) == 2 and all(row["too_long"] == row["unasked"] == 0 for row in rows)
    if looks == 1:
        assert all(row["looks"] <= 1 for row in rows)
    else:
        assert max(row["looks"] for row in rows) > 1
    assert any(row["loss"] != 0 for row in rows)


def test_zoom_without_a_known_dialect_is_refused(data: Path, tmp_path: Path) -> None:
    """A model whose name and boxes say nothing: one sentence, not a dialect that may be another's."""
    recipe = recipe_for("grpo", data, files=["chain.jsonl"])
    run = start(tmp_path, recipe, recipe.stages[0])
    spec = ReinforceSpec(strategy="zoom")
    known = run.processor_for(recipe.stages[0])
    other: Any = SimpleNamespace(boxes=codec("pixels"), render=known.render, text=known.text)
    with pytest.raises(UsageError, match=r"give stages\.grpo\.reinforce\.dialect: .*deepeyes"):
        settings_of_attempts(run, other, spec)
    given = settings_of_attempts(run, other, spec.model_copy(update={"dialect": "deepeyes", "looks": 2}))
    assert given["zoom"]["dialect"] == "deepeyes" and given["zoom"]["looks"] == 2
    assert settings_of_attempts(run, known, spec)["zoom"]["dialect"] == "viscot"
