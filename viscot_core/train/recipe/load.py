"""Recipes: from a name or a YAML file, plus ``--set`` overrides, to one validated `Recipe`.

    recipe = load_recipe("7b-336", ["stages.finetune.learning_rate=1e-5"])

All faults are reported at once, each with its dotted path, its value and the fix.
"""

from __future__ import annotations

import copy
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from viscot_core import resources
from viscot_core.errors import RecipeError, UsageError, nearest
from viscot_core.train.recipe.checks import contradictions
from viscot_core.train.recipe.schema import Recipe
from viscot_core.yaml_text import load_yaml

Location = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """YAML 1.2 floats: ``1e-3`` is a number, not a word; a key given twice is an error, not the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.YAMLError(f"line {key_node.start_mark.line + 1}: '{key}' is given twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a shipped recipe by name or a file by path and applies ``a.b=c`` overrides.

    Stages are addressed by kind: ``stages.finetune.learning_rate=1e-5``. `RecipeError` tells every problem.
    """
    path = recipe_path(name_or_path)
    try:
        raw = load_yaml(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not readable YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(raw, dict):
        raise RecipeError(f"{path} holds no recipe: it must be a mapping with name, model and stages.")
    problems = _override(raw, overrides)
    return validate(raw, str(path), problems)


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every default written out; `load_recipe` reads back the same."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, width=110)


def recipe_path(name_or_path: str | Path) -> Path:
    """The file behind a shipped name or a path; `UsageError` naming the nearest recipes."""
    path = Path(name_or_path)
    if path.is_file():
        return path
    shipped = resources.recipes()
    if str(name_or_path) in shipped:
        return shipped[str(name_or_path)]
    hint = nearest(str(name_or_path), shipped) or " `viscot recipes list` names those there are."
    raise UsageError(f"No recipe '{name_or_path}'.{hint}")


def validate(raw: Mapping[str, Any], where: str = "The recipe", problems: Iterable[str] = ()) -> Recipe:
    """A `Recipe` from plain data, or `RecipeError` with all its problems.

    A faulty entry is removed (a required one gets a stand-in) and the rest is validated again, so that a typo
    does not hide a contradiction elsewhere.
    """
    data, found = copy.deepcopy(dict(raw)), list(problems)
    removed: list[Location] = []
    while True:
        try:
            recipe = Recipe.model_validate(data)
        except ValidationError as error:
            details = _innermost(error.errors(include_url=False))
            found += [_describe(d, data) for d in details if not _follows(d["loc"], removed)]
            for detail in reversed(details):  # from the back: positions in lists stay true
                removed.append(detail["loc"])
                if not _remove(data, detail):
                    raise RecipeError(_headline(where, found), list(dict.fromkeys(found))) from None
        else:
            found += contradictions(recipe)
            break
    if found:
        raise RecipeError(_headline(where, found), list(dict.fromkeys(found)))
    return recipe


def _headline(where: str, found: Sequence[str]) -> str:
    return f"{where} has {len(found)} problems:" if len(found) > 1 else f"{where} has a problem:"


def _innermost(details: list[ErrorDetails]) -> list[ErrorDetails]:
    """Without the faults that only follow from a fault further in (a list left empty by its bad entries)."""
    return [d for d in details if not _follows(d["loc"], [o["loc"] for o in details if o["loc"] != d["loc"]])]


def _follows(place: Location, faults: Sequence[Location]) -> bool:
    """Whether one of ``faults`` lies at ``place`` or inside it."""
    return any(fault[: len(place)] == place for fault in faults)


def _override(raw: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    problems = []
    for text in overrides:
        path, sign, value = text.partition("=")
        if not sign or not path.strip():
            problems.append(f"--set {text}: not of the form a.b=value")
            continue
        try:
            _set(raw, path.strip().split("."), load_yaml(value, _Loader))
        except (KeyError, yaml.YAMLError) as error:
            problems.append(f"--set {text}: {' '.join(str(error.args[0] if error.args else error).split())}")
    return problems


def _set(raw: dict[str, Any], keys: list[str], value: Any) -> None:
    node: Any = raw
    for position, key in enumerate(keys):
        last = position == len(keys) - 1
        if isinstance(node, list):
            index = _stage_index(node, key)
            if last:
                node[index] = value
            node = node[index]
        elif isinstance(node, dict):
            if last:
                node[key] = value
            elif node.get(key) is None:
                node[key] = {}
            node = node[key]
        else:
            raise KeyError(f"{'.'.join(keys[:position])} is a value and has no '{key}' inside")


def _stage_index(stages: list[Any], key: str) -> int:
    kinds = [str(s.get("kind")) if isinstance(s, dict) else "" for s in stages]
    if key in kinds:
        return kinds.index(key)
    if key.isdigit() and int(key) < len(stages):
        return int(key)
    raise KeyError(f"there is no '{key}' among {', '.join(kinds)}.{nearest(key, kinds)}")


def _dotted(location: Location, data: Any) -> str:
    """``("stages", 1, "epochs")`` as ``stages.finetune.epochs``."""
    names: list[str] = []
    node = data
    for key in location:
        child = _child(node, key)
        kind = child.get("kind") if isinstance(child, dict) and isinstance(key, int) else None
        names.append(str(kind or key))
        node = child
    return ".".join(names)


def _child(node: Any, key: str | int) -> Any:
    if isinstance(node, dict):
        return node.get(key)
    if isinstance(node, list) and isinstance(key, int) and key < len(node):
        return node[key]
    return None


def _describe(detail: ErrorDetails, data: dict[str, Any]) -> str:
    location = detail["loc"]
    path = _dotted(location, data)
    if detail["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        return (
            f"{path}: {detail['input']!r} - unknown key.{nearest(str(location[-1]), known) or ' Remove it.'}"
        )
    if detail["type"] == "missing":
        field = _field_at(location)
        return f"{path}: missing - give it: {field.description if field else 'it has no default'}"
    if detail["type"] == "string_pattern_mismatch":
        field = _field_at(location)
        return f"{path}: {detail['input']!r} - {field.description if field else 'use other characters'}."
    if detail["type"] == "tuple_type":  # pydantic's word for a list that becomes immutable
        return f"{path}: {detail['input']!r} - give a list."
    message = detail["msg"][0].lower() + detail["msg"][1:]
    expected = str((detail.get("ctx") or {}).get("expected", ""))
    hint = nearest(str(detail["input"]), re.findall(r"'([^']+)'", expected))
    return f"{path}: {detail['input']!r} - {message}.{hint}"


def _remove(data: dict[str, Any], detail: ErrorDetails) -> bool:
    """Takes the faulty entry out of ``data``, or gives a missing one; false where neither can be done."""
    node: Any = data
    for key in detail["loc"][:-1]:
        if isinstance(_child(node, key), dict | list):
            node = _child(node, key)
        else:  # a union's branch is named in the location and not in the data
            continue
    last = detail["loc"][-1] if detail["loc"] else None
    if detail["type"] == "missing":
        stand_in = _STAND_INS.get(str(last))
        if stand_in is None or not isinstance(node, dict):
            return False
        node[last] = stand_in(node)
        return True
    if isinstance(node, dict) and last in node:
        del node[last]
        return True
    if isinstance(node, list) and isinstance(last, int) and last < len(node):
        del node[last]
        return True
    return False


def _divisible(stage: dict[str, Any]) -> int:
    batch = stage.get("per_device_batch_size")
    return batch if isinstance(batch, int) and batch > 0 else 1


_STAND_INS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "name": lambda _: "unnamed",
    "learning_rate": lambda _: 1e-4,
    "global_batch_size": _divisible,
    "train": lambda stage: (
        ["projector", "llm"] if stage.get("lora") else ["vision_tower", "projector", "llm"]
    ),
}
"""Values that contradict nothing, for required entries that are missing or faulty (which is said by then)."""


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType, tuple, list):
        return [model for arg in get_args(annotation) for model in _models_in(arg)]
    return []


def _model_at(location: Location) -> type[BaseModel] | None:
    model: type[BaseModel] | None = Recipe
    for key in location:
        if isinstance(key, int):
            continue
        field = model.model_fields.get(key) if model else None
        inside = _models_in(field.annotation) if field else []
        model = inside[0] if inside else None
    return model


def _known_keys(location: Location) -> list[str]:
    model = _model_at(location)
    return list(model.model_fields) if model else []


def _field_at(location: Location) -> Any:
    model = _model_at(location[:-1])
    return model.model_fields.get(str(location[-1])) if model else None
