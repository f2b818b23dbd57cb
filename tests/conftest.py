"""Fixtures and rules every test may count on: the golden data, an offline hub, command lines in-process."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from made_bench import write_root
from made_parts import declare_torchvision

REPO = Path(__file__).resolve().parent.parent
NETWORK = os.environ.get("VISCOT_NETWORK", "") not in ("", "0")

# A shell that runs the tests in the background ignores Ctrl-C for them and for the processes they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before torch or the hub are imported: tests never reach the network unless asked to, and draw no bars.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DS_BUILD_OPS", "0")
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # the workers share the cores
    threads = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
if not NETWORK:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


# PyPI's torchvision is built for CUDA: beside a torch for the CPU its operators are not declared, and
# importing it fails. `make test` puts it into a folder of its own, which this process alone sees, declared.
TORCHVISION = Path(sys.prefix) / "torchvision"
if TORCHVISION.is_dir():
    sys.path.append(str(TORCHVISION))
    _OPERATORS = declare_torchvision()


# No test judges speed: a busy machine may be slow at any example.
settings.register_profile("viscot", deadline=None)
settings.load_profile("viscot")


@dataclass(frozen=True)
class Ran:
    """What one command line did: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, with the reason."""
    for item in items:
        if "network" in item.keywords and not NETWORK:
            item.add_marker(pytest.mark.skip(reason="needs the hub: set VISCOT_NETWORK=1"))
        if "gpu" in item.keywords and not _has_gpu():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def repo() -> Path:
    """The top of the repository."""
    return REPO


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden data (``VISCOT_SHARED``, by default ``../shared``); skips where it is absent."""
    folder = Path(os.environ.get("VISCOT_SHARED", REPO.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"no golden data at {folder}: set VISCOT_SHARED")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """The golden files that travel with the tests (``tests/golden/README.md``)."""
    return REPO / "tests" / "golden"


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """``cli("infer", "a.png", "What?")`` runs ``viscot infer a.png What?`` in this process."""
    from viscot_cli.app import main

    def run(*argv: str | Path) -> Ran:
        capfd.readouterr()
        code = main([str(word) for word in argv])
        captured = capfd.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root of twelve questions about six images."""
    return write_root(tmp_path / "data")


@pytest.fixture
def golden_root(shared: Path, tmp_path: Path) -> Path:
    """The golden end-to-end data in a data root's layout."""
    golden, root = shared / "golden", tmp_path / "golden"
    for folder in ("benchmark", "benchmark_det", "refcoco"):
        (root / folder).mkdir(parents=True)
    shutil.copy(golden / "e2e" / "benchmark.json", root / "benchmark" / "made.json")
    shutil.copy(golden / "e2e" / "benchmark_det.jsonl", root / "benchmark_det" / "made.jsonl")
    shutil.copy(golden / "e2e" / "refcoco.jsonl", root / "refcoco" / "REC_refcoco_made_val.jsonl")
    for target in (root, root / "coco" / "train2014" / "train2014"):
        target.mkdir(parents=True, exist_ok=True)
        for image in (golden / "images").iterdir():
            shutil.copy(image, target / image.name)
    return root


@pytest.fixture
def copy(golden: Path, tmp_path: Path) -> Path:
    """A tiny checkpoint in the original layout, beside the tower config it names."""
    shutil.copytree(golden / "tiny_clip", tmp_path / "tiny_clip")
    return Path(shutil.copytree(golden / "tiny_llava", tmp_path / "model"))


@pytest.fixture
def pickled(golden: Path, tmp_path: Path) -> Path:
    """The same weights in three ``.bin`` shards with their index."""
    shutil.copytree(golden / "tiny_clip", tmp_path / "tiny_clip")
    return Path(shutil.copytree(golden / "tiny_llava_bin", tmp_path / "pickled"))
