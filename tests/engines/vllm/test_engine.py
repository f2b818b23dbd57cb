"""The engine between viscot and a vLLM process: prompts, texts, streams, ends and failures."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from PIL import Image

from viscot_core.conversation import Message
from viscot_core.engines.base import Request
from viscot_core.engines.open import EngineOptions, open_engine
from viscot_core.engines.vllm.engine import VllmEngine
from viscot_core.engines.vllm.process import why
from viscot_core.errors import EngineError, UsageError
from viscot_core.images.view import View, view_of
from viscot_core.openai_api.options import ApiOptions
from viscot_core.policies.base import Question
from viscot_core.policies.dialects.known import dialect
from viscot_core.policies.zoom import Zoom
from viscot_core.rollout import run

Open = Callable[..., VllmEngine]


def _view(colour: str = "red") -> View:
    return view_of(Image.new("RGB", (120, 80), colour))


def _ask(words: str = "What?", view: View | None = None, **more: object) -> Request:
    return Request((Message("user", f"<image>\n{words}"),), (view or _view(),), **more)  # type: ignore[arg-type]


def _child() -> psutil.Process:
    """The process of the one vLLM that runs."""
    (found,) = (
        one for one in psutil.Process().children() if _runs(one) and "worker.py" in str(one.cmdline())
    )
    return found


def _runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_it_says_what_vllm_says_and_knows_itself(stub: Open) -> None:
    engine = stub("[0.1, 0.2]")
    heard: list[str] = []
    plain = Request((Message("user", "Hello?"),), ())
    first, second, third = engine.generate([_ask(on_text=heard.append), plain, _ask("Where?")])
    assert first.text == second.text == third.text == "[0.1, 0.2]"
    assert first.finished and not first.truncated
    assert first.prompt_tokens > second.prompt_tokens
    assert heard[-1] == "[0.1, 0.2]" and all("[0.1, 0.2]".startswith(text) for text in heard)
    identity = engine.identity
    assert {identity["engine"], identity["vllm"], identity["dtype"]} == {"vllm", "0.32.0", "float32"}
    assert engine.traits == EngineOptions(engine="vllm").traits
    # What was cut off here is not left running there.
    assert engine.counters()["open"] == 0


def test_a_limit_a_stop_text_and_a_client_that_left_end_one_prompt(stub: Open) -> None:
    engine = stub("abcdefgh", end=False)
    left = threading.Event()

    def leave(text: str) -> None:
        if len(text) > 3:
            left.set()

    cut, stopped, gone = engine.generate(
        [
            _ask(max_new_tokens=3),
            _ask("b", max_new_tokens=60, stop=("de",)),
            _ask("c", max_new_tokens=60, on_text=leave, cancelled=left.is_set),
        ]
    )
    assert cut.truncated and cut.tokens == 3
    assert stopped.finished and stopped.text == "abc"
    assert gone.text and not gone.finished and not gone.truncated
    assert engine.counters()["stopped"] == 2


def test_a_prompt_that_vllm_reads_otherwise_fails(stub: Open) -> None:
    engine = stub(reads="otherwise")
    (one,) = engine.generate([_ask()])
    assert one.error is not None and "vLLM reads" in one.error


def test_prompts_that_cannot_run_fail_alone(stub: Open) -> None:
    engine = stub()
    two_marks = Request((Message("user", "<image>\n<image>\nWhat?"),), (_view(),))
    long = _ask("a " * 600)
    bad, too_long, good = engine.generate([two_marks, long, _ask()])
    assert bad.error is not None and "2 <image> marks" in bad.error
    assert too_long.error is not None and "do not fit the model's context of 512" in too_long.error
    assert good.text == "99"


def test_many_threads_ask_and_an_image_is_encoded_once(stub: Open) -> None:
    engine = stub()
    views = [_view(colour) for colour in ("red", "green", "blue")]
    requests = [_ask(f"What is {n}?", views[n % 3]) for n in range(24)]
    with ThreadPoolExecutor(8) as threads:
        said = list(threads.map(lambda request: engine.generate([request])[0], requests))
    assert {each.text for each in said} == {"99"}
    together = engine.generate(requests)
    assert [each.text for each in together] == ["99"] * 24
    assert engine.counters()["most"] == 1


def test_talks_of_many_looks_at_different_steps(stub: Open) -> None:
    """A talk's crops are images of its prompt; each talk ends after its own looks."""
    engine = stub("[0.2, 0.2, 0.8, 0.8]")
    policies = [Zoom(dialect("viscot"), looks, most_refusals=0) for looks in (1, 2, 3)]
    views = [_view(colour) for colour in ("red", "green", "blue")]
    answers = run(policies, engine, [Question("What?", (view,)) for view in views])
    assert [len(answer.looks) for answer in answers] == [1, 2, 3]
    assert all(answer.error is None and answer.stop == "looks" for answer in answers)


