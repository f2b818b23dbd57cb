"""Ranks share the images and leave one result; what a rank wrote is never lost."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from judge_server import Action, JudgeServer, completion, error
from made_bench import tasks_of_srun
from made_runs import prediction

from viscot_core.engines.open import EngineOptions
from viscot_core.errors import UsageError
from viscot_core.openai_api import waiting
from viscot_core.openai_api.options import ApiOptions
from viscot_core.runs import loop
from viscot_core.runs.evaluate import evaluate
from viscot_core.runs.journal import Journal
from viscot_core.runs.records import PREDICTIONS_FILE, RunInfo, read_predictions, read_run
from viscot_core.runs.shards import SESSION, Shard, check_gpus, shard_of
from viscot_core.runs.tally import Tally
from viscot_core.tasks.refcoco import RefCoco
from viscot_core.tasks.visual_cot.task import VisualCot


def test_whose_share_this_is() -> None:
    torchrun = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    assert shard_of({SESSION: "ab", **torchrun}) == Shard(3, 8, 1, "ab")
    assert shard_of(torchrun) == Shard(), "somebody else's torchrun is not ours"
    srun = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "2", "SLURM_JOB_ID": "77"}
    assert shard_of(srun) == Shard(2, 4, 2, "slurm77_0_0")
    assert shard_of({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}) == Shard(), "a batch script is one process"


def test_more_ranks_than_gpus_are_refused() -> None:
    with pytest.raises(UsageError, match="--device cpu"):
        check_gpus(999, "auto")
    check_gpus(3, "cpu")


def test_parts_are_read_and_joined_by_the_next_writer(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.begin(RunInfo())
        journal.add([prediction(question_id=0)])
    for rank in (0, 1):
        with Journal(tmp_path, rank=rank, session="s") as journal:
            journal.add([prediction(question_id=rank + 1)])
            with pytest.raises(UsageError, match="Another process"), Journal(tmp_path):
                pass
    part = tmp_path / "predictions.s-1.jsonl"
    part.write_bytes(part.read_bytes() + prediction(question_id=9).to_line()[:-20])
    assert [p.question_id for p in read_predictions(tmp_path)] == [0, 1, 2]
    with Journal(tmp_path) as journal:
        assert journal.is_done(("cot", "synth", "2"))
    assert [p.name for p in tmp_path.glob("predictions*.jsonl")] == [PREDICTIONS_FILE]
    assert [p.question_id for p in read_predictions(tmp_path)] == [0, 1, 2]


def in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``--gpus N`` run its ranks here, one after another."""

    def launch(job: bytes, gpus: int) -> None:
        task, engine, out, sampling = pickle.loads(job)
        for rank in map(str, range(gpus)):
            with monkeypatch.context() as patch:
                for name, value in (
                    (SESSION, "ab"), ("WORLD_SIZE", str(gpus)), ("RANK", rank), ("LOCAL_RANK", rank)
                ):  # fmt: skip
                    patch.setenv(name, value)
                evaluate(task, engine, out, sampling=sampling)

    monkeypatch.setattr(loop, "launch", launch)
    monkeypatch.setattr("viscot_core.runs.evaluate.check_gpus", lambda gpus, device: None)


def reasons(tally: Tally) -> tuple[int, int, Counter[str], Counter[str]]:
    return (tally.finished, tally.failed, tally.failures, tally.open)


