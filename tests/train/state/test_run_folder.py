"""A run folder is never overwritten, never shared, and only continued with the same settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from viscot_core.errors import UsageError
from viscot_core.files import atomic_write
from viscot_core.train.plan.make_plan import make_plan
from viscot_core.train.plan.plan_types import Machine
from viscot_core.train.recipe.load import dump_recipe, load_recipe
from viscot_core.train.state import run_folder


def begun(run: Path) -> None:
    run.mkdir()
    (run / "recipe.yaml").write_text(dump_recipe(load_recipe("tiny")))


def test_a_begun_run_is_refused_and_resumed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    begun(run)
    with pytest.raises(UsageError, match=r"unfinished run; --resume continues it"):
        run_folder.claim(run, load_recipe("tiny"), resume=False)
    run_folder.claim(run, load_recipe("tiny"), resume=True)
    run_folder.claim(
        run, load_recipe("tiny", ["stages.finetune.save_steps=9", "data.root=/else"]), resume=True
    )
    (run / "viscot.json").touch()
    with pytest.raises(UsageError, match="a finished run"):
        run_folder.claim(run, load_recipe("tiny"), resume=False)


def test_changed_settings_are_named(tmp_path: Path) -> None:
    run = tmp_path / "run"
    begun(run)
    old = load_recipe("tiny").stage("finetune").max_steps
    with pytest.raises(UsageError, match=rf"stages\.finetune\.max_steps: {old} -> 7"):
        run_folder.claim(run, load_recipe("tiny", ["stages.finetune.max_steps=7"]), resume=True)


def test_a_run_goes_on_with_other_learning_rates(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = tmp_path / "run"
    begun(run)
    lower = ["stages.finetune.learning_rate=1e-5", "stages.finetune.vision_tower_lr=null"]
    run_folder.claim(run, load_recipe("tiny", lower), resume=True)
    assert "stages.finetune.learning_rate: 0.0015 -> 1e-05" in caplog.text
    with pytest.raises(UsageError, match=r"other settings: stages\.finetune\.max_steps: \d+ -> 7\. Use"):
        run_folder.claim(run, load_recipe("tiny", [*lower, "stages.finetune.max_steps=7"]), resume=True)


def test_other_peoples_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match=r"other files \(thesis\.tex\)"):
        run_folder.claim(tmp_path, load_recipe("tiny"), resume=False)
    with pytest.raises(UsageError, match="no run to resume"):
        run_folder.claim(tmp_path / "new", load_recipe("tiny"), resume=True)


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    with (
        run_folder.locked(tmp_path),
        pytest.raises(UsageError, match=r"in use by process \d+"),
        run_folder.locked(tmp_path),
    ):
        pass
    with run_folder.locked(tmp_path):  # the lock went with its holder
        pass


def test_machines_that_share_a_folder_join_a_run_that_begins(tmp_path: Path) -> None:
    recipe = load_recipe("tiny")
    with run_folder.locked(tmp_path, "-first"):
        (tmp_path / ".recipe.yaml.partial").touch()  # the first machine is about to begin
        run_folder.claim(tmp_path, recipe, resume=False, shared=True)
        (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
        run_folder.claim(tmp_path, recipe, resume=False, shared=True)
        with pytest.raises(UsageError, match=r"max_steps: \d+ -> 7"):
            other = load_recipe("tiny", ["stages.finetune.max_steps=7"])
            run_folder.claim(tmp_path, other, resume=False, shared=True)


def test_a_kill_while_a_run_begins_leaves_one_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe("tiny")
    plan = make_plan(recipe, Machine(), run=tmp_path, data=tmp_path)

    def killed(path: Path) -> Any:
        if path.name == "plan.json":
            raise KeyboardInterrupt
        return atomic_write(path)

    monkeypatch.setattr(run_folder, "atomic_write", killed)
    with pytest.raises(KeyboardInterrupt):
        run_folder.write(tmp_path, recipe, plan)
    run_folder.claim(tmp_path, recipe, resume=True)


def test_recipe_and_plan_are_written(tmp_path: Path) -> None:
    recipe = load_recipe("tiny")
    plan = make_plan(recipe, Machine(), run=tmp_path, data=tmp_path)
    run_folder.write(tmp_path, recipe, plan)
    assert load_recipe(tmp_path / "recipe.yaml") == recipe
