"""Folders that cannot answer: one sentence each that says what to do, and nothing loaded."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_families import make
from made_parts import text_config, train_tokenizer
from PIL import Image

from viscot_core.conversation import Message
from viscot_core.engines.base import Request
from viscot_core.engines.transformers.engine import LocalEngine
from viscot_core.errors import CheckpointError
from viscot_core.families.generic.processor import load_image_processor
from viscot_core.models.load import load_model
from viscot_core.torch_builds import install_models

TEXT_ONLY = "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}\n{% endfor %}assistant: "
NO_PARTS = "{% for m in messages %}{{ m.role + ': ' + m.content }}\n{% endfor %}assistant: "
BROKEN = "{% for m in messages %}{{ m.role "
HUB = "copy chat_template.jinja from the model's own folder on the hub"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of grids, one of a square, and one of tiles that needs no torchvision."""
    pytest.importorskip("torchvision", reason="make test installs it")
    folder = tmp_path_factory.mktemp("models")
    for name in ("qwen2.5-vl", "gemma3", "idefics3"):
        make(name, folder / name)
    return folder


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "card.png"
    Image.effect_noise((160, 120), 50).convert("RGB").save(path)
    return path


def change(folder: Path, **values: object) -> None:
    """Other values in its config.json; None takes a key away."""
    config = json.loads((folder / "config.json").read_text()) | values
    kept = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


def refused(cli: Any, image: Path, folder: Path) -> str:
    """The one sentence of ``infer``, which names the folder."""
    ran = cli("infer", image, "What?", "--model", folder, "--device", "cpu", "--box-format", "thousand")
    assert ran.code == 1 and not ran.out and ran.err.count("\n") == 1, ran.err
    sentence = str(ran.err).strip()
    assert sentence.startswith("Error: ") and str(folder) in sentence and sentence.endswith(".")
    return sentence


def test_a_kind_that_transformers_does_not_know(cli: Any, image: Path, models: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(models / "qwen2.5-vl", tmp_path / "unknown"))
    change(folder, model_type="kimi_vl9", architectures=["KimiVL9"])
    told = refused(cli, image, folder)
    assert "does not know models of the kind 'kimi_vl9' (KimiVL9)" in told
    assert told.endswith("a newer transformers may: pip install -U transformers.")
    change(folder, auto_map={"AutoModel": "modeling.KimiVL9"})
    assert "viscot does not run code that comes with a model" in refused(cli, image, folder)
    change(folder, model_type=None)
    assert "its config.json has no model_type" in refused(cli, image, folder)


@pytest.mark.parametrize("kind", ["Llama", "Qwen2"])
def test_a_model_of_text_alone(cli: Any, image: Path, tmp_path: Path, root: Path, kind: str) -> None:
    import transformers

    tokenizer = train_tokenizer(["<s>", "</s>", "<pad>"], eos="</s>", pad="<pad>")
    config = getattr(transformers, f"{kind}Config")(**text_config(tokenizer))
    getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(tmp_path / "text")
    tokenizer.save_pretrained(tmp_path / "text")
    assert re.search(
        rf"this is (a text-only model \()?{kind}ForCausalLM", refused(cli, image, tmp_path / "text")
    )
    ran = cli("bench", "refcoco", "--data", root, "--model", tmp_path / "text", "--out", tmp_path / "run")
    assert ran.code == 1 and f"{kind}ForCausalLM" in ran.err and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("processor_config.json", "lacks the file of its image processor (preprocessor_config.json or"),
        ("tokenizer.json", "lacks the file of its tokenizer (tokenizer.json or"),
        ("chat_template.jinja", f"has no chat template, so viscot cannot speak to its model; {HUB}."),
        ("model.safetensors", "weights"),
    ],
)
def test_a_file_that_is_missing_is_named(
    cli: Any, image: Path, models: Path, tmp_path: Path, file: str, told: str
) -> None:
    for name in ("qwen2.5-vl", "gemma3"):
        folder = Path(shutil.copytree(models / name, tmp_path / name))
        (folder / file).unlink()
        assert told in refused(cli, image, folder)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            {"image_processor_type": "Qwen2_5_VLImageProcessor"},
            "has under another name; write Qwen2VLImageProcessor there.",
        ),
        (
            {"image_processor_type": "KimiVL9ImageProcessor"},
            "does not know; a newer transformers may: pip install -U transformers.",
        ),
        (
            {"image_processor_type": "KimiVL9ImageProcessor", "auto_map": {"AutoImageProcessor": "own.Kimi"}},
            "does not know, and viscot does not run code that comes with a model; a newer",
        ),
    ],
)
def test_a_processor_of_another_name(fields: dict[str, Any], told: str, tmp_path: Path) -> None:
    """Pulling such a model again would bring the same file."""
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(fields))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=re.escape(told)) as refusal:
        load_image_processor(tmp_path)
    assert fields["image_processor_type"] in str(refusal.value) and "pull" not in str(refusal.value)


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (TEXT_ONLY, "its chat template has no place for an image"),
        (NO_PARTS, "its chat template cannot write this conversation: can only concatenate"),
        (BROKEN, "its chat template cannot write this conversation: unexpected end of template"),
    ],
)
def test_a_chat_template_without_place_for_images(
    cli: Any, image: Path, models: Path, tmp_path: Path, template: str, told: str
) -> None:
    for name in ("qwen2.5-vl", "gemma3"):
        folder = Path(shutil.copytree(models / name, tmp_path / name))
        (folder / "chat_template.jinja").write_text(template)
        assert f"{folder}: {told}" in (sentence := refused(cli, image, folder))
        assert sentence.endswith(f"{HUB}.")


