"""``viscot data`` from the outside: what is printed, which files appear, which code comes back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from web_server import serving

from viscot_core.data.benchmarks.synth import write_benchmark
from viscot_core.tasks.benchmarks.task import Benchmarks

Cli = Callable[..., Any]


@pytest.fixture
def synth(cli: Cli, tmp_path: Path) -> Path:
    root = tmp_path / "synth"
    assert cli("data", "synth", "--out", root, "--train", 12, "--val", 4, "--seed", 3).code == 0
    return root


def test_list_names_every_source_with_its_state(cli: Cli, tmp_path: Path) -> None:
    ran = cli("data", "list", "--data", tmp_path, "--json")
    rows = {row["name"]: row for row in map(json.loads, ran.out.splitlines())}
    assert rows["cot-images"]["purposes"] == ["finetune", "bench"]
    assert rows["docvqa"]["gate"].startswith("register") and rows["docvqa"]["state"] == "absent"
    (tmp_path / "cot/docvqa").mkdir(parents=True)
    (tmp_path / "cot/docvqa/a.png").touch()
    assert len(rows["cub"]["downloads"]) == 1 and rows["cub"]["downloads"][0]["url"].startswith("https://")
    table = cli("data", "list", "--data", tmp_path).out
    assert "sroie (into cot/sroie): register at" in table
    assert next(line for line in table.splitlines() if line.startswith("docvqa")).count("complete") == 1


def test_list_says_all_there_is_to_know_of_a_source(cli: Cli, tmp_path: Path) -> None:
    ran = cli("data", "list", "cot-images", "--data", tmp_path)
    assert "13 parts" in ran.out and "license: Apache-2.0" in ran.out
    assert "note: some images are not included" in ran.out
    ran = cli("data", "list", "cot-image", "--data", tmp_path)
    assert ran.code == 2 and "Did you mean 'cot-images'" in ran.err


def test_a_benchmark_comes_from_the_hub_and_is_asked(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole command, against a loopback hub; its questions are those of the made files."""
    write_benchmark(tmp_path / "made", "vstar", count=4)
    write_benchmark(tmp_path / "made", "treebench", count=2)
    made, root = tmp_path / "made/bench", tmp_path / "data"
    with serving() as hub:
        for path in (made / "vstar").rglob("*.*"):
            hub.files[f"craigwu/vstar_bench/{path.relative_to(made / 'vstar')}"] = path.read_bytes()
        (table,) = (made / "treebench").glob("*.tsv")
        hub.files["HaochenWang/TreeBench/TreeBench.tsv"] = table.read_bytes()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        command = ("data", "fetch", "--for", "bench:vstar,treebench", "--data", root, "--yes")
        ran = cli(*command)
        assert ran.code == 0, ran.err
        assert f"3 downloads done. 'viscot bench run vstar,treebench --data {root}'" in ran.err
        assert "the size of 3 of them is not known before" in ran.err
        assert "Nothing to download" in cli(*command).err
    names = ("vstar", "treebench")
    questions = [item.question for item in Benchmarks(root, names).load().items]
    assert questions == [item.question for item in Benchmarks(tmp_path / "made", names).load().items]
    assert "bench:vstar" in cli("data", "list", "--data", root).out


def test_fetch_prints_its_plan_first(cli: Cli, tmp_path: Path) -> None:
    ran = cli("data", "fetch", "--for", "bench:docvqa,gqa", "--data", tmp_path / "d", "--dry-run")
    assert ran.code == 0 and not (tmp_path / "d").exists()
    assert "benchmark: docvqa, gqa" in ran.out and "cub" not in ran.out
    assert "138.8 GB" in ran.out and "of disk space" in ran.err


def test_fetch_says_where_less_would_do(cli: Cli, tmp_path: Path) -> None:
    def said(*wishes: str) -> str:
        words = [word for wish in wishes for word in ("--for", wish)]
        return str(cli("data", "fetch", *words, "--data", tmp_path / "d", "--dry-run").err)

    assert "1.2 GB with --for benchmark:cub --for cub" in said("bench:cub")
    assert "138.8 GB" not in said("benchmark:cub", "cub")
    for wishes in (("bench:cub,gqa",), ("bench",), ("bench:cub", "finetune")):  # no source of its own, or all
        assert "alone" not in said(*wishes)