def test_a_vllm_that_dies_is_told_to_all_and_started_again(
    stub: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = stub("abcdefgh", end=False, dies_at=3)
    with pytest.raises(EngineError, match=r"vLLM has failed \(RuntimeError: the engine core died\)"):
        engine.generate([_ask(), _ask("Where?")])
    with pytest.raises(EngineError, match="its log is"):
        engine.generate([_ask()])
    monkeypatch.setenv("STUB_VLLM", '{"says": [5]}')
    engine.reset()
    assert engine.generate([_ask(max_new_tokens=2)])[0].tokens == 2
    engine.reset()  # of one that lives: it forgets images
    assert engine.generate([_ask(max_new_tokens=2)])[0].tokens == 2


def test_ctrl_c_stops_what_was_asked(stub: Open) -> None:
    engine = stub("abcdefgh", end=False)
    # At a terminal the whole group gets it: vLLM is in another.
    assert os.getpgid(_child().pid) != os.getpgrp()
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        engine.generate([_ask(max_new_tokens=300)])
    assert engine.counters()["open"] == 0


def test_the_process_ends_with_its_engine(stub: Open) -> None:
    engine = stub()
    child = _child()
    log = engine._process.log
    engine.close()
    assert not child.is_running() and not log.exists()
    with pytest.raises(EngineError):
        engine.generate([_ask()])


def test_a_vllm_that_is_killed_leaves_nothing(stub: Open) -> None:
    engine = stub("abcdefgh", end=False, forks=True)
    child = _child()
    (grandchild,) = child.children()
    threading.Timer(0.3, child.kill).start()
    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(engine.generate, [_ask(max_new_tokens=300)])
        try:
            with pytest.raises(EngineError, match="vLLM has failed"):
                asking.result(10)
        finally:
            engine.close()
    for _ in range(100):
        if not _runs(grandchild):
            return
        time.sleep(0.05)
    raise AssertionError(grandchild)


def test_a_listener_that_fails_fails_its_own_call(stub: Open) -> None:
    engine = stub()

    def fail(text: str) -> None:
        raise OSError("nobody reads this")

    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(engine.generate, [_ask(on_text=fail)])
        with pytest.raises(OSError, match="nobody reads this"):
            asking.result(10)
    assert engine.generate([_ask()])[0].text == "99"


def test_it_is_started_again_while_a_listener_is_slow(stub: Open) -> None:
    engine = stub("abcdefgh", end=False)
    heard, go_on = threading.Event(), threading.Event()

    def hear(text: str) -> None:
        heard.set()
        go_on.wait(10)

    with ThreadPoolExecutor(2) as threads:
        asking = threads.submit(engine.generate, [_ask(on_text=hear, max_new_tokens=20, stop=("b",))])
        assert heard.wait(10)
        _child().kill()
        while engine._process.alive:
            time.sleep(0.01)
        again = threads.submit(engine.reset)
        time.sleep(0.2)
        go_on.set()
        again.result(20)
        asking.exception(10)
    assert engine.generate([_ask(max_new_tokens=2)])[0].tokens == 2


def test_one_gpu_of_several(stub: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert stub(on="cuda:1", device="cuda").identity["device"] == "cuda"
    assert psutil.Process(_child().pid).environ()["CUDA_VISIBLE_DEVICES"] == "7"
    for odd in ("cuda:2", "cuda:x"):
        with pytest.raises(UsageError, match=f"There is no device '{odd}' here"):
            stub(on=odd, device="cuda")
    with pytest.raises(UsageError, match="is built for 'cpu'"):
        stub(on="cuda:1")


@pytest.mark.parametrize(
    ("fails", "says"),
    [
        (
            "No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
            "too little mem",
        ),
        ("Model architectures ['Odd'] are not supported for now.", "vLLM does not serve viscot-tiny"),
        ("Something odd", r"vLLM has failed \(ValueError: Something odd\); its log is"),
    ],
)
def test_what_vllm_says_at_its_start_is_a_sentence(stub: Open, fails: str, says: str) -> None:
    with pytest.raises(EngineError, match=says) as told:
        stub(fails=fails)
    _, named, log = str(told.value).rpartition("its log is ")
    assert not named or Path(log.removesuffix(".")).exists()


def test_a_cause_that_only_the_log_has_is_found(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "(EngineCore pid=7) ERROR 11-27 [core.py:1] ValueError: To serve at least one request with the "
        "model's max seq len (4096), (9.1 GiB KV cache is needed\n"
    )
    told = why("RuntimeError: Engine core initialization failed. See root cause above.", log, "m")
    assert "too little memory for m and its KV cache" in str(told)


def test_a_cause_in_a_rank_s_own_lines_is_found(tmp_path: Path) -> None:
    """torch puts the rank before each line of a traceback, with a colon that vLLM's own prefix has not."""
    log = tmp_path / "log"
    log.write_text(
        "[rank0]: Traceback (most recent call last):\n"
        "[rank0]: AssertionError: CPU GDN attention requires BF16.\n"
    )
    assert "(AssertionError: CPU GDN attention requires BF16.)" in str(why("", log, "m"))


def test_the_cause_of_a_start_that_failed_is_named(tmp_path: Path) -> None:
    """In a process of its own, vLLM's last error says only that there was one; a config's, only in line 2."""
    log = tmp_path / "log"
    failed = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
    log.write_text(
        f"(EngineCore pid=1) ERROR 11-27 [core.py:1510] AssertionError: Not enough cores.\n{failed}\n"
    )
    assert "vLLM has failed (AssertionError: Not enough cores.);" in str(why(failed, log, "m"))
    invalid = (
        "ValidationError: 1 validation error for VllmConfig\n  Value error, Total number of attention heads "
        "(6) must be divisible by tensor parallel size (4). [type=value_error, input_value=ArgsKwargs(())]\n"
    )
    assert "(Total number of attention heads (6) must be divisible by tensor parallel size (4));" in str(
        why(invalid, tmp_path / "none", "m")
    )
    unknown = (
        "ValidationError: 1 validation error for ModelConfig\n  Value error, The checkpoint has model type "
        "`odd` but Transformers does not recognize this architecture. This could be because\n\nYou can "
        "update Transformers [type=value_error, input_value=ArgsKwargs(())]\n"
    )
    assert "vLLM does not serve m (The checkpoint has model type `odd` but Transformers does not" in str(
        why(unknown, tmp_path / "none", "m")
    )


@pytest.mark.parametrize("version", ["", "dev", "0.20.1"])
def test_a_vllm_that_is_absent_unreadable_or_old_is_a_sentence(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    if version:
        (tmp_path / "vllm-1.dist-info").mkdir()
        (tmp_path / "vllm-1.dist-info" / "METADATA").write_text(f"Name: vllm\nVersion: {version}\n")
    says = {"": "has no vLLM; install it", "dev": "gives 'dev' as its version", "0.20.1": "needs 0.32"}
    with pytest.raises(EngineError, match=says[version]):
        open_engine(EngineOptions(engine="vllm"))


def test_what_is_not_for_vllm_is_refused(stub_python: Path) -> None:
    with pytest.raises(UsageError, match="--load-in cannot be used with --engine vllm"):
        open_engine(EngineOptions(engine="vllm", load_in="4bit"))
    with pytest.raises(UsageError, match="--engine is one of transformers, vllm"):
        open_engine(EngineOptions(engine="sglang"))
    with pytest.raises(UsageError, match="leave out --engine"):
        open_engine(EngineOptions("http://127.0.0.1:9/v1#m", engine="vllm"))
    with pytest.raises(UsageError, match="--tensor-parallel is for --engine vllm"):
        open_engine(EngineOptions(tensor_parallel=2))
    api = ApiOptions(extra_body={"top_k": 1})
    with pytest.raises(UsageError, match="--extra-body and --image-format are for a server"):
        open_engine(EngineOptions(engine="vllm", api=api))
    with pytest.raises(UsageError, match="does not run"):
        open_engine(EngineOptions(engine="vllm", python="/nowhere/python"))