def test_ranks_say_why_items_failed_or_are_open_as_one_process_does(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One question of each image is open, another is refused, and an image is damaged."""
    monkeypatch.setattr(waiting, "FIRST_WAIT", 0.01)
    (root / "cot/made/3.png").write_bytes(b"no image")
    refused, away = ("Place 0?", "Place 1?", "Place 2?"), ("Place 6?", "Place 7?", "Place 11?")

    def script(_: int, body: dict[str, Any]) -> Action:
        asked = str(body["messages"])
        if any(place in asked for place in away):
            return error(503)
        return error(400) if any(place in asked for place in refused) else completion("a word")

    in_one_process(monkeypatch)
    found = []
    with JudgeServer(script) as server:
        engine = EngineOptions(
            f"{server.url}#m", box_format="viscot", api=ApiOptions(attempts=1, concurrency=1)
        )
        for gpus in (1, 2):
            task, out = VisualCot(root, ("direct",)), tmp_path / str(gpus)
            info, tally = evaluate(task, engine, out, gpus=gpus)
            assert info.counts == {"done": 4, "failed": 5, "missing": 0, "pending": 3}
            assert info.pending == tally.open and read_run(out) == info
            found.append(reasons(tally))
        assert found[0] == found[1] and found[1][:2] == (4, 5)
        assert not list(out.glob("pending.*"))
        server.script = lambda _, body: completion("a word")
        (info, tally), _ = (evaluate(task, engine, tmp_path / str(gpus), gpus=gpus) for gpus in (2, 1))
        assert (tally.finished, tally.failed, tally.open, info.pending) == (6, 2, Counter(), {})


def test_the_last_task_of_srun_tells_what_all_left_open(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "FIRST_WAIT", 0.01)
    with JudgeServer(lambda _, body: error(503)) as server:
        engine = EngineOptions(
            f"{server.url}#m", box_format="viscot", api=ApiOptions(attempts=1, concurrency=1)
        )
        task, out = VisualCot(root, ("direct",)), tmp_path / "out"
        own = [evaluate(task, engine, out)[1].open for _ in tasks_of_srun(monkeypatch, 2)]
        assert [each.total() for each in own] == [6, 6]
        assert sum(read_run(out).pending.values()) == 12
        server.script = lambda _, body: completion("a word")
        info, _ = evaluate(task, engine, out)
    assert (info.counts["done"], info.pending, list(out.glob("pending.*"))) == (12, {}, [])


@pytest.mark.multiprocess
@pytest.mark.slow
def test_two_ranks_say_why_items_failed(shared: Path, root: Path, tmp_path: Path) -> None:
    for number in (0, 1, 2):
        (root / f"cot/made/{number}.png").write_bytes(b"no image")
    engine = EngineOptions(str(shared / "golden" / "tiny_llava"), device="cpu", dtype="fp32")
    task = VisualCot(root, ("direct",), max_new_tokens=8)
    one, two = (evaluate(task, engine, tmp_path / str(gpus), gpus=gpus)[1] for gpus in (1, 2))
    assert reasons(one) == reasons(two) and two.failed == 6
    assert two.failures.total() == 6 and all("image" in reason for reason in two.failures)


@pytest.mark.multiprocess
@pytest.mark.slow
def test_two_ranks_give_the_result_of_one(shared: Path, golden_root: Path, tmp_path: Path) -> None:
    engine = EngineOptions(str(shared / "golden" / "tiny_llava"), device="cpu", dtype="fp32")
    both, tables = VisualCot(golden_root, ("cot", "direct")), []
    for gpus in (1, 2):
        out = tmp_path / str(gpus)
        info, tally = evaluate(both, engine, out, gpus=gpus)
        assert info.counts == {"done": 24, "failed": 0, "missing": 0, "pending": 0}
        assert tally.finished == 24 and read_run(out) == info
        assert [p.name for p in out.glob("predictions*")] == [PREDICTIONS_FILE]
        tables.append({p.key: p.model_copy(update={"seconds": 0}) for p in read_predictions(out)})
    assert tables[0] == tables[1]
    _, tally = evaluate(both, engine, tmp_path / "2", gpus=2)
    assert tally.finished == 0
    info, _ = evaluate(RefCoco(golden_root), engine, tmp_path / "r", gpus=2)
    assert info.counts["done"] == 6


def test_tasks_of_srun_share_and_the_last_one_leaves_the_whole(
    shared: Path, golden_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = EngineOptions(str(shared / "golden" / "tiny_llava"), device="cpu", dtype="fp32")
    task, out = VisualCot(golden_root, max_new_tokens=8), tmp_path / "out"
    done: list[int] = []
    for _ in tasks_of_srun(monkeypatch, 2):
        info, tally = evaluate(task, engine, out)
        done.append(tally.finished)
    assert sum(done) == 12 and min(done) > 0
    # Its weights are random: it goes on to the limit of 8 tokens.
    assert info.counts["done"] + info.counts["truncated"] == 12
    assert len(list(out.glob("predictions.slurm5*"))) == 2
    assert evaluate(task, engine, out)[1].finished == 0
    assert [p.name for p in out.glob("predictions*")] == [PREDICTIONS_FILE]
