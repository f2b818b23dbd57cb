"""What would stop a run is found before it starts, once, and told alike everywhere."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_lines import commands, parse_viscot
from made_tile_families import make_idefics
from made_training import golden_recipe

from viscot_core.data.mix import build
from viscot_core.data.mixture import MixtureSource
from viscot_core.data.synth import write_dataset
from viscot_core.errors import DataError
from viscot_core.families.generic.backbones import BACKBONES
from viscot_core.sources.catalog import load_catalog, select
from viscot_core.train.job import launch
from viscot_core.train.plan.make_plan import make_plan
from viscot_core.train.plan.plan_types import Machine
from viscot_core.train.plan.problems import lack_of_room
from viscot_core.train.recipe.load import load_recipe

KINDS = ("pretrain", "finetune")


def test_no_room_is_told_at_second_0(tmp_path: Path) -> None:
    assert not [*lack_of_room(tmp_path / "new" / "deep", 0.0)]
    (told,) = lack_of_room(tmp_path / "new", 1e9)
    assert "GiB free and the run needs about 1e+09" in told
    (tmp_path / "run").mkdir()
    with (tmp_path / "run/held").open("wb") as file:
        file.truncate(2**32)
    os.link(tmp_path / "run/held", tmp_path / "run/again")  # a second name of it takes no room
    free = shutil.disk_usage(tmp_path).free / 2**30
    assert not [*lack_of_room(tmp_path / "run", free + 3)]
    assert "GiB free" in next(lack_of_room(tmp_path / "run", free + 6))
    assert "is a file" in next(lack_of_room(tmp_path / "run/held", 0.0))


def test_a_run_that_can_start_has_no_error(shared: Path, tmp_path: Path) -> None:
    golden = shared / "golden"
    recipe = golden_recipe(golden)
    plan = make_plan(recipe, Machine(), run=tmp_path / "run", data=golden)
    assert not plan.refusals
    assert not (tmp_path / "run").exists(), "a plan writes nothing"


@pytest.mark.parametrize("name", ["7b-336", "qwen3-vl-8b", "tiny", "tiny-dpo"])
def test_rows_that_are_not_there_name_the_command_that_brings_them(name: str, tmp_path: Path) -> None:
    root = tmp_path / "my data"
    plan = make_plan(load_recipe(name), Machine(gpus=8), run=tmp_path / "run", data=root)
    told = [text for text in plan.refusals if "under the data root" in text]
    assert told
    for text in told:
        line = re.search(r"get it with '(viscot data \w+ .*)', or give", text)
        assert line and f"'{root}" in line[1], text
        (words,) = commands(line[1])
        parse_viscot(words)
        if words[2] == "fetch":
            wanted = select(load_catalog(), [words[words.index("--for") + 1]])
            brought = {Path(download.to).name for one in wanted for download in one.downloads}
            assert brought & {"blip_laion_cc_sbu_558k.json", "viscot_mixed_2m.json", "viscot_363k.json"}, text


def test_a_benchmark_that_is_not_there_is_told_at_second_0(tmp_path: Path) -> None:
    """It was told when the model was loaded and the run folder written."""
    recipe = load_recipe("tiny-dpo", ["stages.dpo.eval.bench=refcoco"])
    told = make_plan(recipe, Machine(), run=tmp_path / "run", data=tmp_path).refusals
    assert any("eval.bench" in text and "no refcoco/REC_*.jsonl" in text for text in told), told
    (tmp_path / "refcoco").mkdir()
    (tmp_path / "refcoco/REC_made_val.jsonl").write_text("")
    told = make_plan(recipe, Machine(), run=tmp_path / "run", data=tmp_path).refusals
    assert not any("eval.bench" in text for text in told)


@pytest.fixture(scope="module")
def other_family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_idefics(tmp_path_factory.mktemp("other") / "idefics3")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"id": "1", "conversations": turns}] * 4))
    return path


def test_dry_run_slurm_and_run_refuse_with_one_sentence(
    cli: Callable[..., Any], other_family: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that cannot be trained: the plan was printed with exit 0, and the run refused."""
    monkeypatch.setitem(BACKBONES, "idefics3", replace(BACKBONES["idefics3"], trains=False))  # type: ignore[arg-type]
    sets = {
        "model.checkpoint": other_family, "model.base_llm": "null", "model.vision_tower": "null",
        "model.projector": "null", "stages.finetune.zero_stage": 0, "stages.finetune.global_batch_size": 4,
    }  # fmt: skip
    argv = ["finetune", "--recipe", "7b-336", "--data", rows, "--out", tmp_path / "run", "--gpus", "0"]
    argv += [word for name, value in sets.items() for word in ("--set", f"{name}={value}")]
    told = f"model.checkpoint: {other_family} is of the family 'idefics3' (Idefics3ForConditionalGeneration)"
    dry = cli(*argv, "--dry-run")
    assert dry.code == 2
    (sentence,) = [line for line in dry.out.splitlines() if line.startswith("would refuse to start: ")]
    sentence = sentence.removeprefix("would refuse to start: ")
    assert sentence.startswith(told) and "cannot train yet" in sentence
    for extra, code in (("print", 2), ("submit", 2)):
        ran = cli(*argv, "--slurm", extra)
        assert ran.code == code and f"would refuse to start: {sentence}" in ran.err.splitlines()
    ran = cli(*argv)
    assert ran.code == 1 and sentence in ran.err
    assert not (tmp_path / "run").exists() and not (tmp_path / "run.sbatch").exists()


