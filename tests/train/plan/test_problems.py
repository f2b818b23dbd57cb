"""What would stop a run is found before it starts, once, and told alike everywhere."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from viscot_core.train.plan.problems import lack_of_room


def test_no_room_is_told_at_second_0(tmp_path: Path) -> None:
    assert not [*lack_of_room(tmp_path / "new" / "deep", 0.0)]
    (told,) = lack_of_room(tmp_path / "new", 1e9)
    assert "GiB free and the run needs about 1e+09" in told
    (tmp_path / "run").mkdir()
    with (tmp_path / "run/held").open("wb") as file:
        file.truncate(2**32)
    os.link(tmp_path / "run/held", tmp_path / "run/again")  # a second name of it takes no room
    free = shutil.disk_usage(tmp_path).free / 2**30
    assert not [*lack_of_room(tmp_path / "run", free + 3)]
    assert "GiB free" in next(lack_of_room(tmp_path / "run", free + 6))
    assert "is a file" in next(lack_of_room(tmp_path / "run/held", 0.0))
