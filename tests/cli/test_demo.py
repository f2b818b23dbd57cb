"""``viscot demo`` before the page is served: the models that it offers, and what it says of them."""

from __future__ import annotations

import gc
import socket
import weakref
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("gradio", reason="needs viscot[demo]")
Cli = Callable[..., Any]
pytestmark = pytest.mark.slow  # gradio takes seconds to import


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The backends of pages, which are not served."""
    from viscot_core.demo import page

    backends: list[Any] = []
    monkeypatch.setattr(page, "build", backends.append)
    monkeypatch.setattr(page, "launch", lambda *_: None)
    return backends


@pytest.fixture
def port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def test_the_first_of_several_models_is_ready_and_a_wrong_one_is_left_out(
    cli: Cli, built: list[Any], port: str
) -> None:
    names = ["--model", "nonesuch,viscot-tiny-zoom", "--model", "viscot-tiny"]
    ran = cli("demo", *names, "--device", "cpu", "--dtype", "fp32", "--port", port)
    assert ran.code == 0, ran.err
    assert "nonesuch is left out: There is no model 'nonesuch'" in ran.err
    assert "viscot-tiny-zoom is ready (0.0" in ran.err
    assert "viscot-tiny is loaded with its first question (0.0" in ran.err
    first, second = built[0].models.values()
    assert first.is_ready and not second.is_ready and second.hint.startswith("viscot-tiny only knows")


def test_two_models_of_one_name_are_told_apart_and_none_that_works_is_an_error(
    cli: Cli, built: list[Any], port: str, tmp_path: Any
) -> None:
    from viscot_core.models.zoo import BUNDLED_FOLDER

    copy = tmp_path / "a copy"
    copy.symlink_to(BUNDLED_FOLDER)
    ran = cli("demo", "--model", "viscot-tiny", "--model", copy, "--device", "cpu", "--port", port)
    assert ran.code == 0, ran.err
    assert list(built[0].models) == ["viscot-tiny", str(copy)]
    ran = cli("demo", "--model", "nonesuch,no-more", "--port", port)
    assert ran.code == 1 and "no-more is left out" in ran.err and len(built) == 1


def test_a_model_that_is_left_out_leaves_its_memory_to_the_next(
    cli: Cli, built: list[Any], port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from viscot_cli import demo
    from viscot_core.errors import EngineError

    class Weights:
        """Stands for tensors that were placed before the memory ended."""

    placed: list[weakref.ref[Weights]] = []
    there: list[bool] = []
    opens = demo.open_model

    def open_model(asked: Any, **options: Any) -> Any:
        if asked.model == "viscot-tiny-zoom":
            weights = Weights()
            placed.append(weakref.ref(weights))
            try:
                raise RuntimeError("out of memory")
            except RuntimeError as error:
                raise EngineError("It does not fit.") from error
        gc.collect()
        there.append(placed[0]() is not None)
        return opens(asked, **options)

    monkeypatch.setattr(demo, "open_model", open_model)
    ran = cli("demo", "--model", "viscot-tiny-zoom,viscot-tiny", "--device", "cpu", "--port", port)
    assert ran.code == 0 and "viscot-tiny-zoom is left out: It does not fit." in ran.err
    assert there == [False] and list(built[0].models) == ["viscot-tiny"]


def test_an_error_of_a_library_is_explained_as_by_infer(
    cli: Cli, built: list[Any], port: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """It was "could not be loaded (MemoryError: )", without what helps."""
    from PIL import Image

    def full(*_: Any, **__: Any) -> None:
        raise MemoryError

    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr("viscot_core.engines.open.open_engine", full)
    ran = cli("demo", "--model", "viscot-tiny", "--device", "cpu", "--port", port)
    asked = cli("infer", tmp_path / "a.png", "?", "--model", "viscot-tiny", "--device", "cpu")
    assert (ran.code, ran.err) == (asked.code, asked.err) and not built
    assert "could not be loaded" not in ran.err
    ran = cli("demo", "--model", "viscot-tiny,viscot-tiny-zoom", "--device", "cpu", "--port", port)
    assert "viscot-tiny could not be loaded (MemoryError" in ran.err
