"""A run folder is never overwritten, never shared, and only continued with the same settings."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from viscot_core.errors import UsageError
from viscot_core.files import atomic_write, partial_name
from viscot_core.train import folder, launch, options, slurm
from viscot_core.train.plan import make_plan
from viscot_core.train.planned import Machine, Rendezvous
from viscot_core.train.recipe import dump_recipe, load_recipe


def begun(run: Path) -> None:
    run.mkdir()
    (run / "recipe.yaml").write_text(dump_recipe(load_recipe("tiny")))


def test_a_begun_run_is_refused_and_resumed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    begun(run)
    with pytest.raises(UsageError, match=r"unfinished run; --resume continues it"):
        folder.claim(run, load_recipe("tiny"), resume=False)
    folder.claim(run, load_recipe("tiny"), resume=True)
    folder.claim(run, load_recipe("tiny", ["stages.finetune.save_steps=9", "data.root=/else"]), resume=True)
    (run / "viscot.json").touch()
    with pytest.raises(UsageError, match="a finished run"):
        folder.claim(run, load_recipe("tiny"), resume=False)


def test_changed_settings_are_named(tmp_path: Path) -> None:
    run = tmp_path / "run"
    begun(run)
    old = load_recipe("tiny").stage("finetune").max_steps
    with pytest.raises(UsageError, match=rf"stages\.finetune\.max_steps: {old} -> 7"):
        folder.claim(run, load_recipe("tiny", ["stages.finetune.max_steps=7"]), resume=True)


def test_a_run_goes_on_with_other_learning_rates(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = tmp_path / "run"
    begun(run)
    lower = ["stages.finetune.learning_rate=1e-5", "stages.finetune.vision_tower_lr=null"]
    folder.claim(run, load_recipe("tiny", lower), resume=True)
    assert "stages.finetune.learning_rate: 0.0015 -> 1e-05" in caplog.text
    with pytest.raises(UsageError, match=r"other settings: stages\.finetune\.max_steps: \d+ -> 7\. Use"):
        folder.claim(run, load_recipe("tiny", [*lower, "stages.finetune.max_steps=7"]), resume=True)


def test_other_peoples_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match=r"other files \(thesis\.tex\)"):
        folder.claim(tmp_path, load_recipe("tiny"), resume=False)
    with pytest.raises(UsageError, match="no run to resume"):
        folder.claim(tmp_path / "new", load_recipe("tiny"), resume=True)


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    with (
        folder.locked(tmp_path),
        pytest.raises(UsageError, match=r"in use by process \d+"),
        folder.locked(tmp_path),
    ):
        pass
    with folder.locked(tmp_path):  # the lock went with its holder
        pass


def test_machines_that_share_a_folder_join_a_run_that_begins(tmp_path: Path) -> None:
    recipe = load_recipe("tiny")
    with folder.locked(tmp_path, "-first"):
        partial_name(tmp_path / "recipe.yaml").touch()  # the first machine is about to begin
        folder.claim(tmp_path, recipe, resume=False, shared=True)
        (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
        folder.claim(tmp_path, recipe, resume=False, shared=True)
        with pytest.raises(UsageError, match=r"max_steps: \d+ -> 7"):
            other = load_recipe("tiny", ["stages.finetune.max_steps=7"])
            folder.claim(tmp_path, other, resume=False, shared=True)


def test_a_kill_while_a_run_begins_leaves_one_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe("tiny")
    plan = make_plan(recipe, Machine(), run=tmp_path, data=tmp_path)

    def killed(path: Path) -> Any:
        if path.name == "plan.json":
            raise KeyboardInterrupt
        return atomic_write(path)

    monkeypatch.setattr(folder, "atomic_write", killed)
    with pytest.raises(KeyboardInterrupt):
        folder.write(tmp_path, recipe, plan)
    folder.claim(tmp_path, recipe, resume=True)


def test_recipe_and_plan_are_written(tmp_path: Path) -> None:
    recipe = load_recipe("tiny")
    plan = make_plan(recipe, Machine(), run=tmp_path, data=tmp_path)
    folder.write(tmp_path, recipe, plan)
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


def test_the_rank_that_died_first_is_shown_first(tmp_path: Path) -> None:
    for rank, when in ((0, 20), (1, 10)):
        place = tmp_path / "job/attempt_0" / str(rank)
        place.mkdir(parents=True)
        (place / "stderr.log").write_text(f"line of rank {rank}\n")
        said = {"message": {"message": f"Error: rank {rank} fell", "extraInfo": {"timestamp": when}}}
        (place / "error.json").write_text(json.dumps(said))
    told = launch.failure([tmp_path / "job"], 1)
    assert told.startswith("Rank 1 failed and all ranks were stopped: Error: rank 1 fell")
    assert "| line of rank 1" in told and str(tmp_path / "job/attempt_0/1/stderr.log") in told
    assert "code 9" in launch.failure([], 9)


def test_a_rank_that_dies_ends_the_run(tmp_path: Path) -> None:
    import sys

    start = time.monotonic()
    with pytest.raises(Exception, match="stopped with code 3"):
        launch._run_ranks([sys.executable, "-c", "raise SystemExit(3)"], tmp_path)
    assert time.monotonic() - start < 20


def test_ctrl_c_reaches_the_ranks(tmp_path: Path) -> None:
    import os
    import signal
    import sys
    import threading

    threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        launch._run_ranks([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path)
    assert time.monotonic() - start < 30


def test_a_port_in_use_is_told_at_second_0() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UsageError, match=r"Port \d+ of 127\.0\.0\.1 is in use"):
            launch._require_port(Rendezvous(endpoint))
        for elsewhere in (Rendezvous(endpoint, node_rank=1), Rendezvous(endpoint, options=("is_host=0",))):
            launch._require_port(elsewhere)
    launch._require_port(Rendezvous("203.0.113.9:29500"))  # another machine's address
    with pytest.raises(UsageError, match="HOST:PORT"):
        launch._require_port(Rendezvous("host"))


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"gpus": 8, "gpu_memory": 80.0, "processes": 2}, "--processes counts where no GPU is used"),
        ({"gpus": 0, "gpu_memory": 80.0}, "--gpu-memory tells of a GPU and none is used"),
        ({"gpus": 0, "gpu_name": "A100"}, "--gpu tells of a GPU and none is used"),
    ],
)
def test_what_does_not_count_on_a_machine_is_refused(asked: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        launch.this_machine(**asked, must_exist=False)


@pytest.mark.parametrize(
    "option", [("--node-rank", "1"), ("--rdzv-id", "a"), ("--rdzv-conf", "a=b"), ("--local-addr", "10.0.0.1")]
)
def test_how_machines_meet_needs_a_place(option: tuple[str, str], cli: Callable[..., Any]) -> None:
    ran = cli("train", "--recipe", "tiny", "--dry-run", *option)
    assert ran.code == 2 and f"{option[0]} only goes with --rdzv" in ran.err
    ran = cli("train", "--recipe", "tiny", "--dry-run", "--rdzv", "host:29500", "--nnodes", "2", *option)
    assert ran.code == 0, ran.err


def test_stages_are_chosen() -> None:
    recipe, notes = options.choose_stages(load_recipe("13b-336"), "all")
    assert [s.kind for s in recipe.stages] == ["finetune"] and "pretrain is skipped" in notes[0]
    recipe, notes = options.choose_stages(load_recipe("13b-336", ["model.projector=null"]), "all")
    assert [s.kind for s in recipe.stages] == ["pretrain", "finetune"] and not notes
    recipe, notes = options.choose_stages(load_recipe("7b-336"), "pretrain")
    assert [s.kind for s in recipe.stages] == ["pretrain"]
    assert recipe.model.projector is None and "starts anew" in notes[0]
    with pytest.raises(UsageError, match="needs a projector"):
        options.choose_stages(load_recipe("7b-224"), "finetune")


def test_ones_own_data_and_adapters(tmp_path: Path) -> None:
    file = tmp_path / "my data.json"
    file.write_text("[]")
    recipe, place, notes = options.resolve(
        "7b-336", [], "finetune", file, tmp_path / "pictures", lora=64, load_in="4bit", allow_bad=2
    )
    stage = recipe.stage("finetune")
    assert stage.files == ("my data.json",) and place.root == tmp_path
    assert recipe.data.images == str(tmp_path / "pictures") and recipe.data.allow_bad == 2
    assert stage.lora is not None and (stage.lora.rank, stage.lora.alpha, stage.lora.load_in) == (
        64,
        128,
        "4bit",
    )
    assert stage.train == ("projector", "llm")
    assert (stage.learning_rate, stage.projector_lr) == (2e-4, 2e-5) and "LLaVA-1.5" in notes[0]
    mine = ["stages.finetune.learning_rate=1e-4"]
    recipe, _, _ = options.resolve("7b-336", mine, "finetune", file, None, lora=64)
    assert recipe.stage("finetune").learning_rate == 1e-4
    with pytest.raises(UsageError, match="give --data"):
        options.resolve("7b-336", [], "finetune", None, None)


def test_ones_own_rows_go_to_the_stage_that_runs(tmp_path: Path) -> None:
    file = tmp_path / "it's mine.json"
    file.write_text("[]")
    usual = load_recipe("7b-336")
    recipe, _, _ = options.resolve("7b-336", [], "pretrain", file, None)
    assert recipe.stage("pretrain").files == (file.name,)
    recipe, _, _ = options.resolve("7b-336", ["model.projector=null"], "all", file, None)
    assert recipe.stage("finetune").files == (file.name,)
    assert recipe.stage("pretrain").files == usual.stage("pretrain").files


def test_a_projector_that_is_asked_for_is_trained_on(tmp_path: Path) -> None:
    mine = ["model.projector=mine.safetensors"]
    recipe, _, notes = options.resolve("7b-336", mine, "pretrain", tmp_path, None)
    assert recipe.model.projector == "mine.safetensors" and not notes
    recipe, _, notes = options.resolve("7b-336", [], "pretrain", tmp_path, None)
    assert recipe.model.projector is None and len(notes) == 1


def test_slurm_scripts_repeat_the_command(tmp_path: Path) -> None:
    plan = make_plan(load_recipe("7b-336"), Machine(gpus=8, nodes=4), run="runs/x", data=tmp_path)
    argv = ["train", "--recipe", "7b-336", "--nnodes", "4", "--data", "my data", "--slurm", "print"]
    script = slurm.slurm_script(plan, argv)
    assert slurm.slurm_script(plan, [*argv[:-2], "--slurm=submit", "--dry-run"]) == script
    assert "#SBATCH --nodes=4" in script and "#SBATCH --gpus-per-node=8" in script
    assert "train --recipe 7b-336 --nnodes 4 --data 'my data' --rdzv \"$HEAD:29500\"" in script
    assert "--slurm" not in script and "${SLURM_RESTART_COUNT:+--resume}" in script
    assert '--output="runs/x.slurm-%j.log"' in script, "the run folder itself takes no stranger's file"
