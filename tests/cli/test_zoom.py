"""The zoom loop from the command line: a server that plays each dialect's talk, a model of this machine."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_server import Action, JudgeServer, completion
from made_bench import write_root
from PIL import Image
from zoom_talks import TALKS, VIEW

from viscot_core.conversation import split_calls
from viscot_core.data.traces.trace import read_traces, trace_in
from viscot_core.runs.records import read_predictions

Cli = Callable[..., Any]


def plays(name: str) -> Callable[[int, dict[str, Any]], Action]:
    """A server that says the next words of a dialect's talk; a server of tools sends calls apart."""

    def script(_: int, body: dict[str, Any]) -> Action:
        said = TALKS[name][0][sum(message["role"] == "assistant" for message in body["messages"])]
        words, calls = split_calls(said)
        if not calls:
            return completion(said)
        sent = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
        message = {"role": "assistant", "content": words or None, "tool_calls": sent}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        usage = {"prompt_tokens": 9, "completion_tokens": 6}
        return Action(body=json.dumps({"choices": [choice], "usage": usage}).encode())

    return script


@pytest.fixture
def image(tmp_path: Path) -> Path:
    VIEW.image.save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


FAST = ("qwen3-vl", "openai-tools")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in TALKS]
)
def test_infer_asks_a_server_in_every_dialect(cli: Cli, image: Path, tmp_path: Path, name: str) -> None:
    _, text, windows, sizes = TALKS[name]
    trace, drawn = tmp_path / "trace.jsonl", tmp_path / "steps.png"
    with JudgeServer(plays(name)) as server:
        ran = cli(
            "infer", image, "What is it?", "--model", f"{server.url}#made", "--policy", "zoom",
            "--dialect", name, "--max-looks", "4", "--save", drawn, "--trace", trace,
        )  # fmt: skip
    assert ran.code == 0, ran.err
    assert f"answer  {text}\n" in ran.out and "look 2  box" in ran.out
    (written,) = read_traces(trace)
    assert [look.crop for look in written.looks] == windows
    assert [look.shown for look in written.looks] == sizes
    assert all(look.hash and look.tokens and look.seconds is not None for look in written.looks)
    assert (written.stop, written.dialect, written.crop_from) == ("answer", name, "original")
    assert Image.open(drawn).height > 2 * 420
    # Each request shows one image more.
    shown = [str(body["messages"]).count("image_url': {") for body in server.requests]
    assert shown == [1, 2, 3]


def test_a_native_call_is_answered_under_its_id(cli: Cli, image: Path) -> None:
    with JudgeServer(plays("openai-tools")) as server:
        cli(
            "infer",
            image,
            "What?",
            "--model",
            f"{server.url}#m",
            "--policy",
            "zoom",
            "--dialect",
            "openai-tools",
        )
    first, second, _ = server.requests
    assert first["tools"][0]["function"]["name"] == "zoom"
    said, answered, crop = second["messages"][-3:]
    assert said["tool_calls"][0]["id"] == answered["tool_call_id"] == "call_9"
    assert (answered["role"], crop["role"]) == ("tool", "user") and crop["content"][1]["type"] == "image_url"


def test_the_stop_text_of_mini_o3_is_sent_and_put_back(cli: Cli, image: Path) -> None:
    with JudgeServer(plays("mini-o3")) as server:
        cli("infer", image, "What?", "--model", f"{server.url}#Mini-o3-7B", "--policy", "zoom")
    assert server.requests[0]["stop"] == ["</grounding>"], "the model's name tells the dialect"
    assert server.requests[1]["messages"][2]["content"].endswith("</grounding>")


def test_bench_keeps_the_talk_and_shows_it(cli: Cli, tmp_path: Path) -> None:
    root, out = write_root(tmp_path / "data", count=4, images=2), tmp_path / "out"
    command = ["bench", "cot", "--data", root, "--out", out, "--policy", "zoom", "--dialect", "viscot"]
    with JudgeServer(plays("viscot")) as server:
        ran = cli(*command, "--model", f"{server.url}#made")
        assert ran.code == 0, ran.err
        again = cli(*command, "--model", f"{server.url}#made", "--same-engine")
        assert "0 now" in again.out
        refused = cli(*command, "--model", f"{server.url}#made", "--max-looks", "2")
        assert refused.code == 2 and "looks" in refused.err
    predictions = read_predictions(out)
    assert len(predictions) == 4 and all(p.strategy == "zoom" and p.trace is not None for p in predictions)
    trace = trace_in(predictions[0].trace or {})
    assert len(trace.looks) == 2 and trace.answer == "a fox"
    settings = json.loads((out / "run.json").read_text())["settings"]["zoom"]
    assert (settings["dialect"], settings["looks"], settings["crop_from"]) == ("viscot", 3, "original")
    shown = cli("bench", "show", out, f"made:{predictions[0].question_id}")
    assert "look 1" in shown.out and "prompt 3" in shown.out


