"""The worker end to end on a handful of scenes: all stages, a usable checkpoint, and an exact resume."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from viscot_core.data.synth import write_dataset
from viscot_core.errors import DataError, PartlyDone, RecipeError, ViscotError
from viscot_core.families.manifest import Manifest
from viscot_core.train.loop.stage import split_of
from viscot_core.train.loop.throughput import StageLog
from viscot_core.train.plan.plan_types import Split
from viscot_core.train.recipe.load import dump_recipe, load_recipe
from viscot_core.train.recipe.schema import Recipe
from viscot_core.train.state import checkpoints
from viscot_core.train.worker import run

SMALL = [
    "model.scratch.image_side=56", "model.scratch.vision_width=24", "model.scratch.vision_layers=2",
    "model.scratch.vision_heads=2", "model.scratch.vision_mlp=48", "model.scratch.llm_width=24",
    "model.scratch.llm_layers=2", "model.scratch.llm_heads=2", "model.scratch.llm_mlp=48",
]  # fmt: skip


def _stage(kind: str, steps: int, save: int) -> list[str]:
    fields = {"max_steps": steps, "save_steps": save, "global_batch_size": 4, "log_steps": 1}
    fields |= {"compile": "false", "precision": "fp32"}
    return [f"stages.{kind}.{name}={value}" for name, value in fields.items()]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    root = tmp_path_factory.mktemp("synth")
    write_dataset(root, train=10, val=2, seed=9)
    stages = [*_stage("foundation", 3, 100), *_stage("pretrain", 2, 100), *_stage("finetune", 6, 3)]
    return load_recipe("tiny", [f"data.root={root}", *SMALL, *stages])


@pytest.fixture(scope="module")
def trained(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("run"), recipe)


def _log(folder: Path, stage: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / f"stages/{stage}/log.jsonl").read_text().splitlines()]


def test_all_stages_run_and_log(trained: Path) -> None:
    for stage, steps in (("1-foundation", 3), ("2-pretrain", 2), ("3-finetune", 6)):
        rows = [row for row in _log(trained, stage) if "loss" in row]
        assert [row["step"] for row in rows] == list(range(1, steps + 1))
        assert all(row["samples_per_second"] > 0 for row in rows)
        assert {"learning_rate", "grad_norm"} <= rows[0].keys()


def test_parts_of_the_loss_are_those_of_the_whole_step(recipe: Recipe, trained: Path, tmp_path: Path) -> None:
    """Piece by piece or at once, a step's parts are the same and add up to its loss."""
    piecemeal = tuple(s.model_copy(update={"per_device_batch_size": 2}) for s in recipe.stages)
    split = run(tmp_path / "split", recipe.model_copy(update={"stages": piecemeal}))
    seen, spec = _log(split, "1-foundation")[0], recipe.stages[0].foundation
    assert spec is not None
    read = sum(seen[f"loss_{name}"] for name in ("glyph", "tens", "units"))
    total = spec.color_weight * seen["loss_color"] + spec.glyph_weight * read
    assert seen["loss"] == pytest.approx(total + 10 * spec.box_weight * seen["loss_box"], rel=1e-5)
    assert "loss_words" not in _log(split, "2-pretrain")[0], "there the loss has one part"
    whole, parts = _log(trained, "3-finetune")[0], _log(split, "3-finetune")[0]
    guide = recipe.stages[-1].guide_attention
    assert guide is not None and parts["loss_guide"] > 0
    assert parts["loss"] == pytest.approx(parts["loss_words"] + guide.weight * parts["loss_guide"], rel=1e-5)
    assert parts["loss_words"] == pytest.approx(whole["loss_words"], abs=2e-2), "the models differ a little"


def test_the_run_folder_is_a_checkpoint(trained: Path) -> None:
    from viscot_core.models.load import load_model

    loaded = load_model(trained)
    assert loaded.manifest == Manifest(
        name="viscot-tiny", template="tiny", turn_tokens="plain", image_side=56
    )
    names = set(load_file(trained / "model.safetensors"))
    assert not [name for name in names if "heads" in name]


