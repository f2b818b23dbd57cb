"""Typed rows of every annotation format that viscot reads; a bad row is reported by file, line, field, value.

Conversations are LLaVA's layout, ``{id|question_id, image, conversations: [{from, value}]}``, or OpenAI's,
``{id, images, messages: [{role, content}]}``.
Metadata rows are the source of Visual CoT's training data; detection and RefCOCO rows are its benchmark's.
Boxes are in pixels of the stored image (``Frame.ORIGINAL``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetPydanticSchema,
    ValidationError,
)
from pydantic_core import core_schema as schema

from viscot_core.boxes.geometry import Box, Frame, Size, Window
from viscot_core.conversation import IMAGE, ROLES, Message, to_disk
from viscot_core.data.rows import RawRow, raw_rows
from viscot_core.errors import DataError

REFCOCO_FOLDER = "coco/train2014"
"""Folder of RefCOCO's images under a data root."""
_FRAGMENT = re.compile(r"#xywh=(\d+),(\d+),(\d+),(\d+)$")
_SUFFIX = re.compile(r"\s*\[\s*" + r"\s*,\s*".join([r"(-?\d+(?:\.\d+)?)"] * 4) + r"\s*\]\s*")


def split_crop(path: str) -> tuple[str, Box | None]:
    """``"a.jpg###[x0, y0, x1, y1]"`` -> ``("a.jpg", Box)``; without a suffix the box is None.

    Negative and fractional pixels are kept (the reference shows the whole image instead). An exact window
    (``exact_window``) is a box too. Raises DataError if the suffix is not four numbers.
    """
    name, mark, suffix = path.partition("###")
    if not mark:
        if (window := exact_window(path)) is None:
            return path, None
        x0, y0, x1, y1 = map(float, window)
        return path.rpartition("#")[0], Box(x0, y0, x1, y1, Frame.ORIGINAL)
    if not (match := _SUFFIX.fullmatch(suffix)):
        raise DataError(f"the crop of image '{path}' is not [x0, y0, x1, y1]; correct the text after ###.")
    x0, y0, x1, y1 = (float(number) for number in match.groups())
    return name, Box(x0, y0, x1, y1, Frame.ORIGINAL)


def exact_window(path: str) -> Window | None:
    """``"a.jpg#xywh=10,20,30,40"`` -> the pixels ``(10, 20, 40, 60)`` that are shown, no more and no less.

    A crop of ``###[...]`` is a region, which is shown in the paper's window around it. The notation is the
    W3C's (Media Fragments URI 1.0, 4.2.2). None for any other name.
    """
    # Nearly all names have no mark: one search tells.
    if "#xywh=" not in path or (match := _FRAGMENT.search(path)) is None:
        return None
    x, y, width, height = (int(number) for number in match.groups())
    return (x, y, x + width, y + height)


def _several(value: Any) -> Any:
    """One text, several or none -> a sequence."""
    if value is None or value == "":
        return ()
    return (value,) if isinstance(value, str) else value


def _joined(parts: list[dict[str, Any]]) -> str:
    """OpenAI's list of parts as one text, with ``<image>`` for each image."""
    texts = []
    for part in parts:
        if part.get("type") == "text":
            texts.append(str(part.get("text", "")))
        elif part.get("type") in ("image", "image_url"):
            texts.append(IMAGE)
        else:
            raise ValueError(f"{part.get('type')!r} is no part that viscot reads")
    return "\n".join(texts)


_ROLES = {
    **ROLES,
    **{role: role for role in ("user", "assistant", "system", "tool")},
    # LLaMA-Factory's names (its data/README.md, sharegpt format).
    "observation": "tool",
    "function_call": "assistant",
}
_Paths = Annotated[tuple[str, ...], BeforeValidator(_several)]
_Steps = _Paths
# Written by hand: pydantic then validates straight into ``conversation``'s plain dataclass, under the names
# on disk, and ``conversation`` itself needs no pydantic.
_Turn = Annotated[
    # From {"from", "value"} or {"role", "content"}; an answer may be a number (the reference raises).
    Message,
    GetPydanticSchema(
        lambda _type, _handler: schema.dataclass_schema(
            Message,
            schema.dataclass_args_schema(
                "Turn",
                [
                    schema.dataclass_field(
                        "role",
                        schema.no_info_after_validator_function(
                            _ROLES.__getitem__, schema.literal_schema(list(_ROLES))
                        ),
                        validation_alias=[["from"], ["role"]],
                    ),
                    schema.dataclass_field(
                        "text",
                        # Text first: nearly every row is checked without calling Python.
                        schema.union_schema(
                            [
                                schema.str_schema(coerce_numbers_to_str=True),
                                schema.no_info_after_validator_function(
                                    _joined, schema.list_schema(schema.dict_schema())
                                ),
                            ],
                            mode="left_to_right",
                            custom_error_type="text",
                            custom_error_message="Input should be a text (or a list of text and image parts)",
                        ),
                        validation_alias=[["value"], ["content"]],
                    ),
                    schema.dataclass_field(
                        "learned",
                        # ms-swift's name of the field; null is its word for "as usual".
                        schema.with_default_schema(
                            schema.no_info_after_validator_function(
                                lambda value: value is not False, schema.nullable_schema(schema.bool_schema())
                            ),
                            default=True,
                        ),
                        validation_alias="loss",
                    ),
                ],
            ),
            ["role", "text", "learned"],
            frozen=True,
            slots=True,
        )
    ),
]
_Pixels = tuple[float, float, float, float]
_Side = Annotated[int, Field(gt=0)]


