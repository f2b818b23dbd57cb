"""Checkpoints go to the hub whole, with a card and without anything of this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_push_hub import PushHub, serving

from viscot_core.models.card import MARK, card
from viscot_core.models.zoo import resolve


@pytest.fixture
def hub() -> Iterator[PushHub]:
    with serving(PushHub()) as found:
        yield found


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run: the model, and beside it what is nobody else's business."""
    folder = tmp_path / "run"
    shutil.copytree(resolve(None), folder)
    (folder / "recipe.yaml").write_text(
        "name: mine\nmodel: {checkpoint: /home/ann/models/base, base_llm: lmsys/vicuna-7b-v1.5}\n"
        "data: {root: /home/ann/data, images: null}\nseed: 3\n"
    )
    (folder / "plan.json").write_text('{"run": "/home/ann/run"}')
    stage = folder / "stages/1-finetune"
    stage.mkdir(parents=True)
    (stage / "log.jsonl").write_text("{}\n")
    line = {"step": 8, "eval_loss": 0.5, "eval_rows": 80, "eval_answers": 0.9, "eval_answers_of": 80}
    line |= {"eval_answers_low": 0.81, "eval_answers_high": 0.95}
    (stage / "evaluations.jsonl").write_text(json.dumps({"step": 0}) + "\n" + json.dumps(line) + "\n")
    return folder


