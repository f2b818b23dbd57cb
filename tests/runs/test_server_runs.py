"""A benchmark against a server: faults of one request, addresses and their keys, the user's own fields."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_server import Action, JudgeServer, completion, error
from made_bench import tasks_of_srun, write_root
from made_server import bench, two_turns
from PIL import Image

from viscot_core.boxes.registry import codec
from viscot_core.engines.open import EngineOptions, open_engine
from viscot_core.errors import UsageError
from viscot_core.openai_api import waiting
from viscot_core.openai_api.options import ApiOptions, ImageForm, extra_body_of
from viscot_core.runs.records import RunInfo, read_predictions, read_run

Cli = Callable[..., Any]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(waiting, "FIRST_WAIT", 0.01)
    return write_root(tmp_path / "data", count=4, images=2)


@pytest.mark.parametrize(
    "fault", [error(404, "no such image"), error(400, "too long"), error(404, "no such model")]
)
def test_one_refused_request_fails_its_item_only(root: Path, tmp_path: Path, fault: Action) -> None:
    good = two_turns()
    bad = lambda n, body: fault if "place 2" in str(body).lower() else good(n, body)  # noqa: E731
    with JudgeServer(bad) as server:
        info, tally = bench(server, root, tmp_path / "run", concurrency=1)
        assert (info.counts["done"], info.counts["failed"], tally.failed) == (3, 1, 1)


def test_a_refused_request_does_not_stop_the_next_call(root: Path, tmp_path: Path) -> None:
    """The item that failed comes first there: no other call has succeeded yet."""
    with JudgeServer(lambda *_: error(404, "image not found")) as server:
        info, _ = bench(server, root, tmp_path / "run", concurrency=1)
        assert (info.counts["done"], info.counts["failed"]) == (0, 4)


def test_an_image_mark_in_a_question_fails_its_item_only(root: Path, tmp_path: Path) -> None:
    """It was ``RuntimeError: generator raised StopIteration``, and the end of the run."""
    for file in (root / "benchmark" / "made.json", root / "benchmark_det" / "made.jsonl"):
        file.write_text(file.read_text().replace("at Place 2", "in <image>"))
    with JudgeServer(two_turns()) as server:
        info, _ = bench(server, root, tmp_path / "run")
    assert (info.counts["done"], info.counts["failed"]) == (3, 1)
    failed = [p.error or "" for p in read_predictions(tmp_path / "run") if not p.done]
    assert "2 <image> marks and 1 images" in failed[0]


WITHOUT_TORCH = """
import sys
from viscot_cli import app
code = app.main(sys.argv[1:])
print("LOADED", code, *({"torch", "transformers"} & set(sys.modules)))
"""


@pytest.mark.parametrize("command", ["bench", "infer"])
def test_a_server_is_asked_without_torch(root: Path, tmp_path: Path, command: str) -> None:
    """It takes seconds to load, and nothing runs on this machine."""
    with JudgeServer(two_turns()) as server:
        model = ("--model", f"{server.url}#made-up", "--box-format", "viscot")
        image = next(root.rglob("0.png"))
        words = {
            "bench": ("bench", "cot", "--data", root, "--out", tmp_path / "run", *model),
            "infer": ("infer", image, "What?", *model),
        }[command]
        argv = [sys.executable, "-c", WITHOUT_TORCH, *map(str, words)]
        ran = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "LOADED 0", ran.stdout + ran.stderr


def test_ranks_share_a_server_s_questions_on_a_machine_with_gpus(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank named its own GPU to a server, which has no use for it and refuses the option."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with JudgeServer(two_turns()) as server:
        for _ in tasks_of_srun(monkeypatch, 2):
            info, _ = bench(server, root, tmp_path / "run")
    assert info.counts["done"] == 4


SECRET = "sk-secret-0123456789"


@pytest.mark.parametrize("where", ["http://user:{}@{}/v1", "http://{}@{}/v1", "http://{1}/v1?key={0}"])
def test_a_key_in_the_address_is_written_nowhere(cli: Cli, root: Path, tmp_path: Path, where: str) -> None:
    replies = [error(400, f"your key {SECRET} may not do this"), completion("[0.1, 0.1, 0.5, 0.5]")]
    with JudgeServer(lambda number, _: replies[number > 0]) as server:
        host = server.url.removeprefix("http://").removesuffix("/v1")
        out = tmp_path / "run"
        command = ("bench", "cot", "--box-format", "viscot", "--data", root, "--out", out)
        ran = cli(*command, "--model", f"{where.format(SECRET, host)}#made-up", "--concurrency", "1")
        assert ran.code == 3 and "1 failed" in ran.err
        again = cli(*command, "--model", f"{server.url}#made-up")  # identity does not depend on it
        assert again.code == 0, again.err
        nameless = cli(*command, "--model", where.format(SECRET, host))
        assert nameless.code == 2
        judge = ("score", out, "--judge", "openai:j", "--base-url", where.format(SECRET, host))
        scored = cli(*judge)
        report = cli("stats", out, "--judge", "openai-j", "--html", tmp_path / "report.html")
    shown = [each.out + each.err for each in (ran, again, nameless, scored, report)]
    written = [path.read_text(errors="ignore") for path in tmp_path.rglob("*.[jh]*") if path.is_file()]
    assert not [text for text in (*shown, *written) if SECRET in text]
    assert all(head.split()[1].startswith("/v1/chat/completions") for head in server.headers)


def test_a_key_in_an_old_record_is_not_shown(tmp_path: Path) -> None:
    settings = {"engine": {"engine": "api", "url": f"http://user:{SECRET}@host/v1"}, "seed": 0}
    old = {"model": f"http://user:{SECRET}@host/v1#m", "settings": settings}
    (tmp_path / "run.json").write_text(json.dumps(old))
    info = read_run(tmp_path)
    assert info.model == "http://host/v1#m" and info.settings["engine"]["url"] == "http://host/v1"
    assert RunInfo(model="VisCoT-7b-336").model == "VisCoT-7b-336"


def test_a_server_s_version_is_on_record_and_its_template_is_not_claimed(
    cli: Cli, root: Path, tmp_path: Path
) -> None:
    """run.json said `vicuna_v1` of a served `tiny`; folders that say so go on."""
    out = tmp_path / "run"
    command = ("bench", "cot", "--box-format", "viscot", "--data", root, "--out", out, "--concurrency", "1")
    said = [completion("[0.1, 0.1, 0.5, 0.5]", fingerprint=f"vllm-0.32.{n}-ab") for n in (0, 1)]
    with JudgeServer(lambda number, _: said[number > 1]) as server:
        command += ("--model", f"{server.url}#m")
        assert cli(*command, "--max-requests", "2").code == 3
        info = read_run(out)
        assert info.settings["engine"]["template"] == "server"
        assert info.environment["server"] == "vllm-0.32.0-ab"
        info.settings["engine"]["template"] = "vicuna_v1"
        info.save(out)
        assert cli(*command).code == 0
        assert cli(*command).code == 0, "nothing is left to ask"
    assert read_run(out).environment["server"] == "vllm-0.32.0-ab, vllm-0.32.1-ab"


def test_the_same_server_under_another_address(cli: Cli, root: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ("bench", "cot", "--box-format", "viscot", "--data", root, "--out", out, "--concurrency", "1")
    with JudgeServer(two_turns()) as server:
        moved = server.url.replace("127.0.0.1", "localhost")
        assert cli(*command, "--model", f"{server.url}#m", "--max-requests", "2").code == 3
        refused = cli(*command, "--model", f"{moved}#m")
        assert refused.code == 2 and "--same-engine" in refused.err
        ran = cli(*command, "--model", f"{moved}#m", "--same-engine")
        assert ran.code == 0, ran.err
        assert read_run(out).settings["engine"]["url"] == server.url, "the record keeps its address"
        other = cli(*command, "--model", f"{moved}#other", "--same-engine")
        assert other.code == 2, "another model is another engine"
        judge = ("score", out, "--judge", "openai:j", "--base-url")
        cli(*judge, server.url)
        refused = cli(*judge, moved)
        assert refused.code == 2 and "--same-engine" in refused.err
        assert cli(*judge, moved, "--same-engine").code != 2


def test_the_users_fields_and_forms_of_images(root: Path, tmp_path: Path) -> None:
    form = ImageForm("jpeg", 80, max_side=64)
    fields = {"chat_template_kwargs": {"enable_thinking": False}, "max_tokens": 999}
    with JudgeServer(two_turns()) as server:
        info, _ = bench(server, root, tmp_path / "run", extra_body=fields, images=form)
        with pytest.raises(UsageError, match=r"engine\.extra_body"):
            bench(server, root, tmp_path / "run", strategies=("direct",), images=form)
    body = server.requests[0]
    assert body["chat_template_kwargs"] == {"enable_thinking": False} and body["max_tokens"] == 999
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    assert url.startswith("data:image/jpeg;base64,")
    image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    assert image.format == "JPEG" and max(image.size) == 64
    assert info.settings["engine"]["image_format"] == "jpeg 80"


def test_a_smaller_image_would_change_what_pixels_mean() -> None:
    api = ApiOptions(images=ImageForm(max_side=500))
    with pytest.raises(UsageError, match="counts pixels"):
        open_engine(EngineOptions("http://127.0.0.1:1/v1#m", api=api), codec=codec("pixels"))
    with pytest.raises(UsageError, match="are for a server"):
        open_engine(EngineOptions(None, api=api))


@pytest.mark.parametrize("text", ["{", "[]", "1", '{"model": "x"}', '{"stream": true}'])
def test_fields_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError, match="--extra-body"):
        ApiOptions(extra_body=extra_body_of(text))


@pytest.mark.parametrize("url", ["http://", "http://host:port/v1", "http://[::1/v1"])
def test_an_address_that_cannot_be(url: str) -> None:
    with pytest.raises(UsageError, match="address"):
        open_engine(EngineOptions(f"{url}#m", box_format="viscot"))


def test_of_several_boxes_the_first_counts_and_stats_say_so(cli: Cli, root: Path, tmp_path: Path) -> None:
    said = "[[100, 100, 500, 500]] or [[200, 200, 300, 300]]"
    with JudgeServer(two_turns(box=said)) as server:
        bench(server, root, tmp_path / "run", box_format="internvl")
    first = read_predictions(tmp_path / "run")[0]
    assert (first.box_status, first.boxes) == ("repaired", 2)
    assert "cot: 4 replies name several boxes; the first counts" in cli("stats", tmp_path / "run").out
