"""What a run folder holds: ``run.json``, what was asked and how; ``predictions.jsonl``, each finished item.

``score`` and ``report`` read runs through ``read_run`` and ``read_predictions`` and need nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from viscot_core.addresses import without_password
from viscot_core.errors import DataError, UsageError
from viscot_core.files import atomic_write

RUN_FILE = "run.json"
PREDICTIONS_FILE = "predictions.jsonl"
PARTS = "predictions.*.jsonl"
"""What the ranks of a sharded run write, one each, until they are joined into the one file."""

Key = tuple[str, str, str]
"""(strategy, data set, question id as text): what names one line of a run."""

Coords = tuple[float, float, float, float]


ITEM_FACTS = ("benchmark", "options", "order", "category", "cycle", "repeat", "evidence")
"""Fields of a line that say something of the item, whatever was answered."""
OPTIONAL = (
    "tokens", "prompt_tokens", "calls", "thoughts", "boxes", "looks", "box_probability", "answer_probability",
    "trace", "seen",
    "evidence_iou", *ITEM_FACTS,
)  # fmt: skip
"""Fields of a line that are left out where there is nothing to say."""


class Prediction(BaseModel):
    """One finished item. Boxes are 0..1 of the padded square, ``crop`` is pixels of the stored image."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    strategy: str
    dataset: str
    question_id: int | str
    status: Literal["done", "truncated", "failed"]
    """``truncated``: answered, but the token limit cut a turn; what there is of the answer is judged."""
    error: str | None = None
    image: str
    width: int
    height: int
    question: str
    reference: str | None = None
    answer: str | None = None
    box_text: str | None = None
    box_status: Literal["ok", "repaired", "unparsable"] | None = None
    box: Coords | None = None
    box_gt: Coords | None = None
    crop: tuple[int, int, int, int] | None = None
    iou: float | None = None
    seconds: float = 0.0
    tokens: int | None = None
    prompt_tokens: int | None = None
    calls: int | None = None
    """What the answer cost: new tokens, tokens of the prompts (images among them), calls of the model."""
    thoughts: tuple[str, ...] | None = None
    """A reasoning model's thoughts, one for each turn; they are no part of ``box_text`` and ``answer``."""
    boxes: int | None = None
    """How many different boxes the reply named, where these were several; ``box`` is the first."""
    looks: tuple[dict[str, Any], ...] | None = None
    """All boxes that were looked at, where a reply named several: ``box`` and ``crop`` of each, in order."""
    box_probability: float | None = None
    answer_probability: float | None = None
    """How sure the model was of the words of the box and of the answer, 0..1, where the engine tells: the
    geometric mean of their tokens' probabilities."""
    trace: dict[str, Any] | None = None
    """The whole talk of a strategy that may look often (a row of ``data.traces``); ``box`` and ``crop`` are
    its last look."""
    seen: tuple[int, int] | None = None
    """Width and height in which the model saw the image, where it reads images of any size."""

    benchmark: str | None = None
    """The name of the benchmark (``tasks.benchmarks``), which says how an answer is read."""
    options: tuple[str, ...] | None = None
    """The options of a multiple choice, in the order in which they were asked: the first is A."""
    order: tuple[int, ...] | None = None
    """Their places in the benchmark's own file."""
    category: str | None = None
    cycle: str | None = None
    """The rotation of the options, where the benchmark asks each question in all of them."""
    repeat: int | None = None
    """The number of the repeat, from 1, where questions were asked several times."""
    evidence: tuple[Coords, ...] | None = None
    """All annotated regions, where a benchmark has them; ``box_gt`` is there only if it is a single one."""
    evidence_iou: float | None = None
    """The mean over these regions of the best IoU with any region that was looked at."""

    @property
    def key(self) -> Key:
        return (self.strategy, self.dataset, str(self.question_id))

    @property
    def done(self) -> bool:
        """Whether it needs no more work: the same limit would cut a truncated answer again."""
        return self.status != "failed"

    def to_line(self) -> bytes:
        """The line of ``predictions.jsonl``, newline included."""
        row = self.model_dump()
        for name in OPTIONAL:
            if row[name] is None:  # few models have any: absent is none
                del row[name]
        return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