@pytest.mark.slow
def test_a_model_of_this_machine_zooms(cli: Cli, golden: Path, tmp_path: Path) -> None:
    tiny = ("--model", str(golden / "tiny_llava"))
    ran = cli(
        "infer", golden / "images" / "landscape.jpg", "What is written on the sign?", *tiny,
        "--policy", "zoom", "--max-looks", "1", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    row = json.loads(ran.out)
    assert row["strategy"] == "zoom" and len(row["looks"]) <= 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--max-looks", "2"), "add --policy zoom"),
        (("--policy", "zooom"), "--policy"),
        (("--policy", "zoom", "--dialect", "qwen"), "--dialect"),
        (("--policy", "zoom", "--crop-from", "memory"), "--crop-from"),
        (("--policy", "zoom", "--direct"), "give one of them"),
        (("--policy", "zoom", "--box", "1,2,3,4"), "give one of them"),
        (("--trace", "t.jsonl"), "add --policy zoom"),
        (("--policy", "zoom", "--dialect", "openai-tools"), "needs a server"),
    ],
)
def test_wrong_options_are_a_sentence(cli: Cli, image: Path, options: tuple[str, ...], sentence: str) -> None:
    ran = cli("infer", image, "What?", *options)
    assert ran.code == 2 and sentence in ran.err


def test_a_server_whose_name_tells_nothing_needs_a_dialect(cli: Cli, image: Path) -> None:
    ran = cli("infer", image, "What?", "--model", "http://127.0.0.1:9/v1#made", "--policy", "zoom")
    assert ran.code == 2 and "name it with --dialect: viscot, qwen3-vl" in ran.err


def test_chat_zooms(cli: Cli, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("What is it?\n"))
    with JudgeServer(plays("viscot")) as server:
        model = f"{server.url}#made"
        ran = cli("chat", image, "--model", model, "--policy", "zoom", "--dialect", "viscot")
    assert "answer  a fox" in ran.out and "look 2  box" in ran.out


SEARCH = "On the white card, on the black card, what does the red card say?"


@pytest.mark.parametrize(("words", "looks"), [((), True), (("--policy", "two-turn"), False)])
def test_chat_follows_the_model_s_own_policy(
    cli: Cli, repo: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], looks: bool
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{SEARCH}\n"))
    image = repo / "viscot_core" / "examples" / "search.jpg"
    ran = cli("chat", image, "--model", "viscot-tiny-zoom", "--device", "cpu", *words)
    assert ran.code == 0 and ("look 2  box" in ran.out) == looks


@pytest.mark.parametrize(
    ("words", "usual"),
    [((), "zoom"), (("--policy", "two-turn"), "cot"), (("--policy", "direct"), "direct")],
)
def test_a_server_follows_the_model_s_own_policy(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], usual: str
) -> None:
    served: list[Any] = []
    monkeypatch.setattr("viscot_core.serve.listen.serve", lambda server, *_: served.append(server))
    ran = cli("serve", "--model", "viscot-tiny-zoom", "--device", "cpu", "--port", "0", *words)
    assert ran.code == 0, ran.err
    (server,) = served
    server.batcher.close()
    assert server.options.usual == usual and (server.options.zoom is not None) == (usual == "zoom")


@pytest.mark.slow
def test_the_page_follows_the_model_s_own_policy(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio")
    from viscot_core.demo import page
    from viscot_core.demo.backend import _policy

    built: list[Any] = []
    monkeypatch.setattr(page, "build", built.append)
    monkeypatch.setattr(page, "launch", lambda *_: None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for words, name in (((), "zoom"), (("--policy", "two-turn"), "two_turn")):
        ran = cli("demo", "--model", "viscot-tiny-zoom", "--device", "cpu", "--port", port, *words)
        assert ran.code == 0, ran.err
        (model,) = built.pop().models.values()
        assert model.label == "viscot-tiny-zoom" and _policy(model.ready(), "cot").name == name


def test_a_crop_policy_is_refused_where_the_dialect_crops(cli: Cli, tmp_path: Path) -> None:
    command = ["bench", "cot", "--data", tmp_path, "--out", tmp_path / "out", "--crop-policy", "tight"]
    ran = cli(*command, "--model", "http://127.0.0.1:9/v1#Qwen3-VL-8B", "--policy", "zoom")
    assert ran.code == 2 and "the dialect qwen3-vl has a crop of its own: remove --crop-policy" in ran.err
    assert not (tmp_path / "out").exists()
