"""The command lines that serve a model: what comes first, and the options that change its answers."""

from __future__ import annotations

import shlex
from itertools import pairwise
from pathlib import Path

import pytest
from made_families import make

from viscot_core.errors import CheckpointError, UsageError
from viscot_core.models.serve_command import commands
from viscot_core.models.zoo import BUNDLED_FOLDER


@pytest.fixture(autouse=True)
def nothing_pulled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISCOT_CACHE", str(tmp_path / "cache"))


def options(line: str) -> dict[str, str]:
    words = shlex.split(line)
    return {name: value for name, value in pairwise(words) if name.startswith("--")}


def test_a_complete_folder_is_served_as_it_is() -> None:
    (line,), address = commands("viscot-tiny", "vllm", device="cpu")
    assert line.startswith("python -m vllm.entrypoints.openai.api_server ")
    given = options(line)
    assert given["--model"] == str(BUNDLED_FOLDER) and given["--served-model-name"] == "viscot-tiny"
    assert given["--mm-processor-kwargs"] == '{"backend":"pil"}'
    assert given["--limit-mm-per-prompt"] == '{"image": 2}'
    assert (given["--block-size"], given["--dtype"], given["--max-model-len"]) == ("32", "float32", "512")
    assert given["--gpu-memory-utilization"] == "0.5", "of 92 %, the default, a machine in use has less free"
    assert address == "http://127.0.0.1:8000/v1#viscot-tiny"
    (line,), address = commands("viscot-tiny", "transformers", device="cpu")
    assert address.endswith(f"#{BUNDLED_FOLDER}"), "it calls models as they were given"


def test_the_original_layout_is_exported_first(golden: Path) -> None:
    export, line = commands(str(golden / "tiny_llava"), "sglang", device="cpu")[0]
    assert export == f"viscot models export {golden}/tiny_llava --layout hf --out tiny_llava-hf"
    assert options(line)["--model-path"] == "tiny_llava-hf" and options(line)["--context-length"] == "2048"
    pull, export, line = commands("viscot-7b-336", "vllm", device="cpu")[0]
    assert pull == "viscot models pull VisCoT-7b-336" and "VisCoT-7b-336-hf" in export
    assert "--max-model-len" not in line, "its context is read from its files"


def test_models_that_think_get_a_parser_and_are_asked_not_to() -> None:
    (line,), _ = commands("Qwen/Qwen3.5-9B", "vllm", device="cpu", images=6)
    assert options(line)["--reasoning-parser"] == "qwen3"
    assert options(line)["--default-chat-template-kwargs"] == '{"enable_thinking": false}'
    assert options(line)["--limit-mm-per-prompt"] == '{"image": 6}'
    assert "--mm-processor-kwargs" not in line, "its processor has a part for videos"
    (line,), _ = commands("Qwen3-VL-8B-Instruct", "vllm", device="cpu")
    assert options(line)["--model"] == "Qwen/Qwen3-VL-8B-Instruct" and "--reasoning" not in line
    assert options(line)["--max-model-len"] == "8192", "its context of 256k wants a cache of its own size"


def test_another_family_needs_no_export_whatever_its_files_are_called(tmp_path: Path) -> None:
    folder = make("idefics3", tmp_path / "made")
    for name in ("chat_template.jinja", "processor_config.json"):
        assert not (folder / name).exists() or (folder / name).unlink() is None
    lines, _ = commands(str(folder), "vllm", device="cpu")
    assert len(lines) == 1 and options(lines[0])["--model"] == str(folder)


def test_what_cannot_be_served() -> None:
    with pytest.raises(UsageError, match="Did you mean 'vllm'"):
        commands("viscot-tiny", "vlm")
    with pytest.raises(CheckpointError, match="is a vision tower and cannot answer"):
        commands("clip-vit-large-patch14", "vllm")
    with pytest.raises(CheckpointError, match="There is no model 'viscot-tine'"):
        commands("viscot-tine", "vllm")