def test_fetch_wants_a_purpose(cli: Cli, tmp_path: Path) -> None:
    ran = cli("data", "fetch", "--data", tmp_path)
    assert ran.code == 2 and "Choose what to fetch" in ran.err
    ran = cli("data", "fetch", "--for", "benh", "--data", tmp_path)
    assert ran.code == 2 and "Did you mean" in ran.err


def test_a_gated_source_is_partly_done(cli: Cli, tmp_path: Path) -> None:
    ran = cli("data", "fetch", "--for", "sroie", "--data", tmp_path, "--yes")
    assert ran.code == 3 and "Get by hand: sroie; then 'viscot data organize" in ran.err
    assert "Nothing to download" in ran.err and "register at" in ran.out


def test_check_passes_a_made_root_and_fails_a_broken_one(cli: Cli, synth: Path, tmp_path: Path) -> None:
    ran = cli("data", "check", "--data", synth, "--decode")
    assert ran.code == 0 and "every image exists and matches its rows" in ran.err
    assert (synth / "report.jsonl").read_text() == ""
    victim = sorted((synth / "cot/synth/train").iterdir())[0]
    victim.rename(tmp_path / victim.name)
    ran = cli("data", "check", "--data", synth)
    assert ran.code == 1 and "cot/synth/train: " in ran.err
    missing = [json.loads(line) for line in (synth / "report.jsonl").read_text().splitlines()]
    assert {row["path"] for row in missing} == {f"cot/synth/train/{victim.name}"}
    ran = cli("data", "organize", "--from", tmp_path, "--data", synth)
    assert ran.code == 0 and "1 files placed" in ran.err
    assert cli("data", "check", "--data", synth).code == 0


def test_what_cannot_be_placed_is_partly_done(cli: Cli, synth: Path, tmp_path: Path) -> None:
    sorted((synth / "cot/synth/val").iterdir())[0].unlink()
    (tmp_path / "empty").mkdir()
    ran = cli("data", "organize", "--from", tmp_path / "empty", "--data", synth)
    assert ran.code == 3 and "1 files are still missing" in ran.err


def test_convert_mix_and_stats(cli: Cli, synth: Path, tmp_path: Path) -> None:
    cot, mixture = tmp_path / "cot.json", tmp_path / "mixture"
    ran = cli("data", "convert", synth / "metadata/synth_cot_train.jsonl", "--out", cot)
    assert ran.code == 0 and "12 rows in" in ran.err
    ran = cli("data", "mix", cot, synth / "pretrain.json", "--weight", "cot=2.5", "--out", mixture)
    assert ran.code == 0 and (mixture / "rows.jsonl").exists()
    assert next(line for line in ran.out.splitlines() if line.startswith("cot")).split() == [
        "cot",
        "12",
        "2.5",
        "30",
        "0",
    ]
    assert cli("data", "mix", cot, "--out", mixture).code == 2
    assert cli("data", "mix", cot, "--out", mixture, "--weight", "cot").code == 2
    ran = cli("data", "stats", cot, synth / "benchmark/synth.json", "--json")
    first, second = map(json.loads, ran.out.splitlines())
    assert first["rows"] == 12 and first["data_sets"] == {"synth": 12} and sum(first["area_counts"]) == 12
    assert second["pictures"] == 4
    ran = cli("data", "stats", cot, synth / "metadata/synth_cot_train.jsonl", synth / "benchmark/synth.json")
    assert ran.code == 0 and "share" in ran.out


def test_stats_have_the_papers_sizes_beside_training_data(cli: Cli, synth: Path, tmp_path: Path) -> None:
    rows = (synth / "metadata/synth_cot_train.jsonl").read_text()
    (tmp_path / "docvqa_cot_train.jsonl").write_text(rows.replace("synth", "docvqa"))
    ran = cli("data", "stats", tmp_path / "docvqa_cot_train.jsonl")
    assert ran.code == 0 and "paper's Table 2" in ran.out and "33k" in ran.out
    assert "Table 2" not in cli("data", "stats", synth / "metadata/synth_cot_train.jsonl").out


