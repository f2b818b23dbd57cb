"""The plan: splits, steps, commands, estimates, refusals; nothing is started."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from viscot_core.errors import CheckpointError, RecipeError
from viscot_core.families.shapes import ModelShape
from viscot_core.train.plan import estimates, remedies
from viscot_core.train.plan.make_plan import commands, make_plan
from viscot_core.train.plan.plan_table import command_line, summary
from viscot_core.train.plan.plan_types import Machine, Rendezvous, read_plan, split_batch
from viscot_core.train.recipe.base_model import shape_of
from viscot_core.train.recipe.load import load_recipe

EIGHT = Machine(gpus=8, gpu_memory_gib=80)


def rows_file(folder: Path, count: int) -> None:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}]
    rows = [{"id": str(n), "image": "a.jpg", "conversations": turns} for n in range(count)]
    (folder / "viscot_mixed_2m.json").write_text(json.dumps(rows))


def test_the_published_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISCOT_CACHE", str(tmp_path))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**50))
    plan = make_plan(load_recipe("13b-336"), EIGHT, run="runs/a b", data=tmp_path)
    second = plan.stage("finetune")
    assert second.global_batch_size == 128
    assert (second.per_device_batch_size, second.accumulation, second.processes) == (4, 4, 8)
    assert second.recompute == 2, "the GPUs have room for every second layer's activations"
    assert second.steps == 19047 and second.warmup_steps == 572
    assert sum(second.trained.values()) == pytest.approx(13.35e9, rel=0.01)
    assert plan.stage("pretrain").trained == {"projector": 31_467_520}
    assert "viscot_mixed_2m.json" in plan.refusals[1]
    absent = ["stages.pretrain", "stages.finetune", "model.base_llm", "model.vision_tower", "model.projector"]
    assert [text.partition(":")[0] for text in plan.refusals] == absent
    assert plan.refusals[2].endswith("get it with: viscot models pull lmsys/vicuna-13b-v1.5")
    table = summary(plan)
    assert all(len(row) == 3 for row in table)
    assert any(cell.startswith("~") for row in table for cell in row)


def test_published_recipes_recompute_as_the_memory_asks_for(tmp_path: Path) -> None:
    """Not in vain, and never in a way that does not fit; the published batch stays."""
    chosen = {}
    for name in ("7b-224", "7b-336", "13b-224", "13b-336"):
        for gib in (40.0, 80.0, 141.0):
            plan = make_plan(load_recipe(name), Machine(8, gib), run="run", data=tmp_path)
            chosen[name, gib] = [stage.recompute for stage in plan.stages]
            assert all(stage.memory_gib is not None and stage.memory_gib <= gib for stage in plan.stages)
            assert [stage.global_batch_size for stage in plan.stages] == [256, 128]
    for size in ("224", "336"):
        assert [chosen[f"7b-{size}", gib] for gib in (40.0, 80.0, 141.0)] == [[1, 1], [0, 0], [0, 0]]
        assert [chosen[f"13b-{size}", gib] for gib in (40.0, 80.0, 141.0)] == [[1, 1], [2, 2], [0, 0]]
    always = load_recipe("7b-336", ["stages.finetune.gradient_checkpointing=true"])
    assert make_plan(always, Machine(8, 80.0), run="run", data=tmp_path).stage("finetune").recompute == 1


def test_small_figures_are_not_said_to_be_none(tmp_path: Path) -> None:
    plan = make_plan(load_recipe("tiny"), Machine(), run="run", data=tmp_path)
    (stage,) = plan.stages[2:]
    small = replace(
        plan, stages=(replace(stage, tokens=34_000, trained={"projector": 3_600, "llm": 2_300_000}),)
    )
    said = {row[0]: row[1] for row in summary(small)}
    assert said["tokens"] == "~0.03 M" and said["trained"] == "projector 0.004 M, llm 2.3 M"


def test_commands_are_lists_so_that_paths_may_have_spaces() -> None:
    command = commands(load_recipe("13b-336"), EIGHT, "runs/a b")[1]
    assert "runs/a b" in command
    assert "--nproc_per_node=8" in command and "--standalone" in command
    assert command[-2:] == ("--stage", "finetune")
    assert "'runs/a b'" in command_line(command)


def test_many_machines_meet_at_a_rendezvous() -> None:
    machine = Machine(gpus=8, nodes=4)
    meeting = Rendezvous("host:29500", node_rank=1, options=("is_host=0",), local_address="10.0.0.2")
    command = commands(load_recipe("7b-336"), machine, "run", meeting)[0]
    for word in ("--nnodes=4", "--rdzv_backend=c10d", "--rdzv_endpoint=host:29500", "--node_rank=1",
                 "--rdzv_conf=is_host=0", "--local_addr=10.0.0.2"):  # fmt: skip
        assert word in command
    assert "--standalone" not in command


def test_one_cpu_process_needs_no_torchrun() -> None:
    assert "torch.distributed.run" not in commands(load_recipe("tiny"), Machine(), "run")[0]
    assert "torch.distributed.run" in commands(load_recipe("tiny"), Machine(cpu_processes=2), "run")[0]


@pytest.mark.parametrize(("processes", "expected"), [(1, (128, 1)), (8, (16, 1)), (32, (4, 1))])
def test_the_global_batch_is_the_invariant(processes: int, expected: tuple[int, int]) -> None:
    split = split_batch(load_recipe("7b-336").stage("finetune"), processes, lambda _: True)
    assert (split.per_device, split.accumulation) == expected
    assert split.total == 128


def test_memory_decides_between_batch_and_accumulation() -> None:
    split = split_batch(load_recipe("7b-336").stage("finetune"), 8, lambda size: size <= 5)
    assert (split.per_device, split.accumulation) == (4, 4)


def test_impossible_splits_name_the_nearest_possible() -> None:
    stage = load_recipe("7b-336").stage("finetune")
    with pytest.raises(RecipeError, match=r"use a batch of 126 or 132, or 4 or 8 processes"):
        split_batch(stage, 6, lambda _: True)
    given = load_recipe("7b-336", ["stages.finetune.per_device_batch_size=32"]).stage("finetune")
    with pytest.raises(RecipeError, match=r"32 does not divide the 16 samples"):
        split_batch(given, 8, lambda _: True)
    with pytest.raises(RecipeError, match=r"not even one sample fits"):
        split_batch(stage, 8, lambda _: False)


def test_what_is_needed_never_reads_as_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remedies, "memory_gib", lambda *_: 22.12)
    stage, shape = load_recipe("7b-336").stage("finetune"), cast(ModelShape, None)
    near, far = (remedies.advice(shape, stage, Machine(gpus=1), room) for room in (22.08, 11.04))
    assert "needs 22.12 GiB a process, 22.08 may be used" in near
    assert "needs 22.1 GiB a process, 11.0 may be used" in far


def test_rows_are_counted_where_the_file_is_present(tmp_path: Path) -> None:
    rows_file(tmp_path, 300)
    recipe = load_recipe("7b-336")
    recipe = recipe.model_copy(update={"stages": (recipe.stage("finetune"),)})
    plan = make_plan(recipe, EIGHT, run="r", data=tmp_path)
    stage = plan.stages[0]
    assert (stage.samples, stage.samples_from, stage.steps) == (300, "counted", 3)
    assert not [text for text in plan.refusals if text.startswith("stages")]
    assert any("save_steps 500 exceeds the 3 steps" in text for text in plan.warnings)
    assert not any("do not fill a batch" in text for text in plan.warnings)
    rows_file(tmp_path, 100)
    plan = make_plan(recipe, EIGHT, run="r", data=tmp_path)
    assert any("100 rows do not fill a batch of 128" in text for text in plan.warnings)


def test_a_plan_is_read_back(tmp_path: Path) -> None:
    plan = make_plan(load_recipe("tiny"), Machine(), run=tmp_path, data=tmp_path)
    (tmp_path / "plan.json").write_text(plan.to_json())
    assert read_plan(tmp_path) == plan
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"plan\.json"):
        read_plan(tmp_path)


def test_sizes_agree_with_the_published_models() -> None:
    small, large = (
        shape_of(load_recipe("7b-336").model),
        shape_of(load_recipe("13b-336").model),
    )
    assert small is not None and large is not None
    assert small.llm.parameters == 6_738_415_616
    assert large.llm.parameters == 13_015_864_320
    assert small.tower.parameters == 303_507_456 and small.tower.tokens == 576
    assert small.parameters("projector") == 20_979_712


def test_zero_divides_what_it_says() -> None:
    recipe, always = load_recipe("7b-336"), "stages.finetune.gradient_checkpointing=true"
    shape = shape_of(recipe.model)
    assert shape is not None
    stages = [
        load_recipe("7b-336", [always, f"stages.finetune.zero_stage={z}"]).stage("finetune")
        for z in (1, 2, 3)
    ]
    needs = [estimates.memory_gib(shape, stage, 1, 8) for stage in stages]
    assert needs == sorted(needs, reverse=True)
    assert needs[0] > 25 and needs[2] < 25
    lora = load_recipe(
        "7b-336", [always, "stages.finetune.lora.rank=64", "stages.finetune.train=[projector, llm]"]
    )
    assert estimates.memory_gib(shape, lora.stage("finetune"), 1, 8) < needs[2]


def test_stage_one_takes_about_as_long_as_llava_says() -> None:
    """README: 3.5 h (7B) and 5.5 h (13B) on 8 A100."""
    for name, published in (("7b-336", 3.5), ("13b-336", 5.5)):
        plan = make_plan(load_recipe(name), EIGHT, run="r", data="nowhere")
        found = plan.stage("pretrain").hours
        assert found is not None and 0.7 * published < found < 1.4 * published
