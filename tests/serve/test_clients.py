"""viscot's own clients against ``viscot serve``: the answers are the local engine's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_bench import write_root
from serve_help import Looker, Running, running

Cli = Callable[..., Any]
LENGTH = ("--max-new-tokens", "12")


@pytest.fixture(scope="module")
def model(repo: Path) -> Path:
    return repo / "tests" / "golden" / "tiny_llava"


@pytest.fixture(scope="module")
def here(model: Path) -> Iterator[Running]:
    from viscot_core.engines.transformers.engine import LocalEngine
    from viscot_core.models.load import load_model

    with running(LocalEngine(load_model(model), batch_size=8)) as server:
        yield server


@pytest.fixture(autouse=True)
def no_kept_replies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VISCOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def test_infer_answers_as_the_local_model(cli: Cli, here: Running, model: Path, golden: Path) -> None:
    image = golden / "images" / "landscape.jpg"
    records = []
    for name in (str(model), f"{here.url}/v1#viscot"):
        for way in ((), ("--direct",)):
            ran = cli("infer", image, "What is on the sign?", "--model", name, "--json", *LENGTH, *way)
            assert ran.code == 0, ran.err
            row = json.loads(ran.out)
            records.append(
                {key: row[key] for key in ("answer", "box", "box_text", "box_status", "crop", "strategy")}
            )
    assert records[2:] == records[:2]


def test_a_model_of_another_family_is_asked_and_read_in_its_own_format(cli: Cli, golden: Path) -> None:
    """Known by its name, or given with --box-format; without either, the user is asked for it."""
    image = golden / "images" / "landscape.jpg"
    for name, options in (
        ("Qwen2-VL-7B", ()),
        ("some-model", ("--box-format", "qwen2-vl")),
    ):
        engine = Looker(name=name, box="(250,500),(500,1000)")
        with running(engine) as server:
            address = f"{server.url}/v1#{name}"
            ran = cli("infer", image, "What is on the sign?", "--model", address, "--json", *options)
        assert ran.code == 0, ran.err
        row = json.loads(ran.out)
        assert (row["box_status"], row["box_text"]) == ("ok", "(250,500),(500,1000)")
        assert row["box_pixels"] == [160.0, 213.5, 320.0, 427.0] and row["strategy"] == "cot"
        first, second = engine.prompts
        assert "in the form (x1,y1),(x2,y2)" in first and "(250,500),(500,1000)" in second
    for command in ("infer", "chat"):
        words = (image, "What?") if command == "infer" else (image,)
        ran = cli(command, *words, "--model", "http://127.0.0.1:1/v1#some-model")
        assert ran.code == 2 and "give --box-format" in ran.err
        ran = cli(command, *words, "--box-format", "qwen2vl")
        assert ran.code == 2 and "Did you mean 'qwen2-vl'" in ran.err


def test_a_benchmark_over_http_has_the_local_predictions(
    cli: Cli, here: Running, model: Path, tmp_path: Path
) -> None:
    root = write_root(tmp_path / "data", count=4, images=2)
    predictions = []
    for number, name in enumerate((str(model), f"{here.url}/v1#viscot")):
        out = tmp_path / str(number)
        # The tiny model seldom ends by itself: its cut answers must be the same ones.
        strategies = ("--strategy", "cot,direct,gt-box,no-image", "--max-truncated", "1")
        ran = cli("bench", "cot", "--model", name, "--data", root, "--out", out, *LENGTH, *strategies)
        assert ran.code == 0, ran.err
        rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
        key = ("strategy", "question_id")
        shown = ("answer", "box_text", "box", "crop", "status")
        predictions.append({tuple(r[k] for k in key): [(r[k] or "") for k in shown] for r in rows})
    assert len(predictions[0]) == 16
    for found in predictions:  # the client strips a reply's ends, the local engine does not
        for row in found.values():
            row[0], row[1] = row[0].strip(), row[1].strip()
    assert predictions[0] == predictions[1]
    assert here.metric("viscot_batch_prompts_sum") >= 16