Planned = dict[str, dict[str, int]]
"""How many items each strategy has in each data set: the N of every "n of N"."""


SERVER = "server"
"""The key of a run's environment under which servers' versions stand."""


class RunInfo(BaseModel):
    """``run.json``. ``settings`` is everything that can change an answer; the rest informs."""

    model_config = ConfigDict(extra="ignore")

    format: Literal[1] = 1
    kind: str = "cot"
    """Which task was asked (``tasks/registry.py``); ``general`` are the tasks of lmms-eval."""
    model: str = ""
    data: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    hashes: dict[str, str] = Field(default_factory=dict)
    """Of each data set's annotation files; a data set may be added but never change."""
    planned: Planned = Field(default_factory=dict)
    missing: dict[str, int] = Field(default_factory=dict)
    """Items left out by --skip-missing, by data set; they are part of ``planned``."""
    warnings: list[str] = Field(default_factory=list)
    pending: dict[str, int] = Field(default_factory=dict)
    """Why items are still open (server errors, budget), with counts, as of the last run."""
    counts: dict[str, int] = Field(default_factory=dict)
    """``done``, ``failed``, ``missing``, ``pending`` items as of the last run; ``truncated`` if any is."""
    figures: dict[str, dict[str, dict[str, float]]] = Field(default_factory=dict)
    """What another library says of whole tasks: strategy -> task -> metric, in the library's own units."""
    seconds: float = 0.0
    """Wall time of all sessions together."""
    environment: dict[str, str] = Field(default_factory=dict)
    created: str = ""

    @field_validator("model")
    @classmethod
    def _public_model(cls, model: str) -> str:
        return without_password(model)

    @field_validator("settings")
    @classmethod
    def _public_settings(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Folders of earlier versions kept an address as it was given, with the password or key in it."""
        engine = settings.get("engine")
        if not isinstance(engine, dict) or not isinstance(engine.get("url"), str):
            return settings
        return {**settings, "engine": {**engine, "url": without_password(engine["url"])}}

    def save(self, folder: Path) -> None:
        """Write ``folder/run.json`` atomically."""
        with atomic_write(folder / RUN_FILE) as file:
            file.write(json.dumps(self.model_dump(), indent=1, ensure_ascii=False) + "\n")


def read_run(folder: Path | str) -> RunInfo:
    """The ``run.json`` of a run folder.

    Raises:
        UsageError: the folder is not a run folder.
        DataError: the file is damaged.
    """
    path = Path(folder) / RUN_FILE
    if not path.is_file():
        raise UsageError(
            f"{folder} is not a run folder (it has no {RUN_FILE}); give the --out of a 'viscot bench'."
        )
    try:
        return RunInfo.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(
            f"{path} is damaged ({_fault(error)}); run the same 'viscot bench' into a new folder."
        ) from error


def read_predictions(folder: Path | str) -> list[Prediction]:
    """Every finished item in order of first finish; a later line of the same key replaces the earlier.

    But no failure replaces an answer: the files of several ranks are not in order of time.
    A last line without its newline is a write in progress, or was cut short: it is skipped.

    Raises:
        UsageError: the folder holds no predictions.
        DataError: a complete line is damaged; names file and line.
    """
    path = Path(folder) / PREDICTIONS_FILE
    files = [*([path] if path.is_file() else []), *sorted(Path(folder).glob(PARTS))]
    if not files:
        raise UsageError(f"{folder} has no {PREDICTIONS_FILE}; give the --out of a 'viscot bench'.")
    found: dict[Key, Prediction] = {}
    for file in files:
        for prediction in _lines(file):
            before = found.get(prediction.key)
            if prediction.done or before is None or not before.done:
                found[prediction.key] = prediction
    return list(found.values())


def _lines(path: Path) -> Iterator[Prediction]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield Prediction.model_validate_json(line)
            except ValidationError as error:
                raise DataError(
                    f"{path}:{number}: {_fault(error)}; delete the line and run 'viscot bench' again."
                ) from error


def _fault(error: ValidationError) -> str:
    """The first of what pydantic found, with its place."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else str(first["msg"])
