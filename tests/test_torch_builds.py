"""A torchvision that was built for another torch: one sentence wherever it is met, and the mend."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from viscot_core import doctor, torch_builds

FAULT = "operator torchvision::nms does not exist"
SCRIPT = """
from pathlib import Path
from viscot_core import load
from viscot_core.errors import EngineError
from viscot_core.families.generic.processor import load_processor
for call in (load, lambda: load_processor(Path("nowhere"))):
    try:
        call()
    except EngineError as error:
        print(error)
"""


@pytest.fixture
def beside(tmp_path: Path):
    """``beside(words)`` runs a Python that has such a torchvision."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(f"raise RuntimeError('{FAULT}')\n")

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
        return subprocess.run(
            [sys.executable, *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )

    return run


def is_the_sentence(text: str) -> bool:
    said = text.strip()
    return "\n" not in said and FAULT in said and said.endswith(f"; {torch_builds.mend()}")


def test_a_command_says_what_does_not_fit_and_how_to_mend_it(beside, repo: Path) -> None:
    image = repo / "viscot_core" / "examples" / "cards.jpg"
    ran = beside(
        "-m", "viscot_cli", "infer", image, "What number is on the red card?", "--model", "viscot-tiny"
    )
    assert ran.returncode == 1 and is_the_sentence(ran.stderr), ran.stderr


@pytest.mark.slow
def test_python_says_it_too_of_a_model_and_of_a_processor(beside) -> None:
    ran = beside("-c", SCRIPT)
    assert len(ran.stdout.splitlines()) == 2 and all(map(is_the_sentence, ran.stdout.splitlines())), ran


@pytest.mark.slow
def test_the_doctor_says_it(beside) -> None:
    ran = beside("-m", "viscot_cli", "doctor", "--no-measure")
    line, fix = ran.stdout[ran.stdout.index("missing torchvision") :].splitlines()[:2]
    assert ran.returncode == 1 and FAULT in line
    assert fix.strip() == f"-> {torch_builds.mend()}"


def test_the_doctor_misses_no_torchvision_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.version_of
    monkeypatch.setattr(doctor, "version_of", lambda name: None if name == "torchvision" else real(name))
    monkeypatch.setattr(torch_builds, "misfit", lambda: None)
    found = {finding.name: finding for finding in doctor.examine(measure=False)}["torchvision"]
    assert found.state == "ok" and "some families need it" in found.text
    assert found.fix == torch_builds.install_models()


@pytest.mark.parametrize(
    ("version", "cuda", "hip", "named", "where"),
    [
        ("2.13.0+cpu", None, None, "'torchvision==0.28.*'", "whl/cpu"),
        ("2.10.1", "13.0", None, "'torchvision==0.25.*'", "whl/cu130"),
        ("2.10.0+rocm7.1", None, "7.1.25424", "'torchvision==0.25.*'", "whl/rocm7.1"),
        ("3.0.0", "13.2", None, "torchvision ", "whl/cu132"),
    ],
)
def test_the_build_that_fits_is_that_of_the_torch_that_is_here(
    monkeypatch: pytest.MonkeyPatch, version: str, cuda: str | None, hip: str | None, named: str, where: str
) -> None:
    import torch

    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert f"--no-deps {named}" in torch_builds.mend() and f"{where}, or remove it" in torch_builds.mend()
    assert torch_builds.install_models().endswith(where)


def test_an_error_of_something_else_is_not_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_builds, "misfit", lambda: "It does not fit")
    assert torch_builds.misfit_behind(ModuleNotFoundError("No module named 'gradio'")) is None
    outer = ModuleNotFoundError("Could not import module 'LlamaConfig'.")
    outer.__cause__ = RuntimeError(FAULT)
    assert str(torch_builds.misfit_behind(outer)).startswith("It does not fit")