def test_a_template_among_the_tokenizers_files_serves_too(models: Path, tmp_path: Path) -> None:
    """And files as hubs held them before a processor had one file of its own."""
    folder = Path(shutil.copytree(models / "idefics3", tmp_path / "old"))
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    whole = json.loads((folder / "processor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(whole.pop("image_processor")))
    (folder / "processor_config.json").write_text(json.dumps(whole))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "chat_template": template}))
    request = Request((Message("user", "what is the number?"),), (), 6)
    said = [
        LocalEngine(load_model(path, device="cpu", dtype="fp32")).generate([request])
        for path in (models / "idefics3", folder)
    ]
    assert said[0] == said[1]


def test_turns_that_a_template_refuses_fail_alone(models: Path) -> None:
    """Gemma's wants user and assistant by turns; a server's client may send anything."""
    engine = LocalEngine(load_model(models / "gemma3", device="cpu", dtype="fp32"))
    twice = (Message("user", "what is"), Message("user", "the number?"))
    bad, good = engine.generate([Request(twice, (), 4), Request(twice[1:], (), 4)])
    assert bad.error is not None and "Conversation roles must alternate" in bad.error
    assert good.error is None and good.tokens == 4
    with pytest.raises(CheckpointError, match="gemma3: its chat template cannot write this conversation"):
        engine.prompt(twice)


def test_an_image_that_the_model_does_not_take_fails_alone(
    cli: Any, image: Path, models: Path, tmp_path: Path
) -> None:
    """Qwen-VL takes no image over 200 times as long as wide: of a folder, a run, and a server's clients."""
    from serve_help import data_url, question, running

    from viscot_core.boxes.registry import codec
    from viscot_core.policies.wording import Wording

    narrow = Image.new("RGB", (2030, 10))
    narrow.save(tmp_path / "long.png")
    asked = ["--model", models / "qwen2.5-vl", "--device", "cpu", "--box-format", "thousand"]
    asked += ["--max-new-tokens", "4"]
    ran = cli("infer", tmp_path, "What?", "--json", *asked)
    states = {Path(row["image"]).name: row["error"] for row in map(json.loads, ran.out.splitlines())}
    assert ran.code == 3 and states["card.png"] is None
    assert "aspect ratio must be smaller than 200" in states["long.png"]
    rows = [{"question_id": n, "image": n, "text": "What?", "answer": "it"} for n in ("card.png", "long.png")]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    words = ["--questions", tmp_path / "rows.json", "--images", tmp_path, "--out", tmp_path / "run"]
    assert cli("bench", "vqa", *words, "--max-truncated", "1", *asked).code == 3
    counts = json.loads((tmp_path / "run/run.json").read_text())["counts"]
    assert (counts["failed"], counts["pending"]) == (1, 0)
    engine = LocalEngine(load_model(models / "qwen2.5-vl", device="cpu", dtype="fp32"))
    with running(engine, wording=Wording(codec("thousand"))) as here:
        refused = [here.post(question("What?", data_url(narrow), max_tokens=4)) for _ in range(4)]
        assert {reply.status_code for reply in refused} == {400}
        assert here.post(question("What?", max_tokens=4)).status_code == 200


@pytest.mark.slow
def test_packages_that_a_processor_needs_are_named(image: Path, tmp_path: Path) -> None:
    """A process that does not see torchvision; one that sees it, and no num2words."""
    torchvision = pytest.importorskip("torchvision", reason="make test installs it")
    told: dict[str, str] = {}
    seen = tmp_path / "seen"
    seen.mkdir()
    package = Path(torchvision.__file__).parent
    for part in package.parent.glob("torchvision*"):
        (seen / part.name).symlink_to(part)
    (seen / "run.py").write_text(
        "import sys\nfrom made_parts import declare_torchvision\nkept = declare_torchvision()\n"
        "from viscot_cli.app import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    support = Path(__file__).parents[2] / "support"
    for name in ("qwen2.5-vl", "molmo2", "gemma3", "smolvlm"):
        folder, with_torchvision = make(name, tmp_path / name), name == "smolvlm"
        start = [str(seen / "run.py")] if with_torchvision else ["-m", "viscot_cli"]
        words = ["infer", image, "What?", "--model", folder, "--device", "cpu", "--box-format", "thousand"]
        paths = [os.environ.get("PYTHONPATH", ""), str(support), *([str(seen)] if with_torchvision else [])]
        ran = subprocess.run(
            [sys.executable, *start, *map(str, words), "--max-new-tokens", "4"],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        told[name] = ran.stderr
        assert ran.returncode == (0 if name == "gemma3" else 1), ran.stderr
    needs = "needs the package {}, which is not here; install it with: " + install_models()
    assert needs.format("torchvision") in told["qwen2.5-vl"]
    assert needs.format("torchvision") in told["molmo2"]
    assert needs.format("num2words") in told["smolvlm"]
