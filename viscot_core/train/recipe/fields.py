"""What every part of a recipe is made of: fields that know their unit and where their value comes from.

Sources: ``script`` is the reference's ``scripts/v1_5/finetune.sh``, ``readme`` its README, ``paper`` arXiv
2403.16999, ``llava`` the LLaVA-1.5 recipe both build on, ``viscot`` a choice of this project. Where they
disagree the field says which one the shipped recipes take. ``viscot recipes show NAME --explain`` prints it.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue


def field(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    source: str = "viscot",
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    min_length: int | None = None,
    pattern: str | None = None,
) -> Any:
    """A pydantic field that also knows its unit and where its value comes from."""
    extra: dict[str, JsonValue] = {"unit": unit, "source": source}
    return Field(
        default,
        description=doc,
        json_schema_extra=extra,
        ge=ge,
        gt=gt,
        le=le,
        lt=lt,
        min_length=min_length,
        pattern=pattern,
    )


class Strict(BaseModel):
    """Unknown keys are errors and instances are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
