"""Two network namespaces stand for two machines: one job, joined by rendezvous."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from viscot_core.data.synth import write_dataset
from viscot_core.train.recipe.load import dump_recipe, load_recipe

pytestmark = pytest.mark.multiprocess
SHAPE = [
    "model.scratch.image_side=56", "model.scratch.vision_width=24", "model.scratch.vision_layers=2",
    "model.scratch.vision_heads=2", "model.scratch.vision_mlp=48", "model.scratch.llm_width=24",
    "model.scratch.llm_layers=2", "model.scratch.llm_heads=2", "model.scratch.llm_mlp=48",
]  # fmt: skip


def ip(*words: str) -> bool:
    """Whether ``ip WORDS`` worked."""
    return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0


@pytest.fixture
def machines() -> Iterator[list[tuple[str, str, str]]]:
    """(namespace, interface, address) of two machines with a cable between them."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("needs ip and root")
    tag = f"v{os.getpid() % 10000}"
    found = [(f"{tag}a", f"{tag}e0", "10.213.7.1"), (f"{tag}b", f"{tag}e1", "10.213.7.2")]
    try:
        made = all(ip("netns", "add", name) for name, *_ in found)
        made = made and ip("link", "add", found[0][1], "type", "veth", "peer", "name", found[1][1])
        for name, interface, address in found:
            made = made and ip("link", "set", interface, "netns", name)
            made = made and ip("-n", name, "addr", "add", f"{address}/24", "dev", interface)
            made = made and ip("-n", name, "link", "set", interface, "up")
            made = made and ip("-n", name, "link", "set", "lo", "up")
        if not made:
            pytest.skip("this machine makes no network namespaces")
        yield found
    finally:
        for name, *_ in found:
            ip("netns", "del", name)


@pytest.mark.slow
def test_two_machines_train_one_job(machines: list[tuple[str, str, str]], tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_dataset(data, train=12, val=1, seed=9)
    fields = {"max_steps": 3, "global_batch_size": 4, "log_steps": 1, "workers": 0, "compile": "false"}
    fields |= {"precision": "fp32", "save_steps": 3}
    sets = [f"stages.pretrain.{name}={value}" for name, value in fields.items()]
    recipe = tmp_path / "small.yaml"
    recipe.write_text(dump_recipe(load_recipe("tiny", [*sets, "report_to=[]", *SHAPE])))
    run, head = tmp_path / "run", machines[0][2]
    children = []
    for number, (name, interface, address) in enumerate(machines):
        argv = ["ip", "netns", "exec", name, sys.executable, "-m", "viscot_cli.app", "pretrain"]
        argv += [
            "--recipe",
            str(recipe),
            "--data",
            str(data),
            "--out",
            str(run),
            "--nnodes",
            "2",
            "--gpus",
            "0",
        ]
        argv += ["--rdzv", f"{head}:29511", "--rdzv-conf", f"is_host={1 - number}"]
        argv += ["--node-rank", str(number), "--local-addr", address]
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": interface, "OMP_NUM_THREADS": "1"}
        log = (tmp_path / f"{number}.log").open("wb")
        children.append(subprocess.Popen(argv, env=environment, stdout=log, stderr=log))
    codes = [child.wait(timeout=560) for child in children]
    assert codes == [0, 0], (tmp_path / "0.log").read_text()[-2000:] + (tmp_path / "1.log").read_text()[
        -2000:
    ]
    lines = map(json.loads, (run / "stages/1-pretrain/log.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]
    complete = json.loads((run / "stages/1-pretrain/checkpoint-3/complete.json").read_text())
    assert complete["processes"] == 2
    assert (run / "viscot.json").exists() and (run / "projector.safetensors").exists()


@pytest.mark.slow
def test_the_log_of_the_failing_rank_is_shown_first(tmp_path: Path) -> None:
    data = tmp_path / "my data"
    write_dataset(data, train=8, val=1, seed=9)
    for image in data.glob("cot/synth/train/*.jpg"):
        image.write_bytes(b"no image")
    fields = {"max_steps": 2, "global_batch_size": 4, "workers": 0, "packing": "true", "precision": "fp32"}
    sets = [f"stages.pretrain.{name}={value}" for name, value in fields.items()]
    recipe = tmp_path / "small.yaml"
    recipe.write_text(dump_recipe(load_recipe("tiny", [*sets, "report_to=[]", "data.preflight=0", *SHAPE])))
    argv = [sys.executable, "-m", "viscot_cli.app", "pretrain", "--recipe", str(recipe), "--data", str(data)]
    argv += ["--out", str(tmp_path / "a run"), "--gpus", "0", "--processes", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    told = done.stderr[done.stderr.rindex("Error: Rank") :]
    assert "failed and all ranks were stopped" in told.splitlines()[0]
    assert "DataError" in told and "rows cannot be learned from" in told
    assert "The whole log: " in told and "a run/logs" in told