class Row(BaseModel):
    """Base of all rows: frozen, unknown keys ignored, numbers finite, numbers accepted as text."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, coerce_numbers_to_str=True)


class Conversation(Row):
    """One training or benchmark sample: ``image`` paths (with ``###[...]`` crops) and the conversation."""

    id: int | str | None = Field(None, validation_alias=AliasChoices("id", "question_id"))
    image: _Paths = Field((), validation_alias=AliasChoices("image", "images"))
    turns: tuple[_Turn, ...] = Field(
        min_length=1, validation_alias=AliasChoices("conversations", "turns", "messages")
    )
    dataset: str | None = None
    split: str | None = None

    def views(self) -> list[tuple[str, Box | None]]:
        """Path and crop (ORIGINAL pixels, None: the whole image) of each image, in order."""
        return [split_crop(path) for path in self.image]

    def to_disk(self) -> dict[str, Any]:
        """The row in LLaVA's layout, keys in the order of the reference's converter."""
        row: dict[str, Any] = {"dataset": self.dataset, "split": self.split, "question_id": self.id}
        row = {key: value for key, value in row.items() if value is not None}
        if self.image:
            row["image"] = list(self.image) if len(self.image) > 1 else self.image[0]
        row["conversations"] = to_disk(self.turns)
        return row


class MetadataRow(Row):
    """A source row of Visual CoT: a question, its answer and the regions (pixels) that show the evidence."""

    question: str
    answer: str
    image: str
    width: _Side
    height: _Side
    bboxs: tuple[_Pixels, ...] = Field(min_length=1)
    dataset: str
    split: str
    reasoning: _Steps = Field(
        (), validation_alias=AliasChoices("reasoning", "reasoning_steps", "thoughts", "thought")
    )
    """The steps of the 98 k detailed rows. Their key is not documented, so likely names are accepted."""

    @property
    def size(self) -> Size:
        return self.width, self.height

    @property
    def box(self) -> Box:
        """The smallest box around all regions, as the reference joins them: corner by corner."""
        x0, y0, x1, y1 = zip(*self.bboxs, strict=True)
        return Box(min(x0), min(y0), max(x1), max(y1), Frame.ORIGINAL)


class DetectionRow(Row):
    """A benchmark item as a detection: ``expression`` is the question, ``bbox`` the region in pixels."""

    img_path: str
    expression: str
    bbox: _Pixels
    width: _Side
    height: _Side
    question_id: int | str | None = None
    split: str | None = None

    @property
    def image(self) -> str:
        """The image's path under the data root."""
        return self.img_path

    @property
    def size(self) -> Size:
        return self.width, self.height

    @property
    def box(self) -> Box:
        return Box(*self.bbox, frame=Frame.ORIGINAL)


class RefcocoRow(DetectionRow):
    """A RefCOCO expression; ``sent_id`` names it within its split."""

    dataset_name: str
    image_id: int
    sent_id: int

    @property
    def image(self) -> str:
        """The path under the data root; published rows have only the file name."""
        return self.img_path if "/" in self.img_path else f"{REFCOCO_FOLDER}/{self.img_path}"


R = TypeVar("R", bound=Row)


class Rows(Generic[R]):
    """Iterates the typed rows of a JSON list or JSONL file with one block in memory.

    Up to ``skip_bad`` bad rows are skipped, with one sentence each in ``bad``. One more raises DataError with
    file, line, field and value. None: every bad row raises, and the message does not offer --skip-bad.
    """

    def __init__(self, path: Path | str, kind: type[R], skip_bad: int | None = None) -> None:
        self.path, self.kind, self.skip_bad = Path(path), kind, skip_bad
        self.bad: list[str] = []

    def __iter__(self) -> Iterator[R]:
        self.bad = []
        for raw in raw_rows(self.path):
            row = self.parse(raw)
            if row is not None:
                yield row

    def parse(self, raw: RawRow) -> R | None:
        """The typed row, or None for a bad one that ``skip_bad`` still allows."""
        try:
            return self.kind.model_validate_json(raw.data)
        except ValidationError as error:
            problem = f"{self.path}:{raw.line}: {describe(error)}"
        self.bad.append(problem)
        if self.skip_bad is None:
            raise DataError(f"{problem}; correct the row.")
        if len(self.bad) > self.skip_bad:
            raise DataError(f"{problem}; correct the row, or pass --skip-bad {len(self.bad)} to skip it.")
        return None


def describe(error: ValidationError) -> str:
    """The first fault of a row as a sentence: field, what is wrong, value."""
    fault = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in fault["loc"])
    # pydantic writes this prefix before the words of a ValueError that a validator raised.
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "json_invalid":
        return f"the row is not valid JSON ({message})"
    if fault["type"] == "missing":
        return f"field '{field}' is missing"
    value = repr(fault["input"])
    return f"field '{field}': {message} (found {value if len(value) <= 80 else value[:80] + '...'})"