def test_shared_images_are_counted(cli: Cli, synth: Path, tmp_path: Path) -> None:
    leak = tmp_path / "leak.json"
    leak.write_text((synth / "benchmark/synth.json").read_text())
    ran = cli("data", "stats", leak, synth / "benchmark/synth.json")
    assert any(line.split()[-3:] == ["4", "4", "4"] for line in ran.out.splitlines())
    ran = cli("data", "stats", synth / "train.json", synth / "benchmark/synth.json")
    assert "No image is in both a training file and a benchmark file." in ran.out


@pytest.mark.parametrize(
    ("where", "which"),
    [
        *((".", "synth:2"), (".", "train:0"), ("train.json", "1"), ("metadata/synth_cot_train.jsonl", "3")),
        *((".", "refcoco_synth_val:3"), ("benchmark_det/synth.jsonl", "1")),
    ],
)
def test_show_draws_a_sample(cli: Cli, synth: Path, tmp_path: Path, where: str, which: str) -> None:
    ran = cli("data", "show", synth / where, which, "--save", tmp_path / "sample.png")
    assert ran.code == 0
    assert "USER: <image>" in ran.out and "\u00ab [" in ran.out and "</s>\u00bb" in ran.out
    with Image.open(tmp_path / "sample.png") as sheet:
        assert sheet.width > 200


@pytest.mark.parametrize(
    ("where", "which", "says"),
    [
        (".", "synt:2", "Did you mean 'synth'"),
        (".", "2", "write NAME:2, such as cub:2"),
        (".", "synth:two", "is not a sample"),
        ("train.json", "99999", "has no row 99999; the first row is 0"),
        ("none", "2", "does not exist"),
        ("scenes.jsonl", "2", "contains no rows that viscot knows"),
    ],
)
def test_show_says_what_is_there_instead(cli: Cli, synth: Path, where: str, which: str, says: str) -> None:
    ran = cli("data", "show", synth / where, which)
    assert ran.code in (1, 2) and says in ran.err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["mix", "tiny", "--out", "m"], 2, "a recipe's name needs its data root as --data"),
        (["mix", "none.json", "--out", "m"], 1, "none.json cannot be read"),
        (["mix", "train.json", "--out", "m", "--template", "tinny"], 2, "Did you mean 'tiny'"),
        (["mix", "train.json", "--out", "m", "--template", "tiny"], 2, "--template only matters for"),
        (["mix", "train.json", "--out", "m", "--workers", "2"], 2, "pass --tokenizer"),
        (["stats", "train.json", "--template", "tiny"], 2, "--template only matters for"),
        (["mix", "train.json", "--out", "m", "--tokenizer", "viscot-tny"], 1, "Did you mean"),
        (["mix", "train.json", "--out", "m", "--weight", "train=-1"], 2, "give a number above 0"),
        (["show", ".", "synth:2", "--save", "s.doc"], 2, "images are saved as .png or .jpg"),
        (["show", ".", "synth:2", "--template", "no"], 2, "There is no template 'no'"),
        (["stats", "cot"], 1, "cannot be read"),
        (["convert", "train.json", "--out", "c.json"], 1, "field 'question' is missing"),
        (["check", "--data", ".", "--for", "bech"], 2, "Did you mean 'bench'"),
        (["organize", "--from", "none", "--data", "."], 2, "is not a folder"),
        (["fetch", "--for", "cub:x", "--data", "."], 2, "There is no data set 'x' in these sources"),
    ],
)
def test_what_is_asked_wrongly_leaves_nothing(
    cli: Cli, synth: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, says: str
) -> None:
    monkeypatch.chdir(synth)
    before = sorted(synth.iterdir())
    ran = cli("data", *words)
    assert ran.code == code and says in ran.err and ran.err.count("Error: ") == 1
    assert sorted(synth.iterdir()) == before


def test_bad_rows_are_named_and_may_be_left_out(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "q"}\n')
    ran = cli("data", "convert", path, "--out", tmp_path / "out.json")
    assert ran.code == 1 and "rows.jsonl:1: field 'answer' is missing" in ran.err
    ran = cli("data", "convert", path, "--out", tmp_path / "out.json", "--skip-bad", 1)
    assert ran.code == 0 and "skipped: " in ran.err and json.loads((tmp_path / "out.json").read_text()) == []
