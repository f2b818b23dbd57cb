"""The training process: ``python -m viscot_core.train.worker --run RUN_DIR [--stage KIND]``.

Reads ``RUN_DIR/recipe.yaml`` (resolved; ``data.root`` set) and runs its stages in order, or one of them. A
finished stage leaves its model in ``RUN_DIR/stages/N-KIND/model``; the last one also in ``RUN_DIR``, which is
then a checkpoint like any other. Started again, it skips finished stages and resumes the next one from its
last complete checkpoint. Under torchrun every rank runs this file.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from viscot_core.errors import PartlyDone, UsageError
from viscot_core.files import link_or_copy
from viscot_core.processes import die_with_parent
from viscot_core.terminal import StderrHandler, VisibleFormatter
from viscot_core.train import ranks
from viscot_core.train.job import stopping
from viscot_core.train.loop.preflight import check_rows
from viscot_core.train.loop.stage import run_stage
from viscot_core.train.recipe.load import load_recipe
from viscot_core.train.recipe.schema import Recipe
from viscot_core.train.state import checkpoints, run_folder
from viscot_core.train.state.initial import Run, load, open_run
from viscot_core.train.state.saving import load_weights

log = logging.getLogger(__name__)


def run(folder: Path, recipe: Recipe, only: str | None = None) -> Path:
    """Run every unfinished stage, or ``only`` the one of that kind; returns ``folder``.

    SIGTERM saves and raises `PartlyDone`.
    """
    with stopping.listening():
        return _run(folder, recipe, only)


def _run(folder: Path, recipe: Recipe, only: str | None) -> Path:
    wanted = [stage for stage in recipe.stages if only in (None, stage.kind)]
    if not wanted:
        raise UsageError(
            f"The recipe has no stage '{only}'; it has {', '.join(s.kind for s in recipe.stages)}."
        )
    state = open_run(folder, recipe)
    places = run_folder.stage_folders(folder, recipe)
    for stage, out in zip(recipe.stages, places, strict=True):
        if not run_folder.has_model(out):  # the rows of all stages now, not after hours of the first
            check_rows(state, stage, out)
    load(state, wanted[0])
    for stage, out in zip(recipe.stages, places, strict=True):
        if run_folder.has_model(out):
            log.info("stage %s is finished already", out.name)
            if out != places[-1]:  # a later stage starts from its weights
                load_weights(state.training, state.model, out / "model")
        elif stage in wanted:
            run_stage(state, stage, out)
        else:
            # An unfinished stage that was not asked for: later stages would start from its weights.
            break
    else:
        # Reached only without a break: every stage is finished.
        _finish(folder, state)
    return folder


def _finish(folder: Path, state: Run) -> None:
    """The run folder becomes the checkpoint of its last stage."""
    if ranks.rank() == 0:
        model = run_folder.stage_folders(folder, state.recipe)[-1] / "model"
        files = [path for path in model.rglob("*") if path.is_file()]
        with checkpoints.naming_a_full_disk(folder):
            for path in sorted(files, key=lambda p: p.name == "viscot.json"):  # the manifest last
                link_or_copy(path, folder / path.relative_to(model))
    ranks.wait()


def main() -> None:
    """The process that torchrun starts on every rank; its error is recorded in the rank's ``error.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", "--run-folder", type=Path, required=True, help="run folder with recipe.yaml")
    parser.add_argument("--stage", help="only the stage of this kind")
    given = parser.parse_args()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent()  # not when started by hand: then it may outlive its shell
    ranks.join()
    level = logging.INFO if ranks.rank() == 0 else logging.WARNING
    handler = StderrHandler()
    handler.setFormatter(VisibleFormatter("%(asctime)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    try:
        run(given.run, load_recipe(given.run / "recipe.yaml"), given.stage)
    except PartlyDone as stopped:
        log.warning("%s", stopped)
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            sys.exit(stopped.exit_code)
        # torchrun would take another code for a crash; `launch` sees that the stage has no model.
    ranks.leave()


if __name__ == "__main__":
    from torch.distributed.elastic.multiprocessing.errors import record

    record(main)()
