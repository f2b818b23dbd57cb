"""What the doctor says of made-up machines."""

from __future__ import annotations

import shutil
from collections import namedtuple

import pytest

from viscot_core import doctor, hardware
from viscot_core.doctor import Finding
from viscot_core.hardware import GIB, CpuSpeed, Gpu
from viscot_core.models import known, zoo


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """``machine(gpus=[...], ram=16)`` makes hardware up and returns the findings by name."""

    def examine(gpus: tuple[Gpu, ...] = (), ram: float = 16.0) -> dict[str, Finding]:
        monkeypatch.setattr(hardware, "gpus", lambda: gpus)
        monkeypatch.setattr(hardware, "ram_gib", lambda: ram)
        return {finding.name: finding for finding in doctor.examine(measure=False)}

    return examine


def test_a_laptop_runs_the_bundled_model_and_is_told_what_is_too_large(machine) -> None:
    found = machine(ram=8.0)
    assert found["cuda"].state == "ok"
    assert "CPU" in found["cuda"].text
    bundled = (zoo.BUNDLED_FOLDER / "config.json").exists()
    assert found["viscot-tiny"].state == ("ok" if bundled else "missing")
    assert found["VisCoT-7b-336"].fix.startswith("--load-in")
    assert found["VisCoT-13b-336"].state == "warn"
    assert found["tiny"].state == "ok"
    assert "--dry-run" in found["13b-336"].fix


def test_eight_large_gpus_fit_every_recipe_and_checkpoint(machine) -> None:
    found = machine(gpus=(Gpu("NVIDIA A100-SXM4-80GB", 79.2, 78.0),) * 8)
    assert found["gpu 7"].state == "ok"
    fitting = [f for f in found.values() if f.group in ("models", "recipes") and f.name != known.BUNDLED]
    assert len(fitting) >= 11
    assert all(finding.state == "ok" for finding in fitting), fitting


def test_a_busy_gpu_is_a_warning(machine) -> None:
    found = machine(gpus=(Gpu("A card", 24.0, 3.0),))
    assert found["gpu 0"].state == "warn"
    assert "another process" in found["gpu 0"].fix


def test_a_missing_package_names_its_extra(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.version_of
    monkeypatch.setattr(doctor, "version_of", lambda name: None if name in doctor.OPTIONAL else real(name))
    found = machine()
    assert found["deepspeed"].state == "missing"
    assert found["deepspeed"].fix == "pip install 'viscot[train]'"
    assert found["flash-attn"].state == "ok"  # of no use without a GPU
    assert machine(gpus=(Gpu("A card", 24.0, 23.0),))["flash-attn"].state == "missing"


def test_an_old_package_is_a_warning_with_the_floor(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version_of", lambda name: "4.31.0" if name == "transformers" else "99")
    found = machine()
    assert found["transformers"].state == "warn"
    assert "transformers>=" in found["transformers"].fix


def test_little_disk_is_a_warning(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100 * GIB, 97 * GIB, 3 * GIB))
    assert machine()["disk here"].state == "warn"


def test_cpu_speed_is_measured_and_estimates_an_answer() -> None:
    measured = hardware.measure_cpu("fp32")
    assert measured.gflops > 0.1
    assert measured.gbytes > 0.1
    slow = CpuSpeed(gflops=100.0, gbytes=20.0, weight_bytes=4)
    assert slow.answer_seconds(parameters=1e9, prefill=1000, decoded=10) == pytest.approx(20.0 + 10 * 0.2)


def test_every_finding_that_is_not_ok_has_a_fix(machine) -> None:
    for finding in machine(ram=2.0).values():
        assert finding.state == "ok" or finding.fix, finding