def test_a_disk_without_hard_links_takes_a_copy(
    recipe: Recipe, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    again = shutil.copytree(trained, tmp_path / "again")
    (again / "model.safetensors").unlink()
    monkeypatch.setattr("os.link", refused)
    run(again, recipe)
    assert (again / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_remains_of_a_kill_go_with_the_next_call(recipe: Recipe, trained: Path, tmp_path: Path) -> None:
    again = shutil.copytree(trained, tmp_path / "again")
    (again / "viscot.json").unlink()  # killed while the model's files were linked
    for name in ("model.safetensors", "config.json", "viscot.json"):
        shutil.copyfile(again / "config.json", again / f".{name}.partial")
    for _ in range(2):  # a finished run, resumed, leaves none either
        run(again, recipe)
        assert (again / "viscot.json").exists() and not list(again.rglob("*.partial"))


def test_stage_one_moves_the_projector_alone(trained: Path) -> None:
    before = load_file(trained / "stages/1-foundation/model/model.safetensors")
    after = load_file(trained / "stages/2-pretrain/model/model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all("multi_modal_projector" in name for name in moved)


def _cut_short(trained: Path, again: Path) -> Path:
    """A copy of the run as a kill behind the last stage's step 3 leaves it."""
    shutil.copytree(trained, again)
    for leftover in ("stages/3-finetune/model", "stages/3-finetune/checkpoint-6"):
        shutil.rmtree(again / leftover)
    (again / "model.safetensors").unlink()
    (again / "stages/3-finetune/log.jsonl").unlink()
    return again


def test_a_killed_run_goes_on_exactly(recipe: Recipe, trained: Path, tmp_path: Path) -> None:
    again = run(_cut_short(trained, tmp_path / "again"), recipe)
    resumed = {row["step"]: row["loss"] for row in _log(again, "3-finetune") if "loss" in row}
    whole = {row["step"]: row["loss"] for row in _log(trained, "3-finetune") if "loss" in row}
    assert sorted(resumed) == [4, 5, 6]
    assert resumed == pytest.approx({step: whole[step] for step in resumed}, abs=1e-6)
    first, second = load_file(trained / "model.safetensors"), load_file(again / "model.safetensors")
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)


def test_a_run_that_is_told_to_stop_saves_and_goes_on(
    recipe: Recipe, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = StageLog.on_log

    def tell_after_step_4(self: StageLog, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        written(self, args, state, control, **kwargs)
        if state.global_step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    again = _cut_short(trained, tmp_path / "again")
    with monkeypatch.context() as patched:
        patched.setattr(StageLog, "on_log", tell_after_step_4)
        with pytest.raises(PartlyDone, match=r"after step 5 of stage 3-finetune.* --resume continues"):
            run(again, recipe)
    assert (again / "stages/3-finetune/checkpoint-5/complete.json").exists()
    assert not (again / "model.safetensors").exists()
    run(again, recipe)
    found = {row["step"]: row["loss"] for row in _log(again, "3-finetune") if "loss" in row}
    whole = {row["step"]: row["loss"] for row in _log(trained, "3-finetune") if "loss" in row}
    assert found == pytest.approx({step: whole[step] for step in (4, 5, 6)}, abs=1e-6)


def _poisoned(checkpoint: Path) -> Path:
    """Put NaN into one weight of a checkpoint, as an earlier version may have written it."""
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["multi_modal_projector.linear_1.weight"][0, 0] = float("nan")
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    record = json.loads((checkpoint / "complete.json").read_text())
    (checkpoint / "complete.json").write_text(json.dumps({k: v for k, v in record.items() if k != "finite"}))
    return checkpoint


def test_weights_that_are_not_finite_are_not_resumed(
    recipe: Recipe, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    again = shutil.copytree(trained, tmp_path / "again")
    (again / "model.safetensors").unlink()
    shutil.rmtree(again / "stages/3-finetune/model")
    _poisoned(again / "stages/3-finetune/checkpoint-6")
    run(again, recipe)
    assert "checkpoint-6 are not finite" in caplog.text
    assert (again / "stages/3-finetune/checkpoint-6.nonfinite").is_dir()
    first, second = load_file(trained / "model.safetensors"), load_file(again / "model.safetensors")
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)


def test_weights_that_are_not_finite_are_not_written(
    recipe: Recipe, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped = torch.optim.AdamW.step

    def explode(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = stepped(self, *args, **kwargs)
        self.param_groups[0]["params"][0].data.view(-1)[0] = float("inf")
        return found

    again = _cut_short(trained, tmp_path / "again")
    monkeypatch.setattr(torch.optim.AdamW, "step", explode)
    every = recipe.stages[-1].model_copy(update={"save_steps": 1})
    with pytest.raises(ViscotError, match=r"by step 4 and were not written.* --resume"):
        run(again, recipe.model_copy(update={"stages": (*recipe.stages[:-1], every)}))
    kept = {path.name for path in (again / "stages/3-finetune").glob("checkpoint-*")}
    assert kept == {"checkpoint-3"}


def test_a_checkpoint_that_gives_no_number_by_itself_is_set_aside(
    recipe: Recipe, trained: Path, tmp_path: Path
) -> None:
    """Its weights are finite and so large that the loss is not: a lower rate would meet it again."""
    again = _cut_short(trained, tmp_path / "again")
    checkpoint = again / "stages/3-finetune/checkpoint-3"
    tensors = {name: tensor * 1e30 for name, tensor in load_file(checkpoint / "model.safetensors").items()}
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ViscotError, match=r"at step 3; .* renamed to checkpoint-3\.nonfinite"):
        run(again, recipe)
    assert checkpoints.last_checkpoint(checkpoint.parent) is None


def test_a_run_goes_on_with_the_rates_it_is_given(recipe: Recipe, trained: Path, tmp_path: Path) -> None:
    """The schedule's place is kept and its height is the recipe's, not the checkpoint's."""
    tiny = {"learning_rate": 1e-12, "projector_lr": 1e-12, "vision_tower_lr": 1e-12}
    slower = (*recipe.stages[:-1], recipe.stages[-1].model_copy(update=tiny))
    again = run(_cut_short(trained, tmp_path / "again"), recipe.model_copy(update={"stages": slower}))
    rates = {row["step"]: row["learning_rate"] for row in _log(again, "3-finetune") if "loss" in row}
    whole = {row["step"]: row["learning_rate"] for row in _log(trained, "3-finetune") if "loss" in row}
    peak = recipe.stages[-1].vision_tower_lr  # the first group's, which is the one that is logged
    assert peak
    assert rates == pytest.approx({step: whole[step] / peak * 1e-12 for step in rates}, rel=1e-6)
    before = load_file(again / "stages/3-finetune/checkpoint-3/model.safetensors")
    after = load_file(again / "model.safetensors")
    assert all(torch.allclose(before[name], after[name], atol=1e-8) for name in before), "nothing was learned"


def test_a_file_that_lost_a_row_is_told_before_the_run_goes_on(
    recipe: Recipe, trained: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(str(recipe.data.root), tmp_path / "data")
    rows = json.loads((root / "train.json").read_text())
    (root / "train.json").write_text(json.dumps(rows[1:]))
    moved = recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": str(root)})})
    told = rf"train\.json has {len(rows) - 1} rows and had {len(rows)} when .*checkpoint-3 was written"
    with pytest.raises(DataError, match=told):
        run(_cut_short(trained, tmp_path / "again"), moved)


def test_bad_rows_are_counted_through_a_resume(recipe: Recipe, tmp_path: Path) -> None:
    root = shutil.copytree(str(recipe.data.root), tmp_path / "data")
    rows = json.loads((root / "train.json").read_text())
    for row in rows[::3]:
        row["image"] = ["gone.png"] * len(row["image"])
    (root / "train.json").write_text(json.dumps(rows))
    plain = {"packing": True, "guide_attention": None, "token_weights": None}
    stage = recipe.stages[-1].model_copy(update=plain)

    def told(allow_bad: int) -> Recipe:
        data = {"root": str(root), "images": str(root), "preflight": 0, "allow_bad": allow_bad}
        changes = {"stages": (stage,), "data": recipe.data.model_copy(update=data)}
        return recipe.model_copy(update=changes)

    out = run(tmp_path / "run", told(1000)) / "stages/1-finetune"
    first, last = (checkpoints.record_of(out / f"checkpoint-{step}") for step in (3, 6))
    assert first and last and last.bad > first.bad > 0
    for leftover in ("model", "checkpoint-6"):
        shutil.rmtree(out / leftover)
    with pytest.raises(DataError, match=f"{last.bad} rows cannot be learned from and {last.bad - 1} are"):
        run(tmp_path / "run", told(last.bad - 1))
    run(tmp_path / "run", told(last.bad))
    assert checkpoints.record_of(out / "checkpoint-6") == last


def test_a_batch_that_another_number_of_processes_cannot_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a plan for so many, the worker splits by the same rules."""
    stage = load_recipe("tiny", ["stages.finetune.per_device_batch_size=32"]).stage("finetune")
    assert split_of(tmp_path, stage) == Split(32, 1, 1)
    monkeypatch.setattr("viscot_core.train.ranks.count", lambda: 2)
    with pytest.raises(RecipeError, match="32 does not divide the 16 samples"):
        split_of(tmp_path, stage)
    assert split_of(tmp_path, stage.model_copy(update={"per_device_batch_size": 8})) == Split(8, 2, 2)


def test_the_recipe_is_kept_whole(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


def test_every_checkpoint_of_a_run_can_be_asked(trained: Path) -> None:
    """A projector is saved beside the weights for the reference; it must not stand in the loader's way."""
    from viscot_core.models.load import load_model

    checkpoint = trained / "stages/3-finetune/checkpoint-6"
    assert (checkpoint / "mm_projector.bin").exists()
    assert load_model(checkpoint).manifest.name == "viscot-tiny"
