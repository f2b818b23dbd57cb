"""Every field of a recipe with its meaning: ``viscot recipes show NAME --explain``."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from viscot_core.train.recipe.schema import Recipe, StageSpec


def explained(recipe: Recipe) -> list[list[str]]:
    """Every field of ``recipe``: dotted path, value, unit, default, meaning, source."""
    return _explained(recipe, "")


def _explained(model: BaseModel, path: str) -> list[list[str]]:
    rows: list[list[str]] = []
    for name, field in type(model).model_fields.items():
        value, where = getattr(model, name), f"{path}{name}"
        if isinstance(value, BaseModel):
            rows += _explained(value, f"{where}.")
        elif isinstance(value, tuple) and value and isinstance(value[0], StageSpec):
            for stage in value:
                rows += _explained(stage, f"{where}.{stage.kind}.")
        else:
            extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
            default = "required" if field.is_required() else _plain(field.default)
            unit, source = str(extra.get("unit", "")), str(extra.get("source", ""))
            rows.append([where, _plain(value), unit, default, field.description or "", source])
    return rows


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