def push(hub: PushHub, folder: Path, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: the hub's address is read once, at import."""
    return subprocess.run(
        [sys.executable, "-m", "viscot_cli.app", "models", "push", "me/model", str(folder), *more],
        env=hub.environment | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.slow
def test_a_run_is_pushed_whole_with_a_card_and_nothing_else(hub: PushHub, run: Path) -> None:
    ran = push(hub, run)
    assert ran.returncode == 0, ran.stderr
    assert (hub.commits, hub.created["visibility"]) == (1, "private")
    model = resolve(None)
    weights = hub.files["model.safetensors"]
    assert weights == (model / "model.safetensors").read_bytes()
    assert {"config.json", "viscot.json", "tokenizer.json", "README.md"} <= set(hub.files)
    assert not {"recipe.yaml", "plan.json", "log.jsonl"} & {Path(name).name for name in hub.files}
    everything = b"".join(content for name, content in hub.files.items() if name != "model.safetensors")
    for private in (hub.token.encode(), b"/home/ann", str(run.parent).encode()):
        assert private not in everything
    assert hub.token not in ran.stdout + ran.stderr
    assert ran.stdout.strip() == f"{hub.url}/me/model"


@pytest.mark.slow
def test_a_card_that_somebody_wrote_stays(hub: PushHub, run: Path) -> None:
    hub.card = "# My own words\n"
    ran = push(hub, run, "--public")
    assert ran.returncode == 0, ran.stderr
    assert "README.md" not in hub.files and "card of its own" in ran.stderr
    assert hub.created["visibility"] == "public"


@pytest.mark.slow
def test_a_refusal_is_one_sentence_without_the_token(hub: PushHub, run: Path) -> None:
    hub.status = 403
    ran = push(hub, run)
    assert ran.returncode == 1 and "me/model could not be pushed" in ran.stderr
    assert len(ran.stderr.strip().splitlines()) <= 3 and hub.token not in ran.stderr
    wrong = push(hub, run, HF_TOKEN="hf_" + "b" * 30)
    assert wrong.returncode == 1 and "could not be pushed" in wrong.stderr and not hub.files


@pytest.mark.slow
def test_an_adapter_takes_the_base_in_its_folder_along_and_no_folder_s_name(
    hub: PushHub, tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    (adapter / "viscot-base").mkdir(parents=True)
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "viscot-base", "r": 8}')
    (adapter / "adapter_model.bin").write_bytes(b"weights")
    config = {"_name_or_path": f"{tmp_path}/vicuna-7b-v1.5", "mm_vision_tower": "/home/ann/clip", "depth": 2}
    (adapter / "viscot-base/config.json").write_text(json.dumps(config))
    (adapter / "viscot-base/mm_projector.bin").write_bytes(b"projector")
    (adapter / "viscot-base/notes.txt").write_text("mine")
    ran = push(hub, adapter)
    assert ran.returncode == 0, ran.stderr
    assert set(hub.files) == {
        *("README.md", "adapter_config.json", "adapter_model.bin"),
        *("viscot-base/config.json", "viscot-base/mm_projector.bin"),
    }
    there = json.loads(hub.files["viscot-base/config.json"])
    assert there == {"_name_or_path": "vicuna-7b-v1.5", "mm_vision_tower": "clip", "depth": 2}
    assert "a folder of this machine" in ran.stderr


@pytest.mark.slow
def test_a_refused_upload_does_not_show_its_signed_address(hub: PushHub, run: Path) -> None:
    hub.upload_status = 403
    ran = push(hub, run)
    assert ran.returncode == 1 and "me/model could not be pushed" in ran.stderr
    assert hub.signature not in ran.stdout + ran.stderr
    assert hub.commits == 0


@pytest.mark.slow
def test_a_card_that_is_no_yaml_stays_and_a_page_is_no_hub(hub: PushHub, run: Path) -> None:
    hub.card = "---\n- a\n: [\n---\nmine\n"
    ran = push(hub, run)
    assert ran.returncode == 0 and "card of its own" in ran.stderr, ran.stderr
    hub.page = b"<html>"
    ran = push(hub, run)
    assert ran.returncode == 1 and "me/model could not be pushed" in ran.stderr, ran.stderr


def test_a_checkpoint_of_pickles_takes_its_weights_along(tmp_path: Path) -> None:
    from viscot_core.models.push import _files

    for name in ("config.json", "pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"):
        (tmp_path / name).write_text("{}")
    assert len(_files(tmp_path)) == 3
    (tmp_path / "model.safetensors").write_text("")
    assert [path.name for path in _files(tmp_path)] == ["config.json", "model.safetensors"], "each once"


@pytest.mark.slow
def test_without_a_token_or_with_another_name_nothing_is_asked(
    hub: PushHub, run: Path, tmp_path: Path
) -> None:
    ran = push(hub, run, HF_TOKEN="", HF_HOME=str(tmp_path / "home"))
    assert ran.returncode == 2 and "set HF_TOKEN to a token that may write" in ran.stderr
    assert not hub.created


def test_an_unfinished_model_is_not_pushed(tmp_path: Path) -> None:
    from viscot_core.errors import CheckpointError
    from viscot_core.models.push import push as upload

    with pytest.raises(CheckpointError):
        upload("me/model", tmp_path)


@pytest.mark.parametrize("name", ["model", "me/", "me/model/x", "../model", "me/.hidden"])
def test_a_name_that_is_not_the_hub_s_is_refused(name: str) -> None:
    from viscot_core.errors import UsageError
    from viscot_core.models.push import require_pushable

    with pytest.raises(UsageError, match="write ORG/NAME"):
        require_pushable(name)


def test_the_card_says_how_it_was_trained_and_measured(run: Path) -> None:
    text = card("me/model", run)
    assert MARK in text and "base_model:\n- lmsys/vicuna-7b-v1.5" in text
    assert "| answers right | 0.900 | 0.810 - 0.950 | 80 questions |" in text
    assert "checkpoint: base" in text and "root: data" in text and "/home" not in text


@pytest.mark.slow
def test_training_pushes_what_it_made(hub: PushHub, tmp_path: Path) -> None:
    from made_job import evaluated, held_out_data

    from viscot_core.train.recipe.load import dump_recipe

    data = held_out_data(tmp_path / "data", train=6, held_out=4)
    recipe = tmp_path / "recipe.yaml"
    spec = {"file": "held_out.jsonl", "questions": 2}
    recipe.write_text(dump_recipe(evaluated(data, max_steps=1, eval=spec)))
    argv = ["finetune", "--recipe", str(recipe), "--data", str(data), "--gpus", "0"]
    argv += ["--out", str(tmp_path / "run"), "--push-to-hub", "me/model"]
    ran = subprocess.run(
        [sys.executable, "-m", "viscot_cli.app", *argv],
        env=hub.environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr
    assert hub.files["model.safetensors"] == (tmp_path / "run/model.safetensors").read_bytes()
    said = hub.files["README.md"].decode()
    assert "| answers right |" in said and str(tmp_path) not in said