def test_a_judge_without_its_key_or_folder_is_named_before_the_run(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe is checked and shown without either: another machine may have them."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    recipe = yaml.safe_load(cli("recipes", "show", "tiny-grpo").out)
    judges = {"answer:openai:gpt-4o-mini": 1.0, f"answer:hf:{tmp_path}/none": 0.5}
    recipe["stages"][0]["reinforce"]["rewards"] = judges
    (tmp_path / "judged.yaml").write_text(yaml.safe_dump(recipe))
    checked = cli("recipes", "check", tmp_path / "judged.yaml")
    assert checked.code == 0, checked.err
    argv = ["reinforce", "--recipe", tmp_path / "judged.yaml", "--data", tmp_path, "--out", tmp_path / "run"]
    dry = cli(*argv, "--gpus", "0", "--dry-run")
    assert dry.code == 2
    where = "would refuse to start: stages.grpo.reinforce.rewards.answer:"
    told = [line for line in dry.out.splitlines() if line.startswith(where)]
    assert sorted(told, reverse=True) == [
        f"{where}openai:gpt-4o-mini: OPENAI_API_KEY is not set; export your key, or name a server of your "
        "own.",
        f"{where}hf:{tmp_path}/none: {tmp_path}/none does not exist; give a folder or a hub name.",
    ]
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    assert "OPENAI_API_KEY" not in cli(*argv, "--gpus", "0", "--dry-run").out


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, shared: Path, tmp_path: Path) -> None:
    golden = shared / "golden"
    recipe = golden_recipe(golden, zero_stage=2).model_copy(update={"report_to": ("wandb",)})
    monkeypatch.setenv("WANDB_API_KEY", "x")
    monkeypatch.setattr("viscot_core.train.plan.problems.find_spec", lambda name: name != "deepspeed" or None)
    plan = make_plan(recipe, Machine(), run=tmp_path / "run", data=golden)
    assert plan.refusals == ("deepspeed missing; get it with: pip install 'viscot[train]'",)
    with pytest.raises(DataError, match="Training cannot start:\n  deepspeed missing"):
        launch.prepare(recipe, Machine(), run=tmp_path / "run", data=golden, images=golden)


def test_a_tracker_that_is_not_installed_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, shared: Path, tmp_path: Path
) -> None:
    recipe = golden_recipe(shared / "golden").model_copy(update={"report_to": ("trackio", "tensorboard")})
    monkeypatch.setattr("viscot_core.train.plan.problems.find_spec", lambda name: name != "trackio" or None)
    plan = make_plan(recipe, Machine(), run=tmp_path / "run", data=shared / "golden")
    assert plan.refusals == ("trackio missing; get it with: pip install 'viscot[trackio]'",)


def test_files_without_rows_train_nothing(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("[]")
    (tmp_path / "pretrain.json").write_text("[]")
    plan = make_plan(load_recipe("tiny"), Machine(), run=tmp_path / "run", data=tmp_path)
    files = {"foundation": "train", "pretrain": "pretrain", "finetune": "train"}
    assert plan.refusals == tuple(
        f"stages.{kind}: {tmp_path / name}.json contains no rows; check that it is the right file."
        for kind, name in files.items()
    )
    write_dataset(tmp_path / "data", train=2, val=0, seed=7)
    build(tmp_path / "data/train.json.d", [MixtureSource("few", str(tmp_path / "data/train.json"), 0.001)])
    recipe = load_recipe("tiny", ["stages.finetune.files=[train.json.d]"])
    plan = make_plan(recipe, Machine(), run=tmp_path / "run", data=tmp_path / "data")
    told = "stages.finetune would train nothing: its files hold no row; give more data."
    assert plan.refusals == (told,)


@pytest.mark.slow
def test_few_rows_are_repeated_as_the_plan_says(tmp_path: Path, cli: Callable[..., Any]) -> None:
    """README's own data, README's own command: 40 captions are fewer than the recipe's batch of 64."""
    data, run = tmp_path / "data", tmp_path / "run"
    write_dataset(data, train=40, val=1, seed=7)
    argv = ["train", "--recipe", "tiny", "--data", data, "--out", run, "--gpus", "0"]
    shape = ("image_side=28", "vision_width=16", "vision_layers=1", "vision_heads=2", "vision_mlp=16")
    shape += ("llm_width=16", "llm_layers=1", "llm_heads=2", "llm_mlp=16", "vocab_size=300")
    sets = [f"model.scratch.{field}" for field in shape] + ["report_to=[]"]
    for kind in ("foundation", *KINDS):
        sets += [f"stages.{kind}.{field}" for field in ("max_steps=2", "compile=false", "workers=0")]
    argv += [word for field in sets for word in ("--set", field)]
    repeated = "stages.pretrain: 40 rows do not fill a batch of 64, rows are repeated"
    dry = cli(*argv, "--dry-run")
    assert dry.code == 0 and f"warning: {repeated}" in dry.out
    ran = cli(*argv)
    assert ran.code == 0 and repeated in ran.err
    assert (run / "model.safetensors").exists()
