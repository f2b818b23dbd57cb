"""A checkpoint of DeepSpeed is read without running what it holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from viscot_core.errors import CheckpointError
from viscot_core.train.state.zero import require_no_code


class Code:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> Any:
        return (os.mknod, (str(self._file),))


def checkpoint_of(folder: Path, tag: str, **content: Any) -> Path:
    (folder / tag).mkdir(parents=True)
    (folder / "latest").write_text(tag)
    torch.save({"module": torch.zeros(3), **content}, folder / tag / "mp_rank_00_model_states.pt")
    return folder


@pytest.fixture(scope="module", autouse=True)
def on_a_cpu() -> None:
    from viscot_core.train.state.zero import prepare_cpu

    prepare_cpu()


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    hostile = checkpoint_of(tmp_path / "checkpoint-3", "global_step3", lr_scheduler=Code(touched))
    with pytest.raises(CheckpointError, match=r"mp_rank_00_model_states\.pt holds code .*mknod.* refused"):
        require_no_code(hostile)
    assert not touched.exists()


def test_what_deepspeed_writes_is_read(tmp_path: Path) -> None:
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum

    scaler = DynamicLossScaler(2**16, 1000, 1.0, 1, False)
    state = {"loss_scaler": LossScaler(1.0), "dynamic": scaler, "zero_stage": ZeroStageEnum(3)}
    require_no_code(checkpoint_of(tmp_path / "checkpoint-3", "global_step3", **state))


@pytest.mark.parametrize("tag", ["../elsewhere", "/tmp/elsewhere", "", "global_step3/../../x"])
def test_the_folder_that_deepspeed_reads_lies_in_the_checkpoint(tag: str, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path / "checkpoint-3", "global_step3")
    (checkpoint / "latest").write_text(tag)
    with pytest.raises(CheckpointError, match="latest does not name a folder"):
        require_no_code(checkpoint)
